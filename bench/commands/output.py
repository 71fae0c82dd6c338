"""How results leave a command: formats, files, the console, the exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.report.table import Report

OK, VERDICT = 0, 1
BINARY = ("parquet",)


def console(stderr: bool = False) -> Console:
    """Where a command prints."""
    return Console(highlight=False, stderr=stderr)


def check_output(format: str, formats: Sequence[str], output: Path | None) -> None:
    """Refuses options that name no format of the command, or no file that can be written.

    Raises:
        UsageError: naming the option.
    """
    files = [name for name in formats if name != "text"]
    if format not in formats:
        raise UsageError(f"invalid --format '{format}': choose from {', '.join(formats)}")
    if format == "text" and output is not None:
        raise UsageError(f"--output needs another --format: choose from {', '.join(files)}")
    if format in BINARY and output is None:
        raise UsageError(f"--format {format} needs --output FILE")
    check_file("--output", output)


def check_file(option: str, path: Path | None) -> None:
    """Refuses a path at which no file can be written.

    Raises:
        UsageError: it is a folder, or its folder does not exist.
    """
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UsageError(f"{option} {path}: give a file in a folder that exists")


def publish(report: Report, format: str, output: Path | None) -> None:
    """Prints the report, or writes it to a file.

    Raises:
        UsageError: the file can't be written.
    """
    from bench.report.render import print_report, render

    if format == "text":
        print_report(report, console())
        return
    content = render(report, format)
    if output is None:
        sys.stdout.write(content.decode())
        return
    try:
        output.write_bytes(content)
    except OSError as error:
        raise UsageError(f"--output {output}: {error.strerror}") from error
