"""How the verdicts of the gate look: for people, as JUnit XML and as annotations of GitHub Actions."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.errors import UsageError
from bench.gate.compare import Checked, worst
from bench.gate.rule import Verdict
from bench.gate.trials import Trials, rates
from bench.records.store import replace_file

STYLES = {
    Verdict.PASSED: "green",
    Verdict.REGRESSED: "red",
    Verdict.AMBIGUOUS: "yellow",
    Verdict.INCOMPARABLE: "yellow",
}
COMMANDS = {Verdict.REGRESSED: "error", Verdict.AMBIGUOUS: "warning", Verdict.INCOMPARABLE: "warning"}
"""Of GitHub Actions, by verdict."""


def print_checked(checked: Sequence[Checked], console: Console) -> None:
    """Cell by cell: each latency, each exact figure that changed, and how many did not."""
    for cell in dict.fromkeys(one.cell_id for one in checked):
        here = [one for one in checked if one.cell_id == cell]
        shown = [one for one in here if one.timed or one.verdict is not Verdict.PASSED]
        equal = len(here) - len(shown)
        console.print(cell, style="bold", markup=False)
        if shown:
            table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
            for header in ("figure", "where", "verdict", "change", "because"):
                table.add_column(header)
            for one in shown:
                told = _sentence(one)
                name = "all figures" if one.figure == "*" else one.figure
                place = "" if one.figure == "*" else one.place
                verdict = Text(one.verdict, STYLES[one.verdict])
                table.add_row(Text(name), Text(place), verdict, Text(told), Text(one.reason or ""))
            console.print(table)
        if equal:
            console.print(f"{equal} exact figures are as they were", markup=False)
        console.print()


def print_conclusion(checked: Sequence[Checked], move: str, console: Console) -> None:
    """The counts, and how to move the baseline where figures improved or were meant to change."""
    counts = Counter(str(one.verdict) for one in checked)
    console.print(
        f"{worst(checked)}: " + ", ".join(f"{count} {verdict.lower()}" for verdict, count in sorted(counts.items())),
        markup=False,
    )
    improved = [one for one in checked if one.change is not None and one.change.improved]
    for one in improved:
        console.print(f"faster: {one.cell_id} {one.figure}, {one.place}: {_sentence(one)}", markup=False)
    if improved or any(one.verdict is Verdict.REGRESSED for one in checked):
        why = "to keep what was gained" if improved else "if this is meant"
        console.print(f"{why}, move the baseline: {move}", markup=False, soft_wrap=True)


def _sentence(one: Checked) -> str:
    """What changed and by how much."""
    if one.change is not None:
        change = one.change
        return f"{change.estimate:+.1%} (99% above {change.low:+.1%}, 95% below {change.high:+.1%})"
    if one.before is None:
        return ""
    after = "nothing" if one.after is None else f"{one.after:.0f}"
    return f"{one.before:.0f} became {after}"


def github_annotations(checked: Sequence[Checked]) -> Iterator[str]:
    """Workflow commands, a line each: errors, warnings, and a notice for what became faster."""
    for one in checked:
        command = COMMANDS.get(one.verdict)
        if command is None and one.change is not None and one.change.improved:
            command = "notice"
        if command is not None:
            title = _property(f"{one.verdict if command != 'notice' else 'FASTER'}: {one.cell_id}")
            yield f"::{command} title={title}::{_data(_line(one))}"


def _line(one: Checked) -> str:
    words = [one.figure if one.figure != "*" else "", one.place, _sentence(one), one.reason or ""]
    return ": ".join(word for word in words if word)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def write_junit(checked: Sequence[Checked], name: str, strict: bool, path: Path) -> None:
    """JUnit XML: a case a figure; what is not known is skipped, with ``strict`` a failure.

    Raises:
        UsageError: the file can't be written.
    """
    from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite

    suites = JUnitXml("peft-verdict")
    for cell in dict.fromkeys(one.cell_id for one in checked):
        suite = TestSuite(cell)
        for one in (one for one in checked if one.cell_id == cell):
            case = TestCase(f"{one.figure} [{one.place}]", classname=f"{name}.{cell}", time=0.0)
            if one.verdict is Verdict.REGRESSED or (strict and one.verdict is not Verdict.PASSED):
                case.result = [_result(Failure, one)]
            elif one.verdict is not Verdict.PASSED:
                case.result = [_result(Skipped, one)]
            suite.add_testcase(case)
        suite.update_statistics()  # type: ignore[no-untyped-call]
        suites.add_testsuite(suite)
    # the statistics of each suite are its own; Jenkins' schema knows no count of the skipped at the root
    try:
        replace_file(path, suites.tostring())  # type: ignore[no-untyped-call]
    except OSError as error:
        raise UsageError(f"--junit {path}: {error.strerror}") from error


def _result(kind: type[Any], one: Checked) -> Any:
    return kind(f"{one.verdict}: {_line(one)}", str(one.verdict))


def print_rates(many: Sequence[Trials], console: Console) -> None:
    """The gate's error rates, a row a condition and slowdown."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    for header in ("condition", "slowed by", "checks", "slower", "at first", "passed", "unclear", "TOST"):
        table.add_column(header, justify="left" if header == "condition" else "right")
    for trials in many:
        for found in rates(trials):
            counts = (found.regressed, found.regressed_at_first, found.passed, found.ambiguous)
            cells = [f"{count / found.checks:.1%}" for count in counts]
            same = f"{found.equivalent / found.arms:.1%}"
            table.add_row(found.condition, f"{found.slowdown:.0%}", str(found.checks), *cells, same)
    console.print(table)
    for trials in many:
        if trials.check_seconds:
            took = statistics.median(trials.check_seconds)
            console.print(f"{trials.condition}: a whole check of one method took {took:.0f} s", markup=False)
