"""What a device does in a step: how many kernels, and for how long, by torch's profiler.

The profiler slows the host down and not the device, so that kernels' own durations hold while a step's does not: a
step's seconds come from elsewhere (`bench.instruments.timing`). Busy seconds over a step's seconds say whether the
device was kept waiting by the host that launches its kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.instruments.steps import Steps

WARM_STEPS = 3
STEPS = 8
"""Profiled in one go; what is found is divided by it."""
ON_DEVICE = "CUDA"
COUNTED_STEPS = 200
"""Fewest steps for energy, which drivers count in steps of 20 to 100 ms."""
COUNTED_SECONDS = 2.0

Joules = Callable[[], float | None]


@dataclass(frozen=True)
class Launches:
    """What one step makes the device do."""

    kernels: float
    """Kernels and copies."""
    busy_seconds: float
    """Time in which at least one of them ran."""


def launches(steps: Steps) -> Launches:
    """Profiles some steps on CUDA, after a few others."""
    steps.run(WARM_STEPS)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        steps.run(STEPS)
        torch.cuda.synchronize()
    steps.reset()
    return summed(profiler.events() or [], STEPS)


def summed(events: Iterable[Any], steps: int) -> Launches:
    """Counts the profiler's events that ran on a device, and measures the union of their spans (in microseconds)."""
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in events
        if event.device_type.name == ON_DEVICE and not getattr(event, "is_user_annotation", False)
    )
    busy, until = 0.0, float("-inf")
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return Launches(len(spans) / steps, busy * 1e-6 / steps)


def energy_per_step(
    steps: Steps, most: int, clock: Callable[[Callable[[], None]], float], joules: Joules
) -> float | None:
    """Energy of one step over many of them, no more than ``most`` in a row; None where the card does not count it."""
    done, seconds, used = 0, 0.0, 0.0
    while done < COUNTED_STEPS or seconds < COUNTED_SECONDS:
        before = joules()
        seconds += clock(lambda: steps.run(most))
        after = joules()
        steps.reset()
        if before is None or after is None:
            return None
        done, used = done + most, used + after - before
    return used / done
