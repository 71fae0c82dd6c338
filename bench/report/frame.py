"""Records as one data frame: a row for each cell, state and workload point. The public interface of CSV and Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from bench.config.schema import REFERENCE_KEY
from bench.probes.registry import measured, metrics
from bench.records import stats
from bench.records.metrics import INTEGER_UNITS, Scope
from bench.records.record import CONTROL, MERGED, REFERENCE, TRAIN, UNMERGED, Point, Record, Status

IDENTITY = (
    "cell", "study", "method", "implementation", "size", "model", "layers", "hidden_size",
    "batch_size", "prompt_length", "dtype", "attention", "runtime", "device", "threads", "seed",
    "data", "train_batch_size", "train_length", "train_tokens", "learning_rate", "settings",
    "torch", "transformers", "machine",
    "state", "status", "reason",
)  # fmt: skip
"""What identifies a row. In rows of the base ``method`` is ``control``, and ``cell`` is the cell it was timed in."""

TEXT = frozenset({
    "cell", "study", "method", "implementation", "model", "dtype", "attention", "runtime", "device", "data",
    "settings", "torch", "transformers", "machine", "state", "status", "reason",
})  # fmt: skip


def columns() -> list[str]:
    """All columns, in order."""
    found: list[str] = []
    for name, metric in metrics().items():
        found.extend([f"{name}_before", f"{name}_after"] if metric.scope is Scope.PROGRESS else [name])
    return [*IDENTITY, *found]


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row for each cell, state and workload point; a missing metric is NaN."""
    rows = [row for record in records for row in _rows(record)]
    table = pd.DataFrame(rows, columns=columns())
    for name in table.columns:
        if name not in TEXT:
            table[name] = pd.to_numeric(table[name])
    return table


def export(records: Sequence[Record]) -> pd.DataFrame:
    """`frame` with the types that CSV and Parquet promise, even where values are missing: text, integers and floats."""
    table = frame(records)
    known = metrics()
    for name in table.columns:
        metric = known.get(name)
        if name in TEXT:
            table[name] = table[name].astype("string")
        elif (name in IDENTITY and name != "learning_rate") or (metric is not None and metric.unit in INTEGER_UNITS):
            table[name] = table[name].astype("Int64")
    return table


def _rows(record: Record) -> Iterator[dict[str, Any]]:
    for batch, length in record.cell.points:
        for state in states(record):
            yield {
                **_identity(record, state),
                "batch_size": batch,
                "prompt_length": length,
                **_metrics(record, state, (batch, length)),
            }


def states(record: Record) -> list[str]:
    """States that get a row: those with a metric, and of a cell that has none of its method the unmerged one."""
    seen = record.states()
    absent = {missing.state for missing in record.missing if missing.metric is None}
    present = [state for state in (CONTROL, UNMERGED, MERGED, REFERENCE) if state in seen and state not in absent]
    return present if set(present) - {CONTROL} else [*present, UNMERGED]


def _identity(record: Record, state: str) -> dict[str, Any]:
    config, cell = record.cell.config, record.cell
    shape = record.metadata.get("model", {})
    control = state == CONTROL
    own = cell.reference if state == REFERENCE and cell.reference is not None else cell
    settings = config[REFERENCE_KEY if own is cell.reference else "method"]
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
        "machine": record.processor,
        "state": state,
        "status": str(record.status),
        "reason": record.reason,
    }


def _settings(method: Mapping[str, Any]) -> str:
    """The method's own settings as JSON, because a sweep may vary one that has no column."""
    own = {key: value for key, value in method.items() if key not in ("_target_", "learning_rate")}
    return json.dumps(own, sort_keys=True)


def _metrics(record: Record, state: str, point: Point) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, metric in metrics().items():
        if metric.scope is not Scope.PROGRESS:
            found[name] = measured(record, name, state, point)
            continue
        found[f"{name}_before"] = record.value(name, CONTROL, point)
        if state != CONTROL:
            found[f"{name}_after"] = record.value(name, state, point)
    return {**found, **_latency(record, state, point), **_training(record, state)}


def _latency(record: Record, state: str, point: Point) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for phase in ("prefill", "decode"):
        pairs = record.pairs_of(phase, None if state == CONTROL else state, point)
        if not pairs:
            continue
        found["processes"] = len({own.process for own in pairs})
        if state == CONTROL:
            seconds = stats.seconds([own.control_seconds for own in pairs])
            found |= {f"{phase}_seconds": seconds, f"{phase}_ratio": 1.0}
        else:
            ratio = stats.ratio([own.log_ratio for own in pairs])
            found |= {
                f"{phase}_seconds": stats.seconds([own.arm_seconds for own in pairs]),
                f"{phase}_ratio": ratio.estimate,
                f"{phase}_ratio_low": ratio.low,
                f"{phase}_ratio_high": ratio.high,
            }
        if (busy := record.value(f"{phase}_busy_seconds", state, point)) is not None:
            found[f"{phase}_busy"] = min(1.0, busy / found[f"{phase}_seconds"])
    return found


def _training(record: Record, state: str) -> dict[str, Any]:
    """The speed vs. the training reference. That of a cell with a reference of its own is in
    `bench.report.head_to_head`."""
    pairs = [] if record.cell.reference is not None or state == CONTROL else record.pairs_of(TRAIN, UNMERGED)
    if not pairs:
        return {}
    ratio = stats.ratio([-own.log_ratio for own in pairs])
    batch, length = pairs[0].point
    seconds = stats.seconds([own.arm_seconds for own in pairs])
    return {
        "train_step_seconds": seconds,
        "train_ratio": ratio.estimate,
        "train_ratio_low": ratio.low,
        "train_ratio_high": ratio.high,
        "train_tokens_per_second": batch * length / seconds,
        "train_reference_tokens_per_second": batch * length / stats.seconds([own.control_seconds for own in pairs]),
    }


def reasons(record: Record, state: str) -> list[tuple[str | None, str]]:
    """Metrics of a state that are missing, with the reason; None for all metrics of the state or the cell."""
    found = [(missing.metric, missing.reason) for missing in record.missing if missing.state == state]
    if record.status is not Status.OK and record.reason is not None:
        found.append((None, f"{record.status}: {record.reason}"))
    return found
