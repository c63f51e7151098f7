"""Many runs: their plan, the launchers that run them, and their status.

A launcher takes jobs from an iterator, one whenever a slot is free, and yields their outcomes. The
iterator composes a job when it is taken. See `launchers.base`.
"""
