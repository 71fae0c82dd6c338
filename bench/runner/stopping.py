"""The stopping rule: when enough latency replicates have been measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.records import stats
from bench.records.record import AA, Pairs


def should_stop(processes: int, pairs: Sequence[Pairs], precision: Mapping[str, Any]) -> bool:
    """Whether this number of processes is enough: every interval is narrow enough, or no more may be added.

    Only the widths of intervals count. Stopping at a small p-value would find differences that do not exist.
    """
    if processes < precision["processes"]:
        return False
    if processes >= precision.get("max_processes", 0):
        return True
    logs: dict[tuple[object, ...], list[float]] = {}
    for own in pairs:
        if own.arm != AA:
            logs.setdefault((own.phase, own.arm, own.point), []).append(own.log_ratio)
    return all(stats.narrow(values, precision["margin"]) for values in logs.values())
