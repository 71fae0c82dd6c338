"""When enough replicates have been measured: only the widths of intervals decide, never a p-value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.records import stats
from bench.records.record import AA, Pairs


def enough(processes: int, pairs: Sequence[Pairs], precision: Mapping[str, Any]) -> bool:
    """Whether so many replicates are enough: every interval is narrow enough, or there may be no more.

    Only widths count. To stop where the answer pleases (a small p-value) is to find differences that are none.
    """
    if processes < precision["processes"]:
        return False
    if processes >= precision.get("most_processes", 0):
        return True
    logs: dict[tuple[object, ...], list[float]] = {}
    for own in pairs:
        if own.arm != AA:
            key = (own.phase, own.arm, own.batch_size, own.prompt_length)
            logs.setdefault(key, []).append(stats.log_ratio(own))
    return all(stats.narrow(values, precision["margin"]) for values in logs.values())
