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
    arms: dict[tuple[object, ...], list[Pairs]] = {}
    for own in pairs:
        if own.arm != AA:
            arms.setdefault((own.phase, own.arm, own.point), []).append(own)
    return all(
        narrow([[own.log_ratio for own in those], [own.mean_log_ratio for own in those]], precision["margin"])
        for those in arms.values()
    )


def narrow(statistics: Sequence[Sequence[float]], margin: float) -> bool:
    """Whether the interval of the medians is narrow enough, and that of the means, if there are any, half as narrow.

    Means spread about twice as far, because they show what medians pass over.
    """
    return all(stats.narrow(values, margin, slack) for values, slack in zip(statistics, (1.0, 2.0), strict=False))
