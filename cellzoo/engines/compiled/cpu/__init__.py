"""Compiled steps on the CPU: a shared library for each step, in one loop over time."""
