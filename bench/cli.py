"""The subcommands: their signatures and help. Each calls one function of `bench.commands`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from bench import __version__
from bench.errors import UsageError

USAGE, INTERRUPTED, TERMINATED = 2, 130, 143
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Benchmarks and compares parameter-efficient fine-tuning methods.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Benchmarks and compares parameter-efficient fine-tuning methods."""


baseline = typer.Typer(no_args_is_help=True, help="Keep what later runs are checked against.")
app.add_typer(baseline, name="baseline")
Baselines = Annotated[Path, typer.Option("--baselines", help="Folder of the baselines.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Hydra overrides, such as method=lora method.rank=4 model=gpt2.", show_default=False),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Measure again what is recorded already.")]
Within = Annotated[
    float | None,
    typer.Option(
        "--within", help="Minutes after which no further cell is started; the same command goes on.", show_default=False
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and list the cells, run none.")]


@app.command()
def run(overrides: Overrides = None, fresh: Fresh = False, dry_run: DryRun = False) -> None:
    """Measure one cell."""
    known = _known(overrides)
    from bench.commands.run import run_command

    raise typer.Exit(run_command(known, fresh, dry_run))


@app.command()
def multirun(overrides: Overrides = None, fresh: Fresh = False, dry_run: DryRun = False, within: Within = None) -> None:
    """Measure a grid of cells: study=default, or commas in overrides (method=lora,adapter method.rank=4,16)."""
    known = _known(overrides)
    from bench.commands.run import multirun_command

    raise typer.Exit(multirun_command(known, fresh, dry_run, within))


@app.command()
def estimate(
    overrides: Overrides = None,
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", help="Records, or folders of records, to compare estimates with."),
    ] = None,
    cards: Annotated[str, typer.Option("--cards", help="GiB of the cards in question.")] = "24,48,80,141",
    largest: Annotated[
        bool, typer.Option("--largest", help="Also the largest batch and length on each card: many steps a cell.")
    ] = False,
    format: Annotated[str, typer.Option("--format", "-f", help="text, md, csv or json.")] = "text",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
) -> None:
    """Estimate what multirun would measure, without weights or device: memory, FLOPs, structure, what fits a card."""
    known = _known(overrides)
    from bench.commands.estimate import against_command, estimate_command

    if against:
        raise typer.Exit(against_command(against, known, format, output))
    raise typer.Exit(estimate_command(known, cards, largest, format, output))


@app.command()
def table(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Records or folders of records. [default: results]", show_default=False)
    ] = None,
    format: Annotated[str, typer.Option("--format", "-f", help="text, md, csv, latex or parquet.")] = "text",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; parquet needs one.")] = None,
) -> None:
    """Compare what was measured."""
    from bench.commands.table import table_command

    raise typer.Exit(table_command(paths or [Path("results")], format, output))


@app.command()
def claims(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Records or folders of records. [default: results]", show_default=False)
    ] = None,
    format: Annotated[str, typer.Option("--format", "-f", help="text, md or json.")] = "text",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--claims", help="Folder of claim files. [default: conf/claim]", show_default=False)
    ] = None,
) -> None:
    """Judge what is said about the methods by what was measured: supported, refuted or unclear."""
    from bench.commands.claims import claims_command

    raise typer.Exit(claims_command(paths or [Path("results")], format, output, folder))


@baseline.command()
def save(
    name: Annotated[str, typer.Argument(help="Name of the baseline.")],
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Records or folders of records. [default: results]", show_default=False)
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Move a baseline that is there already.")] = False,
    folder: Baselines = Path("results/baselines"),
) -> None:
    """Keep the log-ratios and exact metrics of records, to check later runs against."""
    from bench.commands.check import save_command

    raise typer.Exit(save_command(name, paths or [Path("results")], folder, replace))


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="Name of the baseline.")],
    against: Annotated[
        list[Path] | None, typer.Option("--against", help="Records to check, instead of running the cells again.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            help="Smallest slowdown that counts, as a fraction. [default: 0.03, on another machine 0.05]",
            show_default=False,
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="What is not known is a failure too.")] = False,
    junit: Annotated[Path | None, typer.Option("--junit", help="JUnit XML file to write.")] = None,
    folder: Baselines = Path("results/baselines"),
    results: Annotated[Path, typer.Option("--results", help="Where the records of the run go.")] = Path("results"),
    limit: Annotated[float, typer.Option("--time-limit", min=1, help="Seconds that one child may take.")] = 1800,
) -> None:
    """Measure a baseline's cells again: 0 passed, 1 regressed, 3 ambiguous or incomparable."""
    from bench.commands.check import check_command

    raise typer.Exit(check_command(name, against, threshold, strict, junit, folder, results, limit))


@app.command()
def selftest(
    overrides: Overrides = None,
    runs: Annotated[int, typer.Option("--runs", min=3, help="Runs wanted; those stored count.")] = 100,
    noisy: Annotated[bool, typer.Option("--noisy", help="Beside a bursty neighbour.")] = False,
    folder: Annotated[Path, typer.Option("--folder", help="Where the trials are kept.")] = Path("results/selftest"),
) -> None:
    """Measure the gate's own error rates: known slowdowns injected into a real model. Takes a while."""
    known = _known(overrides)
    from bench.commands.selftest import selftest_command

    raise typer.Exit(selftest_command(known, runs, noisy, folder))


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line, or the arguments given; bad input ends with one line and status 2."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = app(arguments, standalone_mode=False)
    except UsageError as error:
        status = _end(f"error: {error}", USAGE)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except Exception as error:
        # the parser's own refusals: their classes have moved from one release of typer to the next
        if not hasattr(error, "format_message"):
            raise
        line = " ".join(error.format_message().split())
        status = _end(f"error: {line}" if line else "", USAGE)  # no line: the help was printed
    if status == INTERRUPTED:  # typer may have caught it already
        _end("interrupted; what was recorded is kept, the same command goes on", status)
    raise SystemExit(status)


def _known(overrides: list[str] | None) -> list[str]:
    """The overrides, refused before anything else is imported if one has an unknown key."""
    from bench.config.keys import check_overrides

    check_overrides(overrides or [])
    return overrides or []


def _terminate(_signal: int, _frame: object) -> NoReturn:
    """Ends as an exception would, so that children are ended and folders removed on the way out."""
    raise SystemExit(TERMINATED)


def _end(line: str, status: int) -> int:
    if line:
        print(line, file=sys.stderr)  # noqa: T201  # the one place that speaks to the person directly
    return status
