"""The verbs of the command line. No logic: each verb composes, calls and prints."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from bench.errors import UsageError

USAGE, INTERRUPTED, TERMINATED = 2, 130, 143
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Benchmarks and compares parameter-efficient fine-tuning methods.",
)
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Hydra overrides, such as method=lora method.rank=4 model=gpt2.", show_default=False),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Measure again what is recorded already.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and list the cells, run none.")]


@app.command()
def run(overrides: Overrides = None, fresh: Fresh = False, dry_run: DryRun = False) -> None:
    """Measure one cell."""
    from bench.compose import compose_run
    from bench.session import run_command

    raise typer.Exit(run_command(compose_run(overrides or []), fresh=fresh, dry_run=dry_run))


@app.command()
def multirun(overrides: Overrides = None, fresh: Fresh = False, dry_run: DryRun = False) -> None:
    """Measure a grid of cells: study=default, or commas in overrides (method=lora,adapter method.rank=4,16)."""
    from bench.compose import compose_multirun
    from bench.session import run_command

    raise typer.Exit(run_command(compose_multirun(overrides or []), fresh=fresh, dry_run=dry_run))


@app.command()
def table(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Records or folders of records. [default: results]", show_default=False)
    ] = None,
    format: Annotated[str, typer.Option("--format", "-f", help="text, md, csv, latex or parquet.")] = "text",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; parquet needs one.")] = None,
) -> None:
    """Compare what was measured."""
    from bench.session import table_command

    raise typer.Exit(table_command(paths or [Path("results")], format, output))


@app.command()
def selftest(
    overrides: Overrides = None,
    runs: Annotated[int, typer.Option("--runs", min=2, help="Runs wanted; those stored count.")] = 100,
    noisy: Annotated[bool, typer.Option("--noisy", help="Beside a bursty neighbour.")] = False,
    folder: Annotated[Path, typer.Option("--folder", help="Where the trials are kept.")] = Path("results/selftest"),
) -> None:
    """Measure the gate's own error rates: known slowdowns injected into a real model. Takes a while."""
    from bench.compose import compose_run
    from bench.session import selftest_command

    raise typer.Exit(selftest_command(compose_run(["study=selftest", *(overrides or [])]), runs, noisy, folder))


def main() -> None:
    """Runs the command line; bad input ends with one line and status 2."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = app(standalone_mode=False)
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


def _terminate(_signal: int, _frame: object) -> NoReturn:
    """Ends as an exception would, so that children are ended and folders removed on the way out."""
    raise SystemExit(TERMINATED)


def _end(line: str, status: int) -> int:
    if line:
        print(line, file=sys.stderr)  # noqa: T201  # the one place that speaks to the person directly
    return status
