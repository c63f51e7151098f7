"""Many runs: what is asked for (plan), what runs it (launchers), and how it stands (status).

A launcher takes jobs from an iterator, one whenever it has room, and yields their outcomes; the
iterator composes a job only when it is taken. See `launcher`.
"""
