"""Measures the gate's own error rates: known slowdowns in a real model, many runs, on a quiet and on a noisy machine.

Each run is written when it ends, and the same command goes on from there. `bench.gate.trials` computes the rates.
"""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.config.aliases import trials_from_schema_1
from bench.errors import UsageError
from bench.gate.trials import TRIALS_SCHEMA, Run, Trials
from bench.records.machine import commit, machine, versions
from bench.records.record import Status
from bench.records.results import CheckedCell, LatencySamples
from bench.records.store import read_json, write_json
from bench.runner.local import LocalEngine
from bench.runner.progress import Progress

INJECTED = "bench.worker.slowdown:measure_injected"
COPIES = ("zero_a", "zero_b", "zero_c", "zero_d")
"""Of identical copies there are most, for it takes many checks to bound a rate of false alarms."""
SLOWDOWNS = {**dict.fromkeys(COPIES, 0.0), "five": 0.05, "tenth": 0.10, "two": 0.02, "ten": 0.10}
PERIODS = {"tenth": 10}
"""Every tenth step takes twice as long."""
RARE = ("two", "ten")
EVERY = 8
"""The rare slowdowns, for which there is no goal, are part of every eighth run."""


def trials_path(folder: Path, noisy: bool) -> Path:
    """Where the trials under a condition are kept."""
    return folder / f"{'noisy' if noisy else 'quiet'}.json"


def read_trials(path: Path) -> Trials:
    """Stored trials.

    Raises:
        UsageError: the file is torn or of another schema.
    """
    return read_json(path, Trials, TRIALS_SCHEMA, trials_from_schema_1, "selftest")


def run_trials(
    path: Path, item: CheckedCell, wanted: int, noisy: bool, engine: LocalEngine, progress: Progress
) -> Trials:
    """Runs the trials that are missing.

    Raises:
        UsageError: the stored trials have another configuration or machine, or a child failed.
    """
    config = item.cell.config
    if config["precision"]["processes"] < 2:
        raise UsageError("precision.processes: a spread needs two processes")
    trials = Trials("noisy" if noisy else "quiet", SLOWDOWNS, config, periods=PERIODS)
    if path.exists():
        trials = read_trials(path)
        if trials.config != config:
            raise UsageError(f"{path} holds trials of another configuration: choose another --folder")
        if trials.machine != machine() and len(trials.runs) < wanted:
            raise UsageError(f"{path} holds trials of another machine: choose another --folder")
        if (trials.slowdowns, trials.periods) != (SLOWDOWNS, PERIODS) and len(trials.runs) < wanted:
            raise UsageError(f"{path} holds trials of other slowdowns: choose another --folder")
    else:
        trials = dataclasses.replace(trials, machine=machine(), versions=versions(), commit=commit())
    if len(trials.runs) >= wanted:
        return trials
    with _noise() if noisy else contextlib.nullcontext():
        started = time.monotonic()
        with progress.task("a whole check"):
            record = engine.measure(item.cell, "selftest", progress.phase)
        if record.status is not Status.OK:
            raise UsageError(f"{item.cell.id} {record.status}: {record.reason}")
        trials = dataclasses.replace(trials, check_seconds=(*trials.check_seconds, time.monotonic() - started))
        write_json(path, trials)
        while len(trials.runs) < wanted:
            with progress.task(f"run {len(trials.runs) + 1} of {wanted}"):
                run = _run(len(trials.runs), item, engine, progress)
            trials = dataclasses.replace(trials, runs=(*trials.runs, run))
            write_json(path, trials)
            progress.console.print(f"run {len(trials.runs)} of {wanted}: {run.seconds:.0f} s", markup=False)
    return trials


def _run(number: int, item: CheckedCell, engine: LocalEngine, progress: Progress) -> Run:
    arms = {arm: slow for arm, slow in SLOWDOWNS.items() if number % EVERY == 0 or arm not in RARE}
    samples = LatencySamples()
    started = time.monotonic()
    config = item.cell.config
    outcome = engine.replicate(INJECTED, config, (config, arms, PERIODS), samples, progress.phase)
    if outcome.status is not Status.OK:
        raise UsageError(f"run {number + 1} {outcome.status}: {outcome.reason}")
    logs = {arm: tuple(own.log_ratio for own in samples.pairs if own.arm == arm) for arm in arms}
    means = {arm: tuple(own.mean_log_ratio for own in samples.pairs if own.arm == arm) for arm in arms}
    return Run(logs, round(time.monotonic() - started, 2), means)


@contextlib.contextmanager
def _noise() -> Iterator[None]:
    """A noisy machine for as long as this lasts."""
    process = subprocess.Popen([sys.executable, "-m", "bench.gate.noise"])
    try:
        yield
    finally:
        process.kill()
        process.wait()
