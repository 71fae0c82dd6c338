"""The command line as tests run it: in this process, where one server of children does for all, or for real."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cli import main

ROOT = Path(__file__).parent.parent


SMALL = (
    "workload.train_steps=3",
    "workload.train_batch_size=1",
    "workload.train_length=16",
    "workload.held_out_sequences=1",
    "workload.prompt_lengths=[8]",
    "precision.processes=1",
    "precision.pairs=2",
    "precision.train_pairs=1",
    "precision.warmup_steps=1",
    "model.settings.hidden_size=32",
    "model.settings.intermediate_size=48",
    "model.settings.num_hidden_layers=2",
    "model.settings.num_attention_heads=4",
    "model.settings.num_key_value_heads=2",
    "model.settings.head_dim=8",
)
"""A real cell, as small as they come: two narrow layers, three training steps and one replicate."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


def here(*arguments: str, folder: Path = ROOT) -> Done:
    """Runs the command in this process, whose children are real processes."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _own_signals():
        try:
            main(list(arguments))
        except SystemExit as end:
            return Done(int(end.code or 0), out.getvalue(), err.getvalue())


def really(*arguments: str, folder: Path = ROOT, path: Sequence[Path] = ()) -> Done:
    """Runs the command as a person types it, in a process of its own; ``path`` holds further packages."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))},
        capture_output=True,
        text=True,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def refused(done: Done, *words: str) -> None:
    """Holds a command to what bad input gets: one line on standard error, status 2, no traceback."""
    assert done.status == 2, done
    assert len(done.stderr.splitlines()) == 1, done
    assert done.stderr.startswith("error: "), done
    assert "Traceback" not in done.stdout + done.stderr
    for word in words:
        assert word in done.stderr


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """The command line handles SIGTERM; afterwards it is handled as before."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
