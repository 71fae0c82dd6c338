"""The generated blocks of the pages: what stands between ``<!-- KIND: ARGUMENTS -->`` and ``<!-- end -->``.

``python -m tests.pages`` writes them anew; `tests/test_pages.py` holds the pages to them.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.claims.load import load_claims
from bench.claims.report import claims_report
from bench.claims.verdict import judge_all
from bench.gate.report import rates_report
from bench.gate.selftest import read_trials
from bench.records.record import Record
from bench.records.store import read_paths
from bench.report.records import records_report
from bench.report.render import render
from bench.report.table import Report

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "bench/README.md", "methods/README.md", "conf/README.md", "results/reference/README.md")
BLOCK = re.compile(r"<!-- (?P<kind>\w+): (?P<arguments>[^>]+?) -->\n(?P<shown>.*?)<!-- end -->", flags=re.DOTALL)


def records(arguments: str) -> list[Record]:
    return read_paths([ROOT / path for path in arguments.split()])


def markdown(report: Report) -> str:
    return render(report, "md").decode().strip()


def table(arguments: str) -> str:
    """The comparison of records."""
    return markdown(records_report(records(arguments)))


def versus(arguments: str) -> str:
    """The part that compares with references, or with what is published."""
    whole = table(arguments)
    return whole[whole.index("**vs.") :]


def claims(arguments: str) -> str:
    """The verdicts that there are."""
    report = claims_report(judge_all(load_claims(), records(arguments)), details=False)
    return markdown(Report([one for one in report.tables if one.title != "Without a verdict"]))


def estimate(arguments: str) -> str:
    """What the command prints, on whatever machine."""
    command = [sys.executable, "-m", "bench", "estimate", *shlex.split(arguments), "--format", "md"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def selftest(arguments: str) -> str:
    """Error rates of the gate, from the trials in a folder."""
    return markdown(rates_report([read_trials(path) for path in sorted((ROOT / arguments).glob("*.json"))]))


def file(arguments: str) -> str:
    """A file of the repository, word for word."""
    return f"```python\n{(ROOT / arguments).read_text()}```"


KINDS: dict[str, Callable[[str], str]] = {
    "table": table,
    "vs": versus,
    "claims": claims,
    "estimate": estimate,
    "selftest": selftest,
    "file": file,
}


def blocks() -> Iterator[tuple[str, re.Match[str]]]:
    """Every generated block, with the page that has it."""
    for page in PAGES:
        for found in BLOCK.finditer((ROOT / page).read_text()):
            yield page, found


def main() -> None:
    """Writes every block anew."""
    for page in PAGES:
        text = (ROOT / page).read_text()

        def anew(found: re.Match[str]) -> str:
            head = f"<!-- {found['kind']}: {found['arguments']} -->"
            return f"{head}\n{KINDS[found['kind']](found['arguments'])}\n<!-- end -->"

        (ROOT / page).write_text(BLOCK.sub(anew, text))


if __name__ == "__main__":
    main()
