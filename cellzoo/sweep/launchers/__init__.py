"""Launchers: a sweep's jobs run in processes here, on Slurm, on Ray, or in this process."""
