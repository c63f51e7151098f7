"""From a command line to the config of a run."""
