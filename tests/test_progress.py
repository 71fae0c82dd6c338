"""What a run says while it lasts, by a clock that the tests turn: nothing here waits."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import pytest
from rich.console import Console

from bench.records.record import Status
from bench.runner import process
from bench.runner.process import ProcessRunner
from bench.runner.progress import Progress, duration
from tests.fakes import make_cell, make_record


@dataclass
class Clock:
    """A progress on a clock of its own, and what it has said."""

    terminal: bool = False
    now: float = 1000.0
    out: io.StringIO = field(default_factory=io.StringIO)

    def __post_init__(self) -> None:
        console = Console(file=self.out, force_terminal=self.terminal, width=80)
        self.progress = Progress(console, lambda: self.now)

    def said(self) -> list[str]:
        """The lines since the last call."""
        lines = self.out.getvalue().splitlines()
        self.out.seek(0)
        self.out.truncate()
        return lines

    def wait(self, seconds: float) -> None:
        """The process waits for a child that reports nothing, and wakes as `ProcessRunner` does."""
        while seconds > process.WAKE_SECONDS:
            seconds -= process.WAKE_SECONDS
            self.now += process.WAKE_SECONDS
            self.progress.beat()
        self.now += seconds

    def work(self, phases: dict[str, float]) -> None:
        """A child that reports each phase, which takes so many seconds."""
        for text, seconds in phases.items():
            self.progress.phase(text)
            self.wait(seconds)


CELL = make_cell()


def test_without_a_terminal_a_long_cell_is_never_silent() -> None:
    """A line where a phase begins, with the time since the cell began; one after 30 s of it, and one a minute later."""
    clock = Clock()
    with clock.progress.sweep(2, kept=""):
        clock.progress.begin(CELL)
        clock.work({"loading": 12.0, "memory (unmerged)": 170.0, "saving": 1.0})
        clock.progress.end(make_record(CELL))
    assert clock.said()[:-1] == [
        f"[1/2] {CELL.id} ...",
        "[1/2] 12 s: memory (unmerged)",
        "[1/2] 42 s: memory (unmerged), for 30 s",
        "[1/2] 1.7 min: memory (unmerged), for 1.5 min",
        "[1/2] 2.7 min: memory (unmerged), for 2.5 min",
        "[1/2] 3.0 min: saving",
    ]


def test_a_quick_cell_leaves_few_lines() -> None:
    """Twenty-five phases of a second are three lines between the first and the last of the cell."""
    clock = Clock()
    with clock.progress.sweep(1, kept=""):
        clock.progress.begin(CELL)
        clock.said()
        clock.work({f"phase {number}": 1.0 for number in range(25)})
    assert clock.said() == ["[1/1] 10 s: phase 10", "[1/1] 20 s: phase 20"]


def test_silence_is_counted_from_the_last_line_of_whatever_kind() -> None:
    """A phase that began just after another line, and so was not said, is said half a minute later."""
    clock = Clock()
    with clock.progress.sweep(1, kept=""):
        clock.progress.begin(CELL)
        clock.said()
        clock.work({"loading": 2.0, "training": 100.0})
    assert clock.said() == ["[1/1] 32 s: training, for 30 s", "[1/1] 1.5 min: training, for 1.5 min"]


def test_what_is_no_cell_is_told_alike() -> None:
    """Checking, estimating, tracing: silent while short, then what is being done and for how long."""
    clock = Clock()
    with clock.progress.task("checking every cell"):
        clock.wait(29.0)
    assert clock.said() == []
    with clock.progress.task("checking every cell"):
        clock.work({"reading the text": 40.0})
    assert clock.said() == ["30 s: reading the text, for 30 s"]


def test_on_a_terminal_the_live_line_says_it_all() -> None:
    """However long a phase lasts, no line of it stays: one line changes in place and is gone in the end."""
    clock = Clock(terminal=True)
    with clock.progress.sweep(1, kept=""):
        assert clock.progress.__rich__().plain == ""
        clock.progress.begin(CELL)
        clock.work({"loading": 12.0, "training": 300.0})
        assert clock.progress.__rich__().plain == f"[1/1] {CELL.id} · training"
        clock.progress.end(make_record(CELL))
        assert clock.progress.__rich__().plain == ""
    assert "for " not in clock.out.getvalue()
    with clock.progress.task("checking every cell"):
        assert clock.progress.__rich__().plain == "checking every cell"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89.4, "89 s"), (90, "1.5 min"), (596, "9.9 min"), (598, "10 min"), (2e4, "333 min")],
)
def test_a_duration_has_two_figures(seconds: float, words: str) -> None:
    """Seconds up to a minute and a half, minutes from then on."""
    assert duration(seconds) == words


def test_the_process_that_waits_wakes_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a child is silent the beat comes again and again, until its time limit ends both."""
    monkeypatch.setattr(process, "WAKE_SECONDS", 0.02)
    beats: list[bool] = []
    runner = ProcessRunner(lambda: beats.append(True), preload=())
    assert runner.call("tests.children:hang", limit_seconds=1.0).status is Status.TIMEOUT
    assert len(beats) > 2
