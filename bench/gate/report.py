"""What the verdicts of the gate say: for people, as JUnit XML and as annotations of GitHub Actions."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.gate.compare import MetricCheck, worst
from bench.gate.rule import Verdict
from bench.gate.trials import Trials, rates
from bench.records.store import replace_file
from bench.report.table import Column, Report, Table, Text

STYLES = {
    Verdict.PASSED: "green",
    Verdict.REGRESSED: "red",
    Verdict.AMBIGUOUS: "yellow",
    Verdict.INCOMPARABLE: "yellow",
}
COMMANDS = {Verdict.REGRESSED: "error", Verdict.AMBIGUOUS: "warning", Verdict.INCOMPARABLE: "warning"}
"""GitHub Actions' commands by verdict."""
COLUMNS = tuple(
    Column(name, left=True, wrap=name in ("change", "because"))
    for name in ("metric", "where", "verdict", "change", "because")
)


def checks_report(checks: Sequence[MetricCheck], move: str) -> Report:
    """A table for each cell, then the counts; ``move`` is the command that moves the baseline."""
    cells = dict.fromkeys(one.cell_id for one in checks)
    tables = [_table(cell, [one for one in checks if one.cell_id == cell]) for cell in cells]
    return Report(tables, closing=tuple(_conclusion(checks, move)))


def _table(cell: str, checks: Sequence[MetricCheck]) -> Table:
    """Each latency, each exact metric that changed, and how many did not."""
    shown = [one for one in checks if one.timed or one.verdict is not Verdict.PASSED]
    equal = len(checks) - len(shown)
    rows = [
        (
            one.metric or "all metrics",
            one.place if one.metric else "",
            str(one.verdict),
            _sentence(one),
            one.reason or "",
        )
        for one in shown
    ]
    notes = (Text(f"{equal} exact metrics are unchanged"),) if equal else ()
    styles = {(number, 2): STYLES[one.verdict] for number, one in enumerate(shown)}
    return Table(cell, COLUMNS, tuple(rows), notes, styles=styles)


def _conclusion(checks: Sequence[MetricCheck], move: str) -> Iterator[str]:
    """The counts, and how to move the baseline if metrics improved or a change is intended."""
    counts = Counter(str(one.verdict) for one in checks)
    yield f"{worst(checks)}: " + ", ".join(f"{count} {verdict.lower()}" for verdict, count in sorted(counts.items()))
    improved = [one for one in checks if one.change is not None and one.change.improved]
    for one in improved:
        yield f"faster: {one.cell_id} {one.metric}, {one.place}: {_sentence(one)}"
    if improved or any(one.verdict is Verdict.REGRESSED for one in checks):
        why = "to keep the gain" if improved else "if this is intended"
        yield f"{why}, move the baseline: {move}"


def _sentence(one: MetricCheck) -> str:
    """What changed and by how much."""
    if one.change is not None:
        change = one.change
        return f"{change.estimate:+.1%} (99.5% above {change.low:+.1%}, 95% below {change.high:+.1%})"
    if one.before is None:
        return ""
    after = "nothing" if one.after is None else f"{one.after:.0f}"
    return f"{one.before:.0f} became {after}"


def github_annotations(checks: Sequence[MetricCheck]) -> Iterator[str]:
    """Workflow commands, one a line: errors, warnings, and a notice for each metric that became faster."""
    for one in checks:
        command = COMMANDS.get(one.verdict)
        if command is None and one.change is not None and one.change.improved:
            command = "notice"
        if command is not None:
            title = _property(f"{one.verdict if command != 'notice' else 'FASTER'}: {one.cell_id}")
            yield f"::{command} title={title}::{_data(_line(one))}"


def _line(one: MetricCheck) -> str:
    words = [one.metric or "", one.place, _sentence(one), one.reason or ""]
    return ": ".join(word for word in words if word)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def write_junit(checks: Sequence[MetricCheck], name: str, strict: bool, path: Path) -> None:
    """JUnit XML: one case for each metric. What is unknown is skipped, or with ``strict`` a failure.

    Raises:
        UsageError: the file can't be written.
    """
    from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite

    suites = JUnitXml("peft-verdict")
    for cell in dict.fromkeys(one.cell_id for one in checks):
        suite = TestSuite(cell)
        for one in (one for one in checks if one.cell_id == cell):
            case = TestCase(f"{one.metric or '*'} [{one.place}]", classname=f"{name}.{cell}", time=0.0)
            if one.verdict is Verdict.REGRESSED or (strict and one.verdict is not Verdict.PASSED):
                case.result = [_result(Failure, one)]
            elif one.verdict is not Verdict.PASSED:
                case.result = [_result(Skipped, one)]
            suite.add_testcase(case)
        suite.update_statistics()  # type: ignore[no-untyped-call]
        suites.add_testsuite(suite)
    # each suite has its own statistics; Jenkins' schema has no count of skipped cases at the root
    try:
        replace_file(path, suites.tostring())  # type: ignore[no-untyped-call]
    except OSError as error:
        raise UsageError(f"--junit {path}: {error.strerror}") from error


def _result(kind: type[Any], one: MetricCheck) -> Any:
    return kind(f"{one.verdict}: {_line(one)}", str(one.verdict))


def rates_report(many: Sequence[Trials]) -> Report:
    """The gate's error rates: a row for each condition and slowdown."""
    rows = []
    for trials in many:
        for found in rates(trials):
            counts = (
                *(found.regressed, found.by_median, found.by_mean, found.regressed_at_first),
                *(found.passed, found.ambiguous, found.equivalent),
            )
            shares = ["" if count is None else f"{count / found.checks:.1%}" for count in counts]
            slowed = f"{found.slowdown:.0%}" + ("" if found.period == 1 else f", 1 in {found.period}")
            rows.append((found.condition, slowed, str(found.checks), *shares))
    numbers = ("slowed by", "checks", "slower", "median", "mean", "at first", "passed", "unclear", "TOST")
    notes = tuple(
        Text(f"{trials.condition}: a whole check of one method took {statistics.median(trials.check_seconds):.0f} s")
        for trials in many
        if trials.check_seconds
    )
    columns = (Column("condition", left=True), *map(Column, numbers))
    return Report([Table("Error rates of the gate", columns, tuple(rows), notes)])
