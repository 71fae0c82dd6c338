"""``selftest``: measures the gate's own error rates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.commands.output import OK, console, publish


def selftest_command(overrides: Sequence[str], runs: int, noisy: bool, folder: Path) -> int:
    """Runs the trials that are missing and prints the error rates of all trials in the folder.

    Raises:
        UsageError: an override is wrong, or the folder holds trials of another configuration or machine.
    """
    from bench.config.compose import compose_run
    from bench.gate.report import rates_report
    from bench.gate.selftest import read_trials, run_trials, trials_path
    from bench.runner.local import LocalEngine
    from bench.runner.process import ProcessRunner
    from bench.runner.progress import Progress
    from bench.runner.sweep import check_cells

    sweep = compose_run(["study=selftest", *overrides])
    path = trials_path(folder, noisy)
    progress = Progress(console())
    runner = ProcessRunner(progress.beat)
    (item,) = check_cells(sweep.cells, runner, progress)
    run_trials(path, item, runs, noisy, LocalEngine(runner, sweep.time_limit), progress)
    publish(rates_report([read_trials(path) for path in sorted(folder.glob("*.json"))]), "text", None)
    return OK
