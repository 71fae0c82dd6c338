"""What is being done, what is done and the time left: a live line on a terminal, plain lines elsewhere.

Elsewhere a long run is not silent: a line where something else begins, unless one was said just now, and a line in
growing intervals while the same goes on. Nothing here runs beside the measurement: lines are said when a child reports,
and when the process that waits for one wakes (`bench.runner.process`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bench.records.cell import Cell
from bench.records.record import Record, Status

STYLES = {Status.OK: "green", Status.SKIPPED: "yellow"}
APART_SECONDS = 10.0
"""Between two lines of what has begun: a small cell has twenty-five phases in as many seconds."""
FIRST_BEAT_SECONDS, BEAT_SECONDS = 29.0, 59.0
"""Silence after which it is said that the same goes on: half a minute, and then a minute, less what a clock may err."""


class Progress:
    """Speaks on one console of what one command is doing."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self._clock = clock
        self._total = self._done = 0
        self._name = ""
        self._phase = ""
        self._sweep_began = self._began = self._phase_began = self._said = clock()
        self._pause = FIRST_BEAT_SECONDS
        self._live: Live | None = None

    @contextmanager
    def task(self, text: str) -> Iterator[None]:
        """The span of something that is no sweep and begins with ``text``."""
        self._total = 0
        self._begin("", text)
        with self._line():
            yield

    @contextmanager
    def sweep(self, total: int, kept: str) -> Iterator[None]:
        """The span of a sweep with ``total`` cells to run. ``kept`` is said of those that need not be run."""
        self._total, self._done, self._sweep_began = total, 0, self._clock()
        self._begin("", "")
        if kept:
            self._say(kept)
        if total == 0:
            yield
            return
        with self._line():
            yield

    def begin(self, cell: Cell) -> None:
        """A cell starts."""
        self._begin(cell.id, "starting")
        if self._live is None:
            self._say(f"{self._place()}{cell.id} ...")

    def phase(self, text: str) -> None:
        """Something else is being done now."""
        now = self._clock()
        self._phase, self._phase_began, self._pause = text, now, FIRST_BEAT_SECONDS
        if self._live is None and now - self._said >= APART_SECONDS:
            self._say(f"{self._place()}{duration(now - self._began)}: {text}")

    def beat(self) -> None:
        """The same is still being done."""
        now = self._clock()
        if self._live is None and now - self._said >= self._pause:
            lasted = duration(now - self._phase_began)
            self._say(f"{self._place()}{duration(now - self._began)}: {self._phase}, for {lasted}")
            self._pause = BEAT_SECONDS

    def end(self, record: Record) -> None:
        """A cell has its record."""
        self._done += 1
        self._begin("", "")
        style = STYLES.get(record.status, "red")
        line = Text.assemble(
            f"[{self._done}/{self._total}] {record.cell_id} ",
            (str(record.status), style),
            f" {record.seconds:.0f} s" if record.seconds else "",
            f": {record.reason}" if record.reason else "",
            f" ({self._left()})" if self._done < self._total else "",
        )
        self._say(line)

    def _begin(self, name: str, phase: str) -> None:
        self._name, self._phase, self._pause = name, phase, FIRST_BEAT_SECONDS
        self._began = self._phase_began = self._said = self._clock()

    @contextmanager
    def _line(self) -> Iterator[None]:
        """Shows the live line, on a terminal."""
        if not self.console.is_terminal:
            yield
            return
        with Live(self, console=self.console, refresh_per_second=2, transient=True) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def _say(self, line: str | Text) -> None:
        """One line, however long: what is no terminal may be a file that somebody greps."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._said = self._clock()

    def _place(self) -> str:
        """Which cell of how many."""
        return f"[{self._done + 1}/{self._total}] " if self._total else ""

    def _left(self) -> str:
        per_cell = (self._clock() - self._sweep_began) / max(self._done, 1)
        return f"about {duration(per_cell * (self._total - self._done))} left"

    def __rich__(self) -> Text:
        words = [self._name, self._phase, self._left() if self._done and self._total else ""]
        line = self._place() + " · ".join(filter(None, words)) if self._phase else ""  # none between two cells
        return Text(line, overflow="ellipsis", no_wrap=True)


def duration(seconds: float) -> str:
    """Seconds in words, with two figures: ``45 s``, ``2.5 min``, ``13 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.{int(minutes < 9.95)}f} min"
