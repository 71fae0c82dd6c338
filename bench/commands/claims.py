"""``claims``: judges what is said about the methods by what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.commands.output import OK, VERDICT, check_output, publish
from bench.records.store import read_paths

FORMATS = ("text", "md", "json")


def claims_command(paths: Sequence[Path], format: str, output: Path | None, folder: Path | None) -> int:
    """Prints or writes the verdicts on the claims; status 1 if one contradicts what its file expects.

    Raises:
        UsageError: an option has no such value, a claim file is wrong, or there are no records.
    """
    check_output(format, FORMATS, output)
    records = read_paths(paths)
    from bench.claims.load import load_claims
    from bench.claims.report import claims_report
    from bench.claims.verdict import judge_all, unexpected

    judgments = judge_all(load_claims(folder), records)
    publish(claims_report(judgments, details=format == "md"), format, output)
    return VERDICT if any(unexpected(judgment) for judgment in judgments) else OK
