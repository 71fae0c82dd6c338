"""What a reader must know of a comparison: one small type for each kind of note."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from bench.records import stats
from bench.records.cell import OURS
from bench.records.record import AA, CONTROL, Record
from bench.report.frame import reasons, states
from bench.report.labels import Labels
from bench.report.table import Note

DEVICE_BOUND = 0.9
"""If the device computes for this fraction of a step, the step timed the device and not the host."""
PHASES = ("prefill", "decode")


@dataclass(frozen=True)
class Legend:
    """What distinguishes a row from another one of the same method and size."""

    row: str
    settings: str

    @property
    def text(self) -> str:
        return f"{self.row}: {self.settings}"


@dataclass(frozen=True)
class NoMetric:
    """Why a metric is blank, or a row is missing or incomplete, for all rows with the same reason."""

    rows: tuple[str, ...]
    what: str
    reason: str

    @property
    def text(self) -> str:
        return f"{', '.join(self.rows)}: {self.what}: {self.reason}"


@dataclass(frozen=True)
class Warned:
    """A warning of a record."""

    row: str
    warning: str

    @property
    def text(self) -> str:
        return f"{self.row}: {self.warning}"


@dataclass(frozen=True)
class SharedWeights:
    """Rows whose arms shared one set of weights."""

    rows: tuple[str, ...]

    @property
    def text(self) -> str:
        return (
            f"{', '.join(self.rows)}: the arms shared one set of weights, because copies did not fit; compare their "
            "latency only with rows that did so too"
        )


@dataclass(frozen=True)
class Bound:
    """Rows whose steps time the device, or the host that feeds it."""

    phase: str
    host: bool
    low: float
    high: float
    """Fraction of a step in which the device computes."""
    rows: tuple[str, ...]

    @property
    def text(self) -> str:
        side = "host" if self.host else "device"
        advice = "; runtime=cudagraph times the device" if self.host else ""
        span = f"{self.low:.0%} to {self.high:.0%}"
        return f"{self.phase} is {side}-bound (the device computes {span} of it): {', '.join(self.rows)}{advice}"


@dataclass(frozen=True)
class ControlRow:
    """What the row of the control is."""

    @property
    def text(self) -> str:
        return "control: the untouched base; its latency is in seconds, that of the others is relative to it"


@dataclass(frozen=True)
class AASpread:
    """How far identical models seemed to differ."""

    ranges: Mapping[str, tuple[float, float]]
    """Smallest and largest ratio of the second control to the first, by phase."""

    @property
    def text(self) -> str:
        spans = ", ".join(f"{phase} {low:.3f} to {high:.3f}" for phase, (low, high) in self.ranges.items())
        return f"A/A: a second control measured {spans} of the first; smaller differences are noise"


@dataclass(frozen=True)
class NoInterval:
    """A metric that is measured once a cell."""

    label: str

    @property
    def text(self) -> str:
        return f"{self.label}: measured once a cell, without an interval, so none is marked as best"


@dataclass(frozen=True)
class TrainReference:
    """What the speed of training is relative to."""

    name: str
    slowest: float
    fastest: float
    """Tokens per second of the reference, beside one row and another."""

    @property
    def text(self) -> str:
        return (
            f"train tok/s: over that of {self.name}, timed in turn with each row in the same processes; beside one and "
            f"another its own was {self.slowest:.0f} to {self.fastest:.0f} tok/s"
        )


@dataclass(frozen=True)
class IntervalWidth:
    """What ± means."""

    processes: tuple[int, ...]

    @property
    def text(self) -> str:
        return f"±: half the 95% interval, Student's t over {' or '.join(map(str, self.processes))} processes"


@dataclass(frozen=True)
class MeasuredOn:
    """Machine and packages."""

    machine: str
    packages: tuple[str, ...]

    @property
    def text(self) -> str:
        return f"measured on {self.machine}" + (f" with {', '.join(self.packages)}" if self.packages else "")


def footnotes(part: pd.DataFrame, records: Sequence[Record], names: Labels, shown: Sequence[str]) -> tuple[Note, ...]:
    """The notes of one table. ``part``: its rows, see `bench.report.frame`; ``shown``: its metrics."""
    return tuple({note.text: note for note in _notes(part, records, names, shown)}.values())


def _notes(part: pd.DataFrame, records: Sequence[Record], names: Labels, shown: Sequence[str]) -> Iterator[Note]:
    yield from (Legend(row, settings) for row, settings in names.legend)
    yield from _absent(records, names, shown)
    yield from (Warned(names.name(record), warning) for record in records for warning in record.warnings)
    if sharing := tuple(dict.fromkeys(names.name(record) for record in records if record.shares_weights)):
        yield SharedWeights(sharing)
    yield from _bounds(part, names)
    if (part["method"] == CONTROL).any():
        yield ControlRow()
    if ranges := _copies(records, part.iloc[0]):
        yield AASpread(ranges)
    if (beside := part["train_reference_tokens_per_second"]).notna().any():
        name = records[0].cell.config["workload"]["train_reference"]
        yield TrainReference(name, beside.min(), beside.max())
    elif part["train_tokens_per_second"].notna().any():
        yield NoInterval("train tok/s")
    if counts := tuple(sorted({int(count) for count in part["processes"].dropna() if count > 1})):
        yield IntervalWidth(counts)
    first = part.iloc[0]
    packages = [f"{name} {first[name]}" for name in ("torch", "transformers") if pd.notna(first[name])]
    outside = {f"{p} {r.versions[p]}" for r in records if (p := r.cell.implementation) != OURS and p in r.versions}
    yield MeasuredOn(str(first["machine"]), (*packages, *sorted(outside)))


def _absent(records: Iterable[Record], names: Labels, shown: Sequence[str]) -> Iterator[NoMetric]:
    """Why something is blank, rows with the same reason together."""
    rows: dict[tuple[str, str], list[str]] = {}
    for record in records:
        present = states(record)
        for state in sorted({*present, *(missing.state for missing in record.missing)}):
            for metric, reason in reasons(record, state):
                if metric is not None:
                    what = metric
                elif state not in present:
                    what = f"no {state} row"
                else:
                    what = "incomplete" if record.measurements else "no metrics"
                if metric is None or metric in shown:
                    rows.setdefault((what, reason), []).append(names.full(record))
    for (what, reason), those in rows.items():
        yield NoMetric(tuple(dict.fromkeys(those)), what, reason)


def _bounds(part: pd.DataFrame, names: Labels) -> Iterator[Bound]:
    """Which rows time the device, and which the host that feeds it."""
    for phase in PHASES:
        busy = part[f"{phase}_busy"]
        for host, chosen in ((True, busy < DEVICE_BOUND), (False, busy >= DEVICE_BOUND)):
            rows = tuple(
                CONTROL
                if row["method"] == CONTROL
                else f"{row['method']} {names.letters.get(row['cell'], '')}".rstrip() + f" {row['state']}"
                for _, row in part[chosen].iterrows()
            )
            if rows:
                yield Bound(phase, host, busy[chosen].min(), busy[chosen].max(), rows)


def _copies(records: Iterable[Record], row: pd.Series) -> dict[str, tuple[float, float]]:
    """How far an identical copy seemed to differ at this row's workload point: the noise of measuring."""
    point = (row["batch_size"], row["prompt_length"])
    found = {}
    for phase in PHASES:
        logs = [own for record in records if (own := record.log_ratios(phase, AA, point))]
        ratios = [stats.ratio(own).estimate for own in logs]
        if ratios:
            found[phase] = (min(ratios), max(ratios))
    return found
