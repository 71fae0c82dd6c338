"""The gate's own error rates: trials whose truth is known, and the rule's verdicts on them. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bench.gate.rule import SAME_MACHINE, Rule, Verdict, confirmed, judge
from bench.records import stats
from bench.records.cell import STRICT
from bench.runner.stopping import narrow

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
    """Medians by arm, a number a process."""
    seconds: float
    mean_log_ratios: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Of mean seconds; none in trials from before they were tested."""


@dataclass(frozen=True)
class Trials:
    """Runs under one condition."""

    __pydantic_config__: ClassVar = STRICT

    condition: str
    """``quiet``, or ``noisy``: beside a program that copies memory in bursts."""
    slowdowns: Mapping[str, float]
    """The injected slowdown of each arm, on average over the steps: 0.05 is five per cent."""
    config: Mapping[str, Any]
    runs: tuple[Run, ...] = ()
    check_seconds: tuple[float, ...] = ()
    """Seconds of a whole check of the configured method: metrics and latency."""
    machine: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    periods: Mapping[str, int] = field(default_factory=dict)
    """Of arms whose slowdown is all in every so many-th step."""
    schema_version: int = TRIALS_SCHEMA


@dataclass(frozen=True)
class Rates:
    """The verdicts for one injected slowdown."""

    condition: str
    slowdown: float
    period: int
    """1 for a slowdown of every step."""
    checks: int
    regressed: int
    """After the repeat, by either statistic."""
    regressed_at_first: int
    by_median: int
    """Of ``regressed``."""
    by_mean: int | None
    """Of ``regressed``; None where the trials have no means."""
    passed: int
    """By both statistics."""
    ambiguous: int
    equivalent: int
    """Of ``checks``: the copy was shown to be the same within the margin by both statistics (TOST)."""


@dataclass(frozen=True)
class Trial:
    """A check whose truth is known: its verdicts by statistic, first the median's, then the mean's if there is one."""

    first: tuple[Verdict, ...]
    last: tuple[Verdict, ...]
    """After the repeat."""
    same: bool


def rates(trials: Trials, rule: Rule = SAME_MACHINE) -> list[Rates]:
    """Error rates by slowdown. Run i is checked against the unslowed copy of run i - 1 and repeated by run i + 1.

    So each run is a baseline once and is checked once: an unlucky baseline spoils one check, not all of them.
    """
    zero = [arm for arm, slowdown in trials.slowdowns.items() if slowdown == 0]
    found: dict[tuple[float, int], list[Trial]] = {}
    for arm, slowdown in trials.slowdowns.items():
        against = arm if arm in zero else zero[0]
        numbers = [number for number, run in enumerate(trials.runs) if arm in run.log_ratios]
        if len(numbers) < LEAST_RUNS:
            continue
        for place, number in enumerate(numbers):
            before = _stopped(trials.runs[number - 1], against, trials.config)  # of the first, the last
            fresh = _stopped(trials.runs[number], arm, trials.config)
            again = _stopped(trials.runs[numbers[(place + 1) % len(numbers)]], arm, trials.config)
            margin = stats.margin_log(trials.config["precision"]["margin"])
            trial = _trial(before, fresh, again, rule, margin)
            found.setdefault((slowdown, trials.periods.get(arm, 1)), []).append(trial)
    return [_count(trials.condition, *key, found[key]) for key in sorted(found)]


Sample = tuple[Sequence[float], ...]
"""Numbers a process of one arm of a run: medians, then means if the run has them."""


def _trial(before: Sample, fresh: Sample, again: Sample, rule: Rule, margin: float) -> Trial:
    rules = (rule, rule.for_means())[: len(before)]
    first, repeat = (list(map(judge, before, sample, rules)) for sample in (fresh, again))
    return Trial(
        tuple(change.verdict for change in first),
        tuple(confirmed(*changes).verdict for changes in zip(first, repeat, strict=True)),
        all(stats.mean(values).p_within(margin) < ALPHA for values in fresh),
    )


def _stopped(run: Run, arm: str, config: Mapping[str, Any]) -> Sample:
    """The processes after which a check of this arm alone would have stopped (`bench.runner.stopping`)."""
    sides = [one[arm] for one in (run.log_ratios, run.mean_log_ratios) if arm in one]
    least, most = config["precision"]["processes"], len(sides[0])
    count = next((n for n in range(least, most) if narrow([s[:n] for s in sides], config["precision"]["margin"])), most)
    return tuple(side[:count] for side in sides)


def _count(condition: str, slowdown: float, period: int, trials: Sequence[Trial]) -> Rates:
    slower = [Verdict.REGRESSED in trial.last for trial in trials]
    passed = [{*trial.last} == {Verdict.PASSED} for trial in trials]
    means = [trial.last[1] for trial in trials if len(trial.last) > 1]
    return Rates(
        condition=condition,
        slowdown=slowdown,
        period=period,
        checks=len(trials),
        regressed=sum(slower),
        regressed_at_first=sum(Verdict.REGRESSED in trial.first for trial in trials),
        by_median=sum(trial.last[0] is Verdict.REGRESSED for trial in trials),
        by_mean=means.count(Verdict.REGRESSED) if means else None,
        passed=sum(passed),
        ambiguous=len(trials) - sum(slower) - sum(passed),
        equivalent=sum(trial.same for trial in trials),
    )
