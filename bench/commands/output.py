"""How results leave a command: formats, files, the console."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.errors import UsageError
from bench.estimate.report import render
from bench.report.table import Sheet, print_sheets


@contextmanager
def _status(console: Console) -> Iterator[Callable[[str], object]]:
    """Says on a terminal what is being worked out: gives what is to be called with it."""
    if not console.is_terminal:
        yield str
        return
    with console.status("") as status:
        yield status.update


def _check_format(format: str, formats: Sequence[str], output: Path | None) -> None:
    if format not in formats:
        raise UsageError(f"--format {format}: there are {', '.join(formats)}")
    if format == "text" and output is not None:
        raise UsageError(f"--output needs --format {', '.join(formats[1:-1])} or {formats[-1]}")
    if output is not None and (output.is_dir() or not output.absolute().parent.is_dir()):
        raise UsageError(f"--output {output}: give a file in a folder that is there")


def _publish(tables: Sequence[Sheet], rows: Sequence[dict[str, Any]], format: str, output: Path | None) -> None:
    if format == "text":
        print_sheets(tables, Console(highlight=False))
        return
    content = render(tables, rows, format)
    if output is None:
        sys.stdout.write(content)
        return
    try:
        output.write_text(content)
    except OSError as error:
        raise UsageError(f"--output {output}: {error.strerror}") from error


OK, VERDICT = 0, 1


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UsageError(f"--output {path}: {error.strerror}") from error
