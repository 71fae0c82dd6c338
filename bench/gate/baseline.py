"""Baselines: what a later run is tested against.

A baseline keeps the log-ratios of each process, so that a later run can be tested against it, and every deterministic
metric.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from bench.config.aliases import baseline_from_schema_1
from bench.errors import UsageError
from bench.probes.registry import metrics
from bench.records.cell import STRICT, Cell
from bench.records.conditions import conflicts
from bench.records.record import MERGED, REFERENCE, TRAIN, UNMERGED, Measurement, Pairs, Record, Status
from bench.records.store import read_json, write_json

# 1: until November 2026.
# 2: the words of schema 2 of records (`bench.config.aliases`).
BASELINE_SCHEMA = 2


@dataclass(frozen=True)
class Latency:
    """The log-ratios of one arm to the control at one workload point, a number of each kind a process."""

    __pydantic_config__: ClassVar = STRICT

    phase: str
    state: str
    batch_size: int
    prompt_length: int
    shared_weights: bool
    log_ratios: tuple[float, ...]
    """Medians."""
    mean_log_ratios: tuple[float, ...] = ()
    """Of mean seconds; none in baselines from before they were tested."""


@dataclass(frozen=True)
class BaselineCell:
    """One cell of a baseline."""

    __pydantic_config__: ClassVar = STRICT

    cell_id: str
    cell: Cell
    exact: tuple[Measurement, ...]
    latencies: tuple[Latency, ...]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    commit: str | None
    started: str


@dataclass(frozen=True)
class Baseline:
    """The cells of a sweep, to compare later sweeps with."""

    __pydantic_config__: ClassVar = STRICT

    name: str
    saved: str
    """UTC, ISO 8601."""
    cells: tuple[BaselineCell, ...] = field(default_factory=tuple)
    schema_version: int = BASELINE_SCHEMA


def summarize(record: Record) -> BaselineCell:
    """What of a record is compared."""
    known = metrics()
    timed: dict[tuple[str, str, int, int, bool], list[Pairs]] = {}
    for pairs in sorted(record.pairs, key=lambda pairs: pairs.process):
        if pairs.arm in (UNMERGED, MERGED) and pairs.phase != TRAIN:  # the reference's speed is not ours to keep
            key = (pairs.phase, pairs.arm, pairs.batch_size, pairs.prompt_length, pairs.shared_weights)
            timed.setdefault(key, []).append(pairs)
    return BaselineCell(
        cell_id=record.cell_id,
        cell=record.cell,
        exact=tuple(
            one
            for one in record.measurements
            if one.state != REFERENCE and one.metric in known and known[one.metric].integer
        ),
        latencies=tuple(
            Latency(*key, tuple(own.log_ratio for own in pairs), tuple(own.mean_log_ratio for own in pairs))
            for key, pairs in timed.items()
        ),
        machine=record.machine,
        versions=record.versions,
        commit=record.commit,
        started=record.started,
    )


def make_baseline(name: str, records: Sequence[Record]) -> Baseline:
    """A baseline of the records that are ok.

    Raises:
        UsageError: none is, or a cell was measured under different conditions.
    """
    good = [record for record in records if record.status is Status.OK]
    if not good:
        raise UsageError(f"baseline {name}: none of the {len(records)} records is ok; run the sweep again")
    seen: dict[str, Record] = {}
    for record in good:
        if (other := seen.setdefault(record.cell_id, record)) is not record:
            apart = ", ".join(f"{key} ({one}, {two})" for key, (one, two) in conflicts(other, record).items())
            raise UsageError(f"baseline {name}: two records of {record.cell_id} differ in {apart}; name one of them")
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Baseline(name, now, tuple(summarize(record) for record in sorted(good, key=lambda record: record.cell_id)))


def baseline_path(folder: Path, name: str) -> Path:
    """Where a baseline is kept.

    Raises:
        UsageError: the name can't be a file's.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise UsageError(f"'{name}' can't be the name of a baseline: use up to 100 letters, digits, '.', '_' and '-'")
    return folder / f"{name}.json"


def save_baseline(folder: Path, baseline: Baseline, replace: bool) -> Path:
    """Writes it.

    Raises:
        UsageError: there is one of that name, or it can't be written.
    """
    path = baseline_path(folder, baseline.name)
    if path.exists() and not replace:
        raise UsageError(f"{path} exists: add --replace to move the baseline, or choose another name")
    write_json(path, baseline)
    return path


def load_baseline(folder: Path, name: str) -> Baseline:
    """Reads it.

    Raises:
        UsageError: it is missing, torn, changed by hand or of another schema.
    """
    path = baseline_path(folder, name)
    try:
        exists = path.exists()
        others = sorted(file.stem for file in folder.glob("*.json"))
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from error
    if not exists:
        known = f"choose from {', '.join(others)}" if others else "there is no baseline yet"
        raise UsageError(f"{path} does not exist; {known}; or make it: python -m bench baseline save {name} RECORDS")
    baseline = read_json(path, Baseline, BASELINE_SCHEMA, baseline_from_schema_1, "baseline")
    for cell in baseline.cells:
        if cell.cell.id != cell.cell_id:
            raise UsageError(f"{path} was changed by hand: cells.{cell.cell_id} is {cell.cell.id}; save it again")
    if not baseline.cells:
        raise UsageError(f"{path} has no cells: save it again")
    return baseline
