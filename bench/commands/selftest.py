"""``selftest``."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from bench.commands.output import OK
from bench.config.schema import Sweep
from bench.gate.report import print_rates
from bench.gate.selftest import read_trials, run_trials, trials_path
from bench.runner.local import Children
from bench.runner.process import Launcher
from bench.runner.sweep import resolve_cells


def selftest_command(sweep: Sweep, runs: int, noisy: bool, folder: Path) -> int:
    """Runs what is missing of the trials and prints the error rates of all there are in the folder."""
    console = Console(highlight=False)
    path = trials_path(folder, noisy)
    launcher = Launcher()
    (item,) = resolve_cells(sweep.cells, launcher, str)
    run_trials(path, item, runs, noisy, Children(launcher, sweep.time_limit), console)
    print_rates([read_trials(path) for path in sorted(folder.glob("*.json"))], console)
    return OK
