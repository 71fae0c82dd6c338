"""The subcommands: their signatures and help. Each calls one function of `bench.commands`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from bench import __version__
from bench.errors import UsageError

USAGE, INTERRUPTED, CLOSED, TERMINATED = 2, 130, 141, 143
PATH = click.Path(path_type=Path)
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _option(names: str, help: str, **settings: Any) -> Decorator:
    """An option, with its default in the help where that is a value."""
    return click.option(*names.split(), help=help, show_default=settings.get("default") is not None, **settings)


def _switch(name: str, help: str) -> Decorator:
    return click.option(name, help=help, is_flag=True)


OVERRIDES = click.argument("overrides", nargs=-1, callback=lambda _context, _argument, given: _known(given))
RECORDS = click.argument("paths", metavar="[RECORDS]...", nargs=-1, type=PATH, default=(Path("results"),))
NAME = click.argument("name")
FRESH = _switch("--fresh", "Measure again what is recorded already.")
DRY_RUN = _switch("--dry-run", "Check and list the cells, run none.")
OUTPUT = _option("--output -o", "File to write; parquet needs one.", type=PATH)
BASELINES = _option("--baselines", "Folder of the baselines.", type=PATH, default=Path("results/baselines"))


def _format(names: str) -> Decorator:
    return _option("--format -f", f"{names}.", default="text")


@click.group(context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100})
@click.version_option(__version__, message="%(version)s")
def app() -> None:
    """Benchmarks and compares parameter-efficient fine-tuning methods.

    OVERRIDES are Hydra's: method=lora method.rank=4 model=gpt2. RECORDS are files, or folders of files: results where
    none is given.
    """


@app.command()
@OVERRIDES
@FRESH
@DRY_RUN
def run(overrides: list[str], fresh: bool, dry_run: bool) -> int:
    """Measure one cell."""
    from bench.commands.run import run_command

    return run_command(overrides, fresh, dry_run)


@app.command()
@OVERRIDES
@FRESH
@DRY_RUN
@_option("--within", "Minutes after which no further cell is started; the same command goes on.", type=float)
def multirun(overrides: list[str], fresh: bool, dry_run: bool, within: float | None) -> int:
    """Measure a grid of cells.

    study=default where no study is named, or commas in overrides: method=lora,adapter method.rank=4,16.
    """
    from bench.commands.run import multirun_command

    return multirun_command(overrides, fresh, dry_run, within)


@app.command()
@OVERRIDES
@_option("--against", "Records, or folders of records, to compare estimates with.", type=PATH, multiple=True)
@_option("--cards", "GiB of the cards in question.", default="24,48,80,141")
@_switch("--largest", "Also the largest batch and length on each card: many steps a cell.")
@_format("text, md, csv or json")
@OUTPUT
def estimate(
    overrides: list[str], against: tuple[Path, ...], cards: str, largest: bool, format: str, output: Path | None
) -> int:
    """Estimate what multirun would measure.

    Memory, FLOPs, structure and what fits a card, without weights or device.
    """
    from bench.commands.estimate import against_command, estimate_command

    if against:
        return against_command(against, overrides, format, output)
    return estimate_command(overrides, cards, largest, format, output)


@app.command()
@RECORDS
@_format("text, md, csv, latex or parquet")
@OUTPUT
def table(paths: tuple[Path, ...], format: str, output: Path | None) -> int:
    """Compare what was measured."""
    from bench.commands.table import table_command

    return table_command(paths, format, output)


@app.command()
@RECORDS
@_option("--axes", "Metrics, separated by commas; NAME@merged is of the merged state.")
@_format("text, md, latex, csv or json")
@OUTPUT
def pareto(paths: tuple[Path, ...], axes: str | None, format: str, output: Path | None) -> int:
    """Name the methods that no other beats.

    On all axes at once: parameters, file, memory, speed and latency where no --axes are given. Each of the others
    stands with what dominates it.
    """
    from bench.commands.pareto import pareto_command

    return pareto_command(paths, axes, format, output)


@app.command()
@RECORDS
@_format("text, md or json")
@OUTPUT
@_option("--claims folder", "Folder of claim files.  [default: conf/claim]", type=PATH)
def claims(paths: tuple[Path, ...], format: str, output: Path | None, folder: Path | None) -> int:
    """Judge what is said about the methods.

    By what was measured, each claim is supported, refuted or unclear.
    """
    from bench.commands.claims import claims_command

    return claims_command(paths, format, output, folder)


@app.group()
def baseline() -> None:
    """Keep what later runs are checked against."""


@baseline.command()
@NAME
@RECORDS
@_switch("--replace", "Move a baseline that is there already.")
@BASELINES
def save(name: str, paths: tuple[Path, ...], replace: bool, baselines: Path) -> int:
    """Make a baseline of records.

    It has their log-ratios and exact metrics.
    """
    from bench.commands.check import save_command

    return save_command(name, paths, baselines, replace)


@app.command()
@NAME
@_option("--against", "Records to check, instead of running the cells again.", type=PATH, multiple=True)
@_option(
    "--threshold",
    "Smallest slowdown that counts, as a fraction.  [default: 0.03, on another machine 0.05]",
    type=float,
)
@_switch("--strict", "What is not known is a failure too.")
@_option("--junit", "JUnit XML file to write.", type=PATH)
@BASELINES
@_option("--results", "Where the records of the run go.", type=PATH, default=Path("results"))
@_option("--time-limit", "Seconds that one child may take.", type=click.FloatRange(min=1), default=1800.0)
def check(
    name: str,
    against: tuple[Path, ...],
    threshold: float | None,
    strict: bool,
    junit: Path | None,
    baselines: Path,
    results: Path,
    time_limit: float,
) -> int:
    """Measure a baseline's cells again.

    Ends with status 0 if they passed, 1 if one regressed, 3 if one is ambiguous or incomparable.
    """
    from bench.commands.check import check_command

    return check_command(name, against, threshold, strict, junit, baselines, results, time_limit)


@app.command()
@OVERRIDES
@_option("--runs", "Runs wanted; those stored count.", type=click.IntRange(min=3), default=100)
@_switch("--noisy", "Beside a bursty neighbor.")
@_option("--folder", "Where the trials are kept.", type=PATH, default=Path("results/selftest"))
def selftest(overrides: list[str], runs: int, noisy: bool, folder: Path) -> int:
    """Measure the gate's own error rates.

    Known slowdowns are injected into a real model. Takes a while.
    """
    from bench.commands.selftest import selftest_command

    return selftest_command(overrides, runs, noisy, folder)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line, or the arguments given; bad input ends with one line and status 2."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        # not `app.main`, which would write an empty line of its own when it is interrupted
        with app.make_context("python -m bench", sys.argv[1:] if arguments is None else arguments) as context:
            status = app.invoke(context) or 0
    except click.exceptions.Exit as end:  # --help, --version
        status = end.exit_code
    except UsageError as error:
        status = _end(f"error: {error}", USAGE)
    except click.exceptions.NoArgsIsHelpError as error:
        status = _end(error.format_message(), USAGE)
    except click.ClickException as error:
        status = _end(f"error: {' '.join(error.format_message().split())}", USAGE)
    except KeyboardInterrupt:
        status = _end("interrupted; what was recorded is kept, the same command goes on", INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = CLOSED
    raise SystemExit(status)


def _known(overrides: tuple[str, ...]) -> list[str]:
    """The overrides, refused before anything else is imported if one has an unknown key."""
    from bench.config.keys import check_overrides

    check_overrides(overrides)
    return list(overrides)


def _terminate(_signal: int, _frame: object) -> NoReturn:
    """Ends as an exception would, so that children are ended and folders removed on the way out."""
    raise SystemExit(TERMINATED)


def _end(line: str, status: int) -> int:
    print(line, file=sys.stderr)  # noqa: T201  # the one place that speaks to the person directly
    return status
