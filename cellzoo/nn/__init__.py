"""Modules for users: sequence layers, their initialisation, and conversions of weights."""
