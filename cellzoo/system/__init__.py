"""Services of the operating system: files, locks, threads, signals and ranks."""
