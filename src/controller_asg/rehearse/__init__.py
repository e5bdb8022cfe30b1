"""A load trace replayed through a policy in virtual time: traces, the world, its figures, and what to compare with."""

METRIC = "cpu_percent"  # the one that a rehearsal knows
