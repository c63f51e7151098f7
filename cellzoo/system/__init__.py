"""What is asked of the machine: files, locks, threads, signals and ranks."""
