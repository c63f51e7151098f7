"""Where a sweep's jobs run: processes here, Slurm, Ray, or this process."""
