"""Measures the gate's own error rates: a known slowdown in a real model, many runs, quiet and beside a neighbour.

Runs are written as they end; the same command goes on where it was. What they mean is in `bench.gate.trials`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from bench.errors import UsageError
from bench.gate.trials import TRIALS_SCHEMA, Run, Trials
from bench.records.machine import commit, machine, versions
from bench.records.record import Status
from bench.records.results import Resolved, Timed
from bench.records.stats import log_ratio
from bench.records.store import read_json, write_json
from bench.runner.local import Children

SLOWDOWNS = {"zero_a": 0.0, "zero_b": 0.0, "five": 0.05, "two": 0.02, "ten": 0.10}
SELDOM = ("two", "ten")
EVERY = 8
"""The slowdowns for which no goal is set run along in every eighth run."""


def trials_path(folder: Path, noisy: bool) -> Path:
    """Where the trials under a condition are kept."""
    return folder / f"{'noisy' if noisy else 'quiet'}.json"


def read_trials(path: Path) -> Trials:
    """Stored trials.

    Raises:
        UsageError: the file is torn or of another schema.
    """
    return read_json(path, Trials, TRIALS_SCHEMA, "selftest")


def run_trials(path: Path, item: Resolved, wanted: int, noisy: bool, children: Children, console: Console) -> Trials:
    """Runs what is missing of ``wanted`` runs.

    Raises:
        UsageError: the trials there are of another configuration or machine, or a child failed.
    """
    config = item.cell.config
    if config["precision"]["processes"] < 2:
        raise UsageError("precision.processes: a spread to judge by needs two processes")
    trials = Trials("noisy" if noisy else "quiet", SLOWDOWNS, config)
    if path.exists():
        trials = read_trials(path)
        if trials.config != config:
            raise UsageError(f"{path} holds trials of another configuration: choose another --folder")
        if trials.machine != machine() and len(trials.runs) < wanted:
            raise UsageError(f"{path} holds trials of another machine: choose another --folder")
    else:
        trials = dataclasses.replace(trials, machine=machine(), versions=versions(), commit=commit())
    if len(trials.runs) >= wanted:
        return trials
    with _neighbour() if noisy else contextlib.nullcontext():
        started = time.monotonic()
        record = children(item.cell, "selftest", str)
        if record.status is not Status.OK:
            raise UsageError(f"{item.cell.id} {record.status}: {record.reason}")
        trials = dataclasses.replace(trials, check_seconds=(*trials.check_seconds, time.monotonic() - started))
        write_json(path, trials)
        while len(trials.runs) < wanted:
            trials = dataclasses.replace(trials, runs=(*trials.runs, _run(len(trials.runs), item, children)))
            write_json(path, trials)
            console.print(f"run {len(trials.runs)} of {wanted}: {trials.runs[-1].seconds:.0f} s", markup=False)
    return trials


def _run(number: int, item: Resolved, children: Children) -> Run:
    arms = {arm: slow for arm, slow in SLOWDOWNS.items() if number % EVERY == 0 or arm not in SELDOM}
    timed = Timed()
    started = time.monotonic()
    config = item.cell.config
    outcome = children.replicate("bench.worker.slowdown:measure_injected", config, (config, arms), timed, str)
    if outcome.status is not Status.OK:
        raise UsageError(f"run {number + 1} {outcome.status}: {outcome.reason}")
    logs = {arm: tuple(log_ratio(own) for own in timed.pairs if own.arm == arm) for arm in arms}
    return Run(logs, round(time.monotonic() - started, 2))


@contextlib.contextmanager
def _neighbour() -> Iterator[None]:
    """A bursty neighbour for as long as this lasts."""
    process = subprocess.Popen([sys.executable, "-m", "bench.gate.noise"])
    try:
        yield
    finally:
        process.kill()
        process.wait()
