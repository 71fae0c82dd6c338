"""A run against a baseline, metric by metric. Pure functions; `bench.gate.rerun` runs the cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.config.schema import ADDED
from bench.gate.baseline import BaselineCell, Latency, summarize
from bench.gate.rule import OTHER_MACHINE, SAME_MACHINE, Change, Rule, Verdict, confirmed, judge
from bench.records.cell import OURS
from bench.records.conditions import differing, flatten, identity
from bench.records.record import Measurement, Record, Status

FREE = ("precision.", "workload.phases", "workload.train_reference")
"""Keys in which a run may differ from its baseline: they say how much is measured, which changes no metric."""
SHAPES = ("model.settings.", "method.")
"""If a run has such a key and its baseline does not, they differ: a shape or a setting was added."""
RANKS = "rank_"
"""Metrics of a method whose shapes depend on training, and so on rounding and on the text."""
CHECKPOINT = "checkpoint_bytes"
EVERY_STEP = "in every step"
WHERE = {Verdict.REGRESSED: EVERY_STEP, Verdict.AMBIGUOUS: "on average", Verdict.PASSED: "in some steps"}
"""Where a mean lost time, by the verdict on the median."""
NO_MEANS = "what only some steps cost is not tested: the baseline has no means; save it again"


@dataclass(frozen=True)
class MetricCheck:
    """One metric of one cell against its baseline."""

    cell_id: str
    """With the conditions that differ, where records of several machines are checked."""
    metric: str | None
    """None for all metrics of the cell."""
    place: str
    """State and workload point, in words."""
    verdict: Verdict
    change: Change | None = None
    """Of a latency."""
    before: float | None = None
    """Of an exact metric."""
    after: float | None = None
    reason: str | None = None
    """Why it can't be compared, or how the verdict came about."""

    @property
    def timed(self) -> bool:
        """Whether it depends on a clock."""
        return self.change is not None


def check_cell(
    before: BaselineCell, record: Record | None, threshold: float | None, repeat: Record | None = None
) -> list[MetricCheck]:
    """Every metric of one cell. A regression of latency stands only if ``repeat``, a fresh run, finds it again."""
    if record is None:
        return [_all(before, Verdict.INCOMPARABLE, "there is no record of this cell, or only the baseline's own")]
    if record.status is not Status.OK:
        return [_all(before, Verdict.REGRESSED, f"the cell ended as {record.status}: {record.reason}")]
    after = summarize(record)
    if other := incompatibilities(before, after):
        return [_all(before, Verdict.INCOMPARABLE, f"{'; '.join(other)} differ")]
    again = summarize(repeat) if repeat is not None and repeat.status is Status.OK else None
    return [*_exact(before, after), *_latencies(before, after, again, rule_for(before, after, threshold))]


def rule_for(before: BaselineCell, after: BaselineCell, threshold: float | None) -> Rule:
    """The rule: stricter on the baseline's own machine than on another one of its kind."""
    if threshold is not None:
        return Rule.at(threshold)
    same = all(before.machine.get(name) == after.machine.get(name) for name in ("processor", "cores", "architecture"))
    return SAME_MACHINE if same else OTHER_MACHINE


def incompatibilities(before: BaselineCell, after: BaselineCell) -> list[str]:
    """Why two runs can't be compared: configuration (dtype, shapes, device), and torch's minor version."""
    was, is_now = _held(before.cell.config), _held(after.cell.config)
    # a key that only the run has was added later; the baseline was measured with its default
    added = {key: None for key in is_now if key not in was and key.startswith(SHAPES)}
    found = [f"{key} ({v}, {is_now.get(key)})" for key, v in {**was, **added}.items() if is_now.get(key) != v]
    versions = [_minor(one.versions.get("torch")) for one in (before, after)]
    return found + ([f"torch ({versions[0]}, {versions[1]})"] if versions[0] != versions[1] else [])


def _held(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**ADDED, **flatten(config)}.items() if not key.startswith(FREE)}


def _minor(version: str | None) -> str | None:
    return None if version is None else ".".join(version.split(".")[:2])


def device_class(one: BaselineCell) -> tuple[object, ...]:
    """Kind of device and processor: ratios of latencies can't be compared between classes."""
    device = one.cell.config["device"]
    return (device["type"], *(one.machine.get(name) for name in ("accelerator", "processor", "architecture")))


def _all(before: BaselineCell, verdict: Verdict, reason: str) -> MetricCheck:
    return MetricCheck(before.cell_id, None, "all metrics", verdict, reason=reason)


def _exact(before: BaselineCell, after: BaselineCell) -> Iterator[MetricCheck]:
    """Integers must be equal. One that changed together with transformers is not a regression of ours."""
    measured = {_key(one): one for one in after.exact}
    allowed = _allowed_reason(before, after)
    for was in before.exact:
        now = measured.get(_key(was))
        place = _words(was)
        reason = _new_format(before, after) if was.metric == CHECKPOINT and allowed is None else allowed
        if now is None:
            gone = "the metric is no longer measured"
            yield MetricCheck(before.cell_id, was.metric, place, Verdict.REGRESSED, None, was.value, None, gone)
        elif now.value == was.value:
            yield MetricCheck(before.cell_id, was.metric, place, Verdict.PASSED, None, was.value, now.value)
        else:
            verdict = Verdict.INCOMPARABLE if reason else Verdict.REGRESSED
            yield MetricCheck(before.cell_id, was.metric, place, verdict, None, was.value, now.value, reason)
    # a metric that only the run has belongs to a probe that was added later


def _allowed_reason(before: BaselineCell, after: BaselineCell) -> str | None:
    """What else changed that an exact metric may depend on."""
    was, is_now = (_minor(one.versions.get("transformers")) for one in (before, after))
    if was != is_now:
        return f"transformers {was} became {is_now}"
    if any(one.metric.startswith(RANKS) for one in before.exact):
        if device_class(before) != device_class(after):
            return "training on another device may allocate the ranks differently"
        if before.versions.get("python") != after.versions.get("python"):
            return "training on another text, which comes with Python, may allocate the ranks differently"
    return None


def _new_format(before: BaselineCell, after: BaselineCell) -> str | None:
    """Our checkpoints are in peft's format, whose configuration file gains keys from release to release. peft's own
    cells must keep every byte."""
    was, is_now = (_minor(one.versions.get("peft")) for one in (before, after))
    return f"peft {was} became {is_now}" if was != is_now and before.cell.implementation == OURS else None


def _key(one: Measurement | Latency) -> tuple[object, ...]:
    """Which metric or phase, of which state, at which workload point."""
    what = one.phase if isinstance(one, Latency) else one.metric
    return what, one.state, one.batch_size, one.prompt_length


def _words(one: Measurement | Latency) -> str:
    return one.state + ("" if one.batch_size is None else f", {one.batch_size} × {one.prompt_length}")


def _latencies(
    before: BaselineCell, after: BaselineCell, again: BaselineCell | None, rule: Rule
) -> Iterator[MetricCheck]:
    classes = device_class(before), device_class(after)
    other = [f"{a} and {b}" for a, b in zip(*classes, strict=True) if a != b]
    for was in before.latencies:
        now, repeated = _same(was, after), None if again is None else _same(was, again)
        verdict = Verdict.INCOMPARABLE
        if other:
            reason = f"another class of device: {', '.join(other)}"
        elif now is None:
            verdict, reason = Verdict.REGRESSED, "the latency is no longer measured"
        elif now.shared_weights != was.shared_weights:
            reason = "in one of the runs the arms shared a set of weights"
        elif min(len(was.log_ratios), len(now.log_ratios)) < 2:
            reason = "one process: a spread needs two"
        else:
            yield from _statistics(before.cell_id, was, now, repeated, rule)
            continue
        yield MetricCheck(before.cell_id, f"{was.phase}_ratio", _words(was), verdict, reason=reason)


def _statistics(
    cell_id: str, was: Latency, now: Latency, repeated: Latency | None, rule: Rule
) -> Iterator[MetricCheck]:
    """The median, which shows what every step costs, then the mean, which also shows what some steps cost."""
    place = _words(was)
    usual, told = _judged(was.log_ratios, now.log_ratios, None if repeated is None else repeated.log_ratios, rule)
    where = EVERY_STEP if usual.verdict is Verdict.REGRESSED else None
    reason = _joined([where, told, None if was.mean_log_ratios else NO_MEANS])
    yield MetricCheck(cell_id, f"{was.phase}_ratio", place, usual.verdict, usual, reason=reason)
    if not was.mean_log_ratios:
        return
    again = None if repeated is None else repeated.mean_log_ratios
    change, told = _judged(was.mean_log_ratios, now.mean_log_ratios, again, rule.for_means())
    where = WHERE.get(usual.verdict) if change.verdict is Verdict.REGRESSED else None
    yield MetricCheck(cell_id, f"{was.phase}_mean_ratio", place, change.verdict, change, reason=_joined([where, told]))


def _joined(words: Iterable[str | None]) -> str | None:
    return "; ".join(word for word in words if word) or None


def _judged(
    was: Sequence[float], now: Sequence[float], repeated: Sequence[float] | None, rule: Rule
) -> tuple[Change, str | None]:
    """The change of one statistic of a latency and how its verdict came about."""
    change = judge(was, now, rule)
    if change.verdict is not Verdict.REGRESSED:
        known = rule in (SAME_MACHINE, SAME_MACHINE.for_means())
        return change, None if known else f"counts from {rule.threshold:.0%} here"
    if repeated is None or len(repeated) < 2:
        return change, "not repeated"
    change = confirmed(change, judge(was, repeated, rule))
    return change, "found again by a fresh repeat" if change.verdict is Verdict.REGRESSED else "not found again"


def _same(was: Latency, other: BaselineCell) -> Latency | None:
    return next((one for one in other.latencies if _key(one) == _key(was)), None)


def partners(before: BaselineCell, records: Sequence[Record]) -> list[Record]:
    """The records to compare with a cell of the baseline: of each machine and set of versions the latest comparable.

    Where none is, the most similar one. Never the baseline's own record, which would always pass.
    """
    own = (before.cell.method, before.cell.implementation)
    alike = [
        record
        for record in records
        if (record.cell.method, record.cell.implementation) == own
        and (record.cell_id, record.started) != (before.cell_id, before.started)
    ]
    comparable = [record for record in alike if not incompatibilities(before, summarize(record))]
    if comparable:
        ordered = sorted(comparable, key=lambda record: (record.started, record.cell_id))
        return list({identity(record)[1]: record for record in ordered}.values())
    mine = _held(before.cell.config)

    def distance(record: Record) -> tuple[int, str]:
        return len(differing([mine, _held(record.cell.config)])), record.cell_id

    return sorted(alike, key=distance)[:1]


def worst(many: Sequence[MetricCheck]) -> Verdict:
    """The verdict on the whole run."""
    order = (Verdict.REGRESSED, Verdict.INCOMPARABLE, Verdict.AMBIGUOUS)
    return next((verdict for verdict in order if any(one.verdict is verdict for one in many)), Verdict.PASSED)
