"""The gate's own error rates: trials whose truth is known, and the rule's verdicts on them. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bench.gate.rule import SAME_MACHINE, Rule, Verdict, confirmed, judge
from bench.records import stats
from bench.records.cell import STRICT

# 1: until November 2026.
# 2: the configuration in the words of schema 2 of records (`bench.config.aliases`).
TRIALS_SCHEMA = 2
ALPHA = 0.05
LEAST_RUNS = 3
"""A run, the one before it as a baseline, and another one as its repeat."""


@dataclass(frozen=True)
class Run:
    """One run of the measurement: every arm in the same processes, beside the same control."""

    __pydantic_config__: ClassVar = STRICT

    log_ratios: Mapping[str, tuple[float, ...]]
    """By arm, a number a process."""
    seconds: float


@dataclass(frozen=True)
class Trials:
    """Runs under one condition."""

    __pydantic_config__: ClassVar = STRICT

    condition: str
    """``quiet``, or ``noisy``: beside a program that copies memory in bursts."""
    slowdowns: Mapping[str, float]
    """The injected slowdown of each arm: 0.05 is five per cent."""
    config: Mapping[str, Any]
    runs: tuple[Run, ...] = ()
    check_seconds: tuple[float, ...] = ()
    """Seconds of a whole check of the configured method: metrics and latency."""
    machine: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    schema_version: int = TRIALS_SCHEMA


@dataclass(frozen=True)
class Rates:
    """The verdicts for one injected slowdown."""

    condition: str
    slowdown: float
    checks: int
    regressed: int
    """After the repeat."""
    regressed_at_first: int
    passed: int
    ambiguous: int
    equivalent: int
    """Of ``arms``: the copy was shown to be the same within the margin (TOST)."""
    arms: int


def rates(trials: Trials, rule: Rule = SAME_MACHINE) -> list[Rates]:
    """Error rates by slowdown. Run i is checked against the unslowed copy of run i - 1 and repeated by run i + 1.

    So each run is a baseline once and is checked once: an unlucky baseline spoils one check, not all of them.
    """
    zero = [arm for arm, slowdown in trials.slowdowns.items() if slowdown == 0]
    found: dict[float, list[tuple[Verdict, Verdict]]] = {}
    same: dict[float, list[bool]] = {}
    for arm, slowdown in trials.slowdowns.items():
        against = arm if arm in zero else zero[0]
        runs = [run for run in trials.runs if arm in run.log_ratios]
        if len(runs) < LEAST_RUNS:
            continue
        index = {id(run): number for number, run in enumerate(trials.runs)}
        for number, run in enumerate(runs):
            before = trials.runs[index[id(run)] - 1]  # of the first, the last
            repeat = runs[(number + 1) % len(runs)]
            baseline = _stopped(before.log_ratios[against], trials.config)
            fresh, again = (_stopped(one.log_ratios[arm], trials.config) for one in (run, repeat))
            first = judge(baseline, fresh, rule)
            last = confirmed(first, judge(baseline, again, rule))
            found.setdefault(slowdown, []).append((first.verdict, last.verdict))
            margin = stats.margin_log(trials.config["precision"]["margin"])
            same.setdefault(slowdown, []).append(stats.mean(fresh).p_within(margin) < ALPHA)
    return [_count(trials.condition, slowdown, found[slowdown], same[slowdown]) for slowdown in sorted(found)]


def _stopped(values: Sequence[float], config: Mapping[str, Any]) -> Sequence[float]:
    """The processes after which a check of this arm alone would have stopped (`bench.runner.stopping`)."""
    least = config["precision"]["processes"]
    for count in range(least, len(values)):
        if stats.narrow(values[:count], config["precision"]["margin"]):
            return values[:count]
    return values


def _count(condition: str, slowdown: float, verdicts: Sequence[tuple[Verdict, Verdict]], same: Sequence[bool]) -> Rates:
    last = [verdict for _, verdict in verdicts]
    return Rates(
        condition=condition,
        slowdown=slowdown,
        checks=len(last),
        regressed=last.count(Verdict.REGRESSED),
        regressed_at_first=[verdict for verdict, _ in verdicts].count(Verdict.REGRESSED),
        passed=last.count(Verdict.PASSED),
        ambiguous=last.count(Verdict.AMBIGUOUS),
        equivalent=sum(same),
        arms=len(same),
    )
