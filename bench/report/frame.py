"""Records to one data frame: a row a cell, state and workload point. The public interface of CSV and Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from bench.config.schema import RIVAL_KEY
from bench.probes import figures
from bench.records import stats
from bench.records.figures import WHOLE, Scope
from bench.records.record import CONTROL, MERGED, RIVAL, UNMERGED, Pairs, Record, Status

IDENTITY = (
    "cell", "study", "method", "implementation", "size", "model", "layers", "hidden_size",
    "batch_size", "prompt_length", "dtype", "attention", "runtime", "device", "threads", "seed",
    "data", "train_batch_size", "train_length", "train_tokens", "learning_rate", "settings",
    "torch", "transformers", "machine",
    "state", "status", "reason",
)  # fmt: skip
"""What a row is of. In the base model's rows ``method`` is ``control``, and ``cell`` says beside what it was timed."""

TEXT = frozenset({
    "cell", "study", "method", "implementation", "model", "dtype", "attention", "runtime", "device", "data",
    "settings", "torch", "transformers", "machine", "state", "status", "reason",
})  # fmt: skip


def columns() -> list[str]:
    """All columns, in order."""
    measured: list[str] = []
    for name, figure in figures().items():
        measured.extend([f"{name}_before", f"{name}_after"] if figure.scope is Scope.PROGRESS else [name])
    return [*IDENTITY, *measured]


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a cell, state and workload point; a missing figure is NaN."""
    rows = [row for record in records for row in _rows(record)]
    table = pd.DataFrame(rows, columns=columns())
    for name in table.columns:
        if name not in TEXT:
            table[name] = pd.to_numeric(table[name])
    return table


def export(records: Sequence[Record]) -> pd.DataFrame:
    """`frame` with the types that CSV and Parquet promise, whatever is missing: text, whole numbers and floats."""
    table = frame(records)
    known = figures()
    for name in table.columns:
        figure = known.get(name)
        if name in TEXT:
            table[name] = table[name].astype("string")
        elif (name in IDENTITY and name != "learning_rate") or (figure is not None and figure.unit in WHOLE):
            table[name] = table[name].astype("Int64")
    return table


def _rows(record: Record) -> Iterator[dict[str, Any]]:
    for batch, length in record.cell.points:
        for state in states(record):
            yield {
                **_identity(record, state),
                "batch_size": batch,
                "prompt_length": length,
                **_figures(record, state, batch, length),
            }


def states(record: Record) -> list[str]:
    """States that get a row: those with a figure, and for a cell without any figure the one that was wanted."""
    seen = [state for state in (CONTROL, UNMERGED, MERGED, RIVAL) if any(r.state == state for r in record.readings)]
    absent = {missing.state for missing in record.missing if missing.figure == "*"}
    return [state for state in seen if state not in absent] or [UNMERGED]


def _identity(record: Record, state: str) -> dict[str, Any]:
    config, cell = record.cell.config, record.cell
    shape = record.facts.get("model", {})
    control = state == CONTROL
    own = cell.rival if state == RIVAL and cell.rival is not None else cell
    settings = config[RIVAL_KEY if own is cell.rival else "method"]
    work = config["workload"]
    return {
        "cell": record.cell_id,
        "study": record.study,
        "method": CONTROL if control else own.method,
        "implementation": own.implementation,
        "size": None if control else own.size,
        "model": cell.model,
        "layers": shape.get("layers"),
        "hidden_size": shape.get("hidden_size"),
        "dtype": config["model"]["dtype"],
        "attention": config["model"]["attention"],
        "runtime": config["runtime"]["name"],
        "device": config["device"]["name"],
        "threads": config["device"]["threads"],
        "seed": config["seed"],
        "data": config["data"]["name"],
        "train_batch_size": work["train_batch_size"],
        "train_length": work["train_length"],
        "train_tokens": work["train_batch_size"] * work["train_length"] * work["train_steps"],
        "learning_rate": None if control else settings["learning_rate"],
        "settings": None if control else _settings(settings),
        "torch": record.versions.get("torch"),
        "transformers": record.versions.get("transformers"),
        "machine": record.machine.get("processor"),
        "state": state,
        "status": str(record.status),
        "reason": record.reason,
    }


def _settings(method: Mapping[str, Any]) -> str:
    """The method's own settings as JSON, for whoever swept one that has no column."""
    own = {key: value for key, value in method.items() if key not in ("_target_", "learning_rate")}
    return json.dumps(own, sort_keys=True)


def _figures(record: Record, state: str, batch: int, length: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    known = figures()
    for reading in record.readings:
        if reading.batch_size not in (None, batch) or reading.prompt_length not in (None, length):
            continue
        name, value = reading.figure, reading.value
        scope = known[name].scope if name in known else Scope.STATE
        if scope is Scope.PROGRESS:
            if reading.state == CONTROL:
                found[f"{name}_before"] = value
            elif reading.state == state:
                found[f"{name}_after"] = value
        elif reading.state == state or (scope is Scope.TRAINING and (state, reading.state) == (MERGED, UNMERGED)):
            found[name] = value
    return {**found, **_latency(record, state, batch, length)}


def _latency(record: Record, state: str, batch: int, length: int) -> dict[str, Any]:
    here = [p for p in record.pairs if (p.batch_size, p.prompt_length) == (batch, length)]
    found: dict[str, Any] = {}
    for phase in ("prefill", "decode"):
        mine = [p for p in here if p.phase == phase and state in (p.arm, CONTROL)]
        if not mine:
            continue
        found["processes"] = len({p.process for p in mine})
        if state == CONTROL:
            found |= {f"{phase}_seconds": stats.seconds([p.control_seconds for p in mine]), f"{phase}_ratio": 1.0}
        else:
            found |= _ratio_columns(phase, mine)
        if (busy := _reading(record, f"{phase}_busy_seconds", state, batch, length)) is not None:
            found[f"{phase}_busy"] = min(1.0, busy / found[f"{phase}_seconds"])
    return found


def _reading(record: Record, figure: str, state: str, batch: int, length: int) -> float | None:
    place = (figure, state, batch, length)
    found = (r.value for r in record.readings if (r.figure, r.state, r.batch_size, r.prompt_length) == place)
    return next(found, None)


def _ratio_columns(phase: str, pairs: Sequence[Pairs]) -> Mapping[str, Any]:
    ratio = arm_ratio(pairs, phase, pairs[0].arm)
    assert ratio is not None
    return {
        f"{phase}_seconds": stats.seconds([p.arm_seconds for p in pairs]),
        f"{phase}_ratio": ratio.estimate,
        f"{phase}_ratio_low": ratio.low,
        f"{phase}_ratio_high": ratio.high,
    }


def arm_ratio(pairs: Sequence[Pairs], phase: str, arm: str) -> stats.Interval | None:
    """The ratio of one arm over the control, from the processes that timed it."""
    logs = [stats.log_ratio(p) for p in pairs if (p.phase, p.arm) == (phase, arm)]
    return stats.ratio(logs) if logs else None


def reasons(record: Record, state: str) -> dict[str, str]:
    """Why a figure of a state is missing, by figure; ``*`` speaks for the whole state or cell."""
    found = {missing.figure: missing.reason for missing in record.missing if missing.state == state}
    if record.status is not Status.OK and record.reason is not None:
        found["*"] = f"{record.status}: {record.reason}"
    return found
