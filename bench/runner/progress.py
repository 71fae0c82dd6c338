"""What is running, what is done and the time left: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bench.records.cell import Cell
from bench.records.record import Record, Status

STYLES = {Status.OK: "green", Status.SKIPPED: "yellow"}


class Progress:
    """Speaks of a sweep on one console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None
        self._total = 0
        self._done = 0
        self._cell = ""
        self._phase = ""
        self._started = 0.0

    @contextmanager
    def sweep(self, total: int, kept: int) -> Iterator[None]:
        """The span of a sweep with ``total`` cells to run."""
        self._total, self._done, self._started = total, 0, time.monotonic()
        if kept:
            self._say(f"{kept} cells are recorded already; --fresh measures them again")
        if not self.console.is_terminal or total == 0:
            yield
            return
        with Live(self, console=self.console, refresh_per_second=2, transient=True) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def begin(self, cell: Cell) -> None:
        """A cell starts."""
        self._cell, self._phase = cell.id, "starting"
        if self._live is None:
            self._say(f"[{self._done + 1}/{self._total}] {cell.id} ...")

    def phase(self, text: str) -> None:
        """The cell under way does something else now."""
        self._phase = text

    def end(self, record: Record) -> None:
        """A cell has its record."""
        self._done += 1
        style = STYLES.get(record.status, "red")
        line = Text.assemble(
            f"[{self._done}/{self._total}] {record.cell_id} ",
            (str(record.status), style),
            f" {record.seconds:.0f} s" if record.seconds else "",
            f": {record.reason}" if record.reason else "",
            f" ({self._left()})" if self._done < self._total else "",
        )
        self._say(line)

    def _say(self, line: str | Text) -> None:
        """One line, however long: what is no terminal may be a file that somebody greps."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _left(self) -> str:
        per_cell = (time.monotonic() - self._started) / max(self._done, 1)
        return f"about {_duration(per_cell * (self._total - self._done))} left"

    def __rich__(self) -> Text:
        left = f" · {self._left()}" if self._done else ""
        return Text(
            f"[{self._done + 1}/{self._total}] {self._cell} · {self._phase}{left}", overflow="ellipsis", no_wrap=True
        )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
