"""Baselines: what a later run is tested against. Each process's log-ratio is kept, so that it can be tested against
and not only compared with, and every figure without noise.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from bench.errors import UsageError
from bench.probes import figures
from bench.records.cell import STRICT, Cell
from bench.records.record import MERGED, RIVAL, TRAIN, UNMERGED, Reading, Record, Status
from bench.records.stats import log_ratio
from bench.records.store import read_json, write_json

BASELINE_SCHEMA = 1


@dataclass(frozen=True)
class Latency:
    """The log-ratios to the control of one arm in one place, a number a process."""

    __pydantic_config__: ClassVar = STRICT

    phase: str
    state: str
    batch_size: int
    prompt_length: int
    shared_weights: bool
    log_ratios: tuple[float, ...]


@dataclass(frozen=True)
class Kept:
    """What a baseline keeps of one cell."""

    __pydantic_config__: ClassVar = STRICT

    cell_id: str
    cell: Cell
    exact: tuple[Reading, ...]
    latencies: tuple[Latency, ...]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    commit: str | None
    started: str


@dataclass(frozen=True)
class Baseline:
    """A sweep to compare later ones with."""

    __pydantic_config__: ClassVar = STRICT

    name: str
    saved: str
    """UTC, ISO 8601."""
    cells: tuple[Kept, ...] = field(default_factory=tuple)
    schema_version: int = BASELINE_SCHEMA


def keep(record: Record) -> Kept:
    """What is compared of a record."""
    known = figures()
    logs: dict[tuple[str, str, int, int, bool], list[float]] = {}
    for pairs in sorted(record.pairs, key=lambda pairs: pairs.process):
        if pairs.arm in (UNMERGED, MERGED) and pairs.phase != TRAIN:  # a rival's speed is no promise of ours
            key = (pairs.phase, pairs.arm, pairs.batch_size, pairs.prompt_length, pairs.shared_weights)
            logs.setdefault(key, []).append(log_ratio(pairs))
    return Kept(
        cell_id=record.cell_id,
        cell=record.cell,
        exact=tuple(r for r in record.readings if r.state != RIVAL and r.figure in known and known[r.figure].whole),
        latencies=tuple(Latency(*key, tuple(values)) for key, values in logs.items()),
        machine=record.machine,
        versions=record.versions,
        commit=record.commit,
        started=record.started,
    )


def make_baseline(name: str, records: Sequence[Record]) -> Baseline:
    """A baseline of records that ended well.

    Raises:
        UsageError: none did.
    """
    good = [record for record in records if record.status is Status.OK]
    if not good:
        raise UsageError(f"baseline {name}: none of the {len(records)} records ended well; run the sweep again")
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Baseline(name, now, tuple(keep(record) for record in sorted(good, key=lambda record: record.cell_id)))


def baseline_path(folder: Path, name: str) -> Path:
    """Where a baseline is kept.

    Raises:
        UsageError: the name can't be a file's.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise UsageError(f"'{name}' is no name for a baseline: use up to 100 letters, digits, '.', '_' and '-'")
    return folder / f"{name}.json"


def save_baseline(folder: Path, baseline: Baseline, replace: bool) -> Path:
    """Writes it.

    Raises:
        UsageError: there is one of that name, or it can't be written.
    """
    path = baseline_path(folder, baseline.name)
    if path.exists() and not replace:
        raise UsageError(f"{path} is there already: add --replace to move the baseline, or choose another name")
    write_json(path, baseline)
    return path


def load_baseline(folder: Path, name: str) -> Baseline:
    """Reads it.

    Raises:
        UsageError: it is missing, torn, changed by hand or of another schema.
    """
    path = baseline_path(folder, name)
    try:
        there = path.exists()
        others = sorted(file.stem for file in folder.glob("*.json"))
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from error
    if not there:
        known = f"there are {', '.join(others)}" if others else "there is none yet"
        raise UsageError(f"{path} is not there; {known}; make one: python -m bench baseline save {name} RECORDS")
    baseline = read_json(path, Baseline, BASELINE_SCHEMA, "baseline")
    for kept in baseline.cells:
        if kept.cell.id != kept.cell_id:
            raise UsageError(f"{path} was changed by hand: cells.{kept.cell_id} is {kept.cell.id}; save it anew")
    if not baseline.cells:
        raise UsageError(f"{path} has no cells: save it anew")
    return baseline
