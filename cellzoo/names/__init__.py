"""Things that are declared and found by name: registries, options, plugins."""
