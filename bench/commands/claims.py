"""``claims``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.claims.load import load_claims
from bench.claims.report import CLAIM_FORMATS, print_claims, render_claims
from bench.claims.verdict import judge_all, surprising
from bench.commands.output import OK, VERDICT, _write
from bench.errors import UsageError
from bench.records.store import read_paths


def claims_command(paths: Sequence[Path], format: str, output: Path | None, folder: Path | None) -> int:
    """Prints or writes the verdicts on the claims; status 1 where one is the contrary of what its file expects."""
    if format not in CLAIM_FORMATS:
        raise UsageError(f"--format {format}: there are {', '.join(CLAIM_FORMATS)}")
    if format == "text" and output is not None:
        raise UsageError("--output needs --format md or json")
    judgements = judge_all(load_claims(folder), read_paths(paths))
    if format == "text":
        print_claims(judgements, Console(highlight=False))
    elif output is not None:
        _write(output, render_claims(judgements, format))
    else:
        sys.stdout.write(render_claims(judgements, format).decode())
    return VERDICT if any(surprising(judgement) for judgement in judgements) else OK
