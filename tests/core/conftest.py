"""Tests of the lowest floor: what every engine stands on."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No deadline: the machine may be busy. No database: what a run finds is printed, and nothing is left in the tree.
settings.register_profile(
    "pure", deadline=None, database=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("pure")
