"""A run against a baseline, figure by figure. Pure: `bench.gate.rerun` is what runs things."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.config.schema import ADDED
from bench.gate.baseline import Kept, Latency, keep
from bench.gate.rule import OTHER_MACHINE, SAME_MACHINE, Change, Rule, Verdict, confirmed, judge
from bench.records.cell import OURS
from bench.records.conditions import differing, flat
from bench.records.record import Reading, Record, Status

FREE = ("precision.", "workload.phases")
"""Keys in which a run may differ from its baseline: how much was measured, which changes no figure."""
SHAPES = ("model.settings.", "method.")
"""Keys that a run may not have and its baseline lack: a shape, or a setting, that was added."""
RANKS = "rank_"
"""Figures of a method whose shapes are decided by training, and so by rounding and by the text."""
CHECKPOINT = "checkpoint_bytes"


@dataclass(frozen=True)
class Checked:
    """One figure of one cell against its baseline."""

    cell_id: str
    figure: str
    place: str
    """State and workload point, in words."""
    verdict: Verdict
    change: Change | None = None
    """Of a latency."""
    before: float | None = None
    """Of an exact figure."""
    after: float | None = None
    reason: str | None = None
    """Why it can't be compared, or what speaks against the verdict."""

    @property
    def timed(self) -> bool:
        """Whether it rests on a clock."""
        return self.change is not None


def check_cell(
    kept: Kept, record: Record | None, threshold: float | None, repeat: Record | None = None
) -> list[Checked]:
    """Every figure of one cell. ``repeat`` is a fresh run, by which a regression of latency stands or falls."""
    if record is None:
        return [_whole(kept, Verdict.INCOMPARABLE, "there is no record of this cell, or only the baseline's own")]
    if record.status is not Status.OK:
        return [_whole(kept, Verdict.REGRESSED, f"the cell ended as {record.status}: {record.reason}")]
    now = keep(record)
    if other := unlike(kept, now):
        return [_whole(kept, Verdict.INCOMPARABLE, f"{'; '.join(other)} differ")]
    again = keep(repeat) if repeat is not None and repeat.status is Status.OK else None
    return [*_exact(kept, now), *_latencies(kept, now, again, rule_for(kept, now, threshold))]


def rule_for(kept: Kept, now: Kept, threshold: float | None) -> Rule:
    """Stricter on the machine of the baseline than on another one of its kind."""
    if threshold is not None:
        return Rule.at(threshold)
    same = all(kept.machine.get(name) == now.machine.get(name) for name in ("processor", "cores", "architecture"))
    return SAME_MACHINE if same else OTHER_MACHINE


def unlike(kept: Kept, now: Kept) -> list[str]:
    """What makes two runs incomparable: configuration (dtype, shapes, device), and torch's minor version."""
    was, is_now = _like(kept.cell.config), _like(now.cell.config)
    # a key that the baseline lacks came later, and its default is what the baseline was measured with
    added = {key: None for key in is_now if key not in was and key.startswith(SHAPES)}
    found = [f"{key} ({v}, {is_now.get(key)})" for key, v in {**was, **added}.items() if is_now.get(key) != v]
    versions = [_minor(one.versions.get("torch")) for one in (kept, now)]
    return found + ([f"torch ({versions[0]}, {versions[1]})"] if versions[0] != versions[1] else [])


def _like(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**ADDED, **flat(config)}.items() if not key.startswith(FREE)}


def _minor(version: str | None) -> str | None:
    return None if version is None else ".".join(version.split(".")[:2])


def device_class(one: Kept) -> tuple[object, ...]:
    """What latencies depend on so much that ratios can't be compared across it: kind of device, and processor."""
    device = one.cell.config["device"]
    return (device["type"], *(one.machine.get(name) for name in ("accelerator", "processor", "architecture")))


def _whole(kept: Kept, verdict: Verdict, reason: str) -> Checked:
    return Checked(kept.cell_id, "*", "all figures", verdict, reason=reason)


def _exact(kept: Kept, now: Kept) -> Iterator[Checked]:
    """Integers must be equal. One that changed together with transformers is nobody's fault here."""
    after = {_place(reading): reading for reading in now.exact}
    excuse = _excuse(kept, now)
    for reading in kept.exact:
        here = after.pop(_place(reading), None)
        figure, place = reading.figure, _words(reading)
        why = _new_format(kept, now) if figure == CHECKPOINT and excuse is None else excuse
        if here is None:
            reason = "the figure is no longer measured"
            yield Checked(kept.cell_id, figure, place, Verdict.REGRESSED, None, reading.value, None, reason)
        elif here.value == reading.value:
            yield Checked(kept.cell_id, figure, place, Verdict.PASSED, None, reading.value, here.value)
        else:
            verdict = Verdict.INCOMPARABLE if why else Verdict.REGRESSED
            yield Checked(kept.cell_id, figure, place, verdict, None, reading.value, here.value, why)
    # what the baseline has not is a probe's that came later: nothing to compare


def _excuse(kept: Kept, now: Kept) -> str | None:
    """What else changed that an exact figure may depend on."""
    was, is_now = (_minor(one.versions.get("transformers")) for one in (kept, now))
    if was != is_now:
        return f"transformers {was} became {is_now}"
    if any(reading.figure.startswith(RANKS) for reading in kept.exact):
        if device_class(kept) != device_class(now):
            return "training on another device may spread the ranks otherwise"
        if kept.versions.get("python") != now.versions.get("python"):
            return "training on another text, which comes with Python, may spread the ranks otherwise"
    return None


def _new_format(kept: Kept, now: Kept) -> str | None:
    """Our checkpoints are in peft's format, whose configuration file gains keys from release to release; peft's own
    cells are held to the byte."""
    was, is_now = (_minor(one.versions.get("peft")) for one in (kept, now))
    return f"peft {was} became {is_now}" if was != is_now and kept.cell.implementation == OURS else None


def _place(reading: Reading) -> tuple[object, ...]:
    return (reading.figure, reading.state, reading.batch_size, reading.prompt_length)


def _words(one: Reading | Latency) -> str:
    return one.state + ("" if one.batch_size is None else f", {one.batch_size} × {one.prompt_length}")


def _latencies(kept: Kept, now: Kept, again: Kept | None, rule: Rule) -> Iterator[Checked]:
    classes = device_class(kept), device_class(now)
    for before in kept.latencies:
        figure, place = f"{before.phase}_ratio", _words(before)
        after, repeated = (_same_place(before, one) for one in (now, again))
        if classes[0] != classes[1]:
            pairs = [f"{a} and {b}" for a, b in zip(*classes, strict=True) if a != b]
            reason = f"another class of device: {', '.join(pairs)}"
            yield Checked(kept.cell_id, figure, place, Verdict.INCOMPARABLE, reason=reason)
        elif after is None:
            reason = "the latency is no longer measured"
            yield Checked(kept.cell_id, figure, place, Verdict.REGRESSED, reason=reason)
        elif after.shared_weights != before.shared_weights:
            reason = "in one of the runs the arms shared a set of weights"
            yield Checked(kept.cell_id, figure, place, Verdict.INCOMPARABLE, reason=reason)
        elif min(len(before.log_ratios), len(after.log_ratios)) < 2:
            reason = "one process: a spread to judge by needs two"
            yield Checked(kept.cell_id, figure, place, Verdict.INCOMPARABLE, reason=reason)
        else:
            change = judge(before.log_ratios, after.log_ratios, rule)
            told = None if rule == SAME_MACHINE else f"counts from {rule.threshold:.0%} here"
            if change.verdict is Verdict.REGRESSED and repeated is not None and len(repeated.log_ratios) > 1:
                change = confirmed(change, judge(before.log_ratios, repeated.log_ratios, rule))
                told = "found again by a fresh repeat" if change.verdict is Verdict.REGRESSED else "not found again"
            elif change.verdict is Verdict.REGRESSED:
                told = "not repeated"
            yield Checked(kept.cell_id, figure, place, change.verdict, change, reason=told)


def _same_place(before: Latency, other: Kept | None) -> Latency | None:
    found = () if other is None else other.latencies
    return next((one for one in found if _key(one) == _key(before)), None)


def _key(one: Latency) -> tuple[str, str, int, int]:
    return one.phase, one.state, one.batch_size, one.prompt_length


def partner(kept: Kept, records: Sequence[Record]) -> Record | None:
    """The record to hold against a cell of the baseline: of those that are comparable the latest, else the most alike.

    Never the baseline's own record: held against itself, a run always passes.
    """
    own = (kept.cell.method, kept.cell.implementation)
    alike = [
        record
        for record in records
        if (record.cell.method, record.cell.implementation) == own
        and (record.cell_id, record.started) != (kept.cell_id, kept.started)
    ]
    comparable = [record for record in alike if not unlike(kept, keep(record))]
    if comparable:
        return max(comparable, key=lambda record: (record.started, record.cell_id))
    mine = _like(kept.cell.config)

    def distance(record: Record) -> tuple[int, str]:
        return len(differing([mine, _like(record.cell.config)])), record.cell_id

    return min(alike, key=distance, default=None)


def worst(many: Sequence[Checked]) -> Verdict:
    """The verdict on the whole."""
    order = (Verdict.REGRESSED, Verdict.INCOMPARABLE, Verdict.AMBIGUOUS)
    return next((verdict for verdict in order if any(one.verdict is verdict for one in many)), Verdict.PASSED)
