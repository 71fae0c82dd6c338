"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# no test asserts on wall time, and Hypothesis would by default
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
