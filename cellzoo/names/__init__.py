"""Registries, options and plugins: objects that are declared once and found by name."""
