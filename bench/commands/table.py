"""``table``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.commands.output import OK, _write
from bench.errors import UsageError
from bench.records.store import read_paths
from bench.report import render


def table_command(paths: Sequence[Path], format: str, output: Path | None) -> int:
    """Prints or writes the comparison of stored records."""
    if format not in render.FORMATS:
        raise UsageError(f"--format {format}: there are {', '.join(render.FORMATS)}")
    records = read_paths(paths)
    if format == "text" and output is None:
        render.print_table(records, Console(highlight=False))
        return OK
    if format == "text":
        raise UsageError("--output needs --format md, csv, latex or parquet")
    if format == "parquet" and output is None:
        raise UsageError("--format parquet needs --output FILE")
    content = render.render(records, format)
    if output is not None:
        _write(output, content)
    else:
        sys.stdout.write(content.decode())
    return OK
