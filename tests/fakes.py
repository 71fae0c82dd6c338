"""A fake measuring device: cells, and records with plausible metrics that depend on the cell alone."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from bench.records.cell import Cell
from bench.records.record import AA, CONTROL, MERGED, UNMERGED, Measurement, Missing, Pairs, Record, Status
from bench.records.results import CheckedCell

MERGEABLE = frozenset({"lora", "adalora", "qlora"})
SIZES = {
    "full": None,
    "prompt_tuning": 20,
    "p_tuning": 20,
    "p_tuning_v2": 20,
    "prefix_tuning": 20,
    "adapter": 16,
    "lora": 8,
    "adalora": 8,
    "qlora": 8,
}
"""Every method of the default study, with its default size."""
SETTINGS = {"adapter": "bottleneck", "lora": "rank", "adalora": "rank", "qlora": "rank"}
"""The setting that gives a method's size; of all others ``num_virtual_tokens``."""
STARTED = "2026-01-01T00:00:00+00:00"


def make_cell(
    method: str = "lora",
    size: int | None = 8,
    *,
    dtype: str = "float32",
    prompt_lengths: Iterable[int] = (128,),
    train_length: int = 128,
    threads: int | None = 1,
    learning_rate: float = 1e-3,
    model: str = "tiny",
) -> Cell:
    """A cell shaped as those that ``bench.workload.resolve.resolve`` makes."""
    config: dict[str, Any] = {
        "method": {
            "_target_": f"methods.{method}.Fake",
            "learning_rate": learning_rate,
            SETTINGS.get(method, "num_virtual_tokens"): size,
        },
        "model": {"name": model, "source": "config", "dtype": dtype, "attention": "sdpa"},
        "data": {"name": "stdlib"},
        "workload": {
            "name": "default",
            "train_batch_size": 4,
            "train_length": train_length,
            "train_steps": 12,
            "held_out_sequences": 16,
            "batch_sizes": [1],
            "prompt_lengths": list(prompt_lengths),
        },
        "runtime": {"name": "eager"},
        "device": {"name": "cpu", "type": "cpu", "threads": threads, "sharing": "auto"},
        "precision": {"name": "quick", "processes": 3, "pairs": 4},
        "seed": 0,
    }
    return Cell(method=method, implementation="peft-verdict", size=size, model=model, config=config)


def make_record(
    cell: Cell,
    *,
    status: Status = Status.OK,
    reason: str | None = None,
    study: str = "test",
    started: str = STARTED,
    processes: int = 3,
    lacking: Iterable[str] = (),
) -> Record:
    """The record of ``cell``; one that is not ok has no metrics. Metrics in ``lacking`` are missing, with a reason."""
    rng = random.Random(cell.id)
    plain: dict[str, Any] = {
        "cell_id": cell.id,
        "study": study,
        "cell": cell,
        "machine": {"processor": "fake"},
        "versions": {"python": "3.11.7", "torch": "2.11.0"},
        "started": started,
        "seconds": 1.5,
    }
    if status is not Status.OK:
        return Record(status=status, reason=reason or f"it was {status}", **plain)
    lacking = frozenset(lacking)
    missing = [Missing(name, UNMERGED, f"there is no {name} here") for name in sorted(lacking)]
    states = [UNMERGED, MERGED] if cell.method in MERGEABLE else [UNMERGED]
    if MERGED not in states:
        missing.append(Missing(None, MERGED, f"{cell.method} can't be merged into the base weights"))
    measurements = [*_readings(rng, cell, CONTROL)] + [r for state in states for r in _readings(rng, cell, state)]
    return Record(
        status=Status.OK,
        reason=None,
        measurements=tuple(r for r in measurements if r.metric not in lacking or r.state == CONTROL),
        missing=tuple(missing),
        pairs=tuple(_pairs(rng, cell, states, processes)),
        metadata={"model": {"layers": 4, "hidden_size": 256}, "training": {"tokens": 6144, "losses": [8.3, 8.1]}},
        **plain,
    )


def _readings(rng: random.Random, cell: Cell, state: str) -> Iterable[Measurement]:
    yield Measurement("total_parameters", 5_048_576, state)
    yield Measurement("resident_parameters", 0 if state != UNMERGED else rng.randrange(1_000, 100_000), state)
    yield Measurement("loss", 8.3 if state == CONTROL else rng.uniform(7.0, 8.2), state)
    yield Measurement("bits_per_byte", rng.uniform(2.0, 3.0), state)
    yield Measurement("token_accuracy", rng.uniform(0.0, 0.2), state)
    for length in cell.config["workload"]["prompt_lengths"]:
        for name in ("cache_length", "cache_bytes"):
            yield Measurement(name, length * (1 if name == "cache_length" else 2048), state, 1, length)
        for phase in ("prefill", "decode"):
            for name in ("operations", "matmuls", "critical_path", "critical_path_matmuls", "flops"):
                yield Measurement(f"{phase}_{name}", rng.randrange(50, 500), state, 1, length)
    if state == MERGED:
        yield Measurement("merge_error", rng.uniform(1e-8, 1e-6), MERGED)
    if state == UNMERGED:
        trained = rng.randrange(1_000, 100_000)
        yield Measurement("trained_parameters", trained, UNMERGED)
        yield Measurement("shipped_parameters", trained, UNMERGED)
        yield Measurement("checkpoint_bytes", 4 * trained + 512, UNMERGED)
        yield Measurement("train_peak_bytes", rng.randrange(20 << 20, 200 << 20), UNMERGED)
        yield Measurement("train_tokens_per_second", rng.uniform(500.0, 5000.0), UNMERGED)


def _pairs(rng: random.Random, cell: Cell, states: list[str], processes: int) -> Iterable[Pairs]:
    for process in range(processes):
        for length in cell.config["workload"]["prompt_lengths"]:
            for phase, seconds in (("prefill", 4e-3), ("decode", 6.6e-4)):
                for arm in (*states, AA):
                    control = tuple(seconds * rng.lognormvariate(0, 0.01) for _ in range(4))
                    slower = 1.0 if arm == AA else 1.1
                    yield Pairs(
                        process=process,
                        phase=phase,
                        arm=arm,
                        batch_size=1,
                        prompt_length=length,
                        steps_per_block=3,
                        discarded_steps=3,
                        control_seconds=control,
                        arm_seconds=tuple(s * slower * rng.lognormvariate(0, 0.01) for s in control),
                        control_first=(True, False, True, False),
                        shared_weights=False,
                    )


@dataclass
class FakeEngine:
    """Stands in for `bench.runner.local.LocalEngine`."""

    endings: dict[str, Status] = field(default_factory=dict)
    """How the cell of a method ends, where not well."""
    not_numbers: frozenset[str] = frozenset()
    """Methods one of whose measurements is NaN."""
    before: Callable[[Cell], object] = lambda cell: None
    """Called as each cell starts."""
    measured: list[str] = field(default_factory=list)
    """Methods, in the order in which they were measured."""

    def measure(self, cell: Cell, study: str, listen: Callable[[str], object]) -> Record:
        self.before(cell)
        self.measured.append(cell.method)
        listen("measuring")
        record = make_record(cell, status=self.endings.get(cell.method, Status.OK), study=study)
        if cell.method not in self.not_numbers:
            return record
        nan = Measurement("loss", float("nan"), UNMERGED)
        return dataclasses.replace(record, measurements=(*record.measurements, nan))


def checked_cells(*methods: str) -> list[CheckedCell]:
    """A cell of each method, checked and found good."""
    return [CheckedCell(make_cell(method, SIZES[method]), skip=None) for method in methods]


def pairs_at(
    logs: Iterable[float],
    *,
    phase: str = "decode",
    arm: str = UNMERGED,
    point: tuple[int, int] = (1, 128),
    control_seconds: float = 1e-3,
) -> list[Pairs]:
    """One process a log-ratio, each with a single pair that has exactly this ratio."""
    return [
        Pairs(
            process=process,
            phase=phase,
            arm=arm,
            batch_size=point[0],
            prompt_length=point[1],
            steps_per_block=1,
            discarded_steps=0,
            control_seconds=(control_seconds,),
            arm_seconds=(control_seconds * math.exp(log),),
            control_first=(True,),
            shared_weights=False,
        )
        for process, log in enumerate(logs)
    ]


def known(cell: Cell, measurements: Iterable[Measurement] = (), pairs: Iterable[Pairs] = (), **changes: Any) -> Record:
    """A record with these metrics and no others."""
    record = make_record(cell)
    return dataclasses.replace(record, measurements=tuple(measurements), pairs=tuple(pairs), missing=(), **changes)
