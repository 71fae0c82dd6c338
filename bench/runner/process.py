"""Child processes: one clean process a call, with a time limit, whose death is an outcome and not an exception.

A `forkserver` that has imported torch and transformers starts a fresh process in a fraction of a second. Each child
leads its own session, so that it can be killed with everything it started, and it ends by itself when its parent is
gone.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.records.record import Status
from bench.runner.engine import Listen

LEAVE_SECONDS = 5.0
"""A child that has sent its result has so long to end by itself. Killed at once, it would leave behind what its
libraries registered with the system, such as a progress bar's semaphores, and Python would warn of it."""
WAKE_SECONDS = 30.0
"""A process that waits for a child wakes so often to say so: for microseconds, and too seldom to disturb a timing."""
PRELOAD = ("bench.worker.preload",)
STATUSES = frozenset(Status)
Hear = Callable[[str, Any], object]
"""Is told what is being done now, and what was found so far."""


@dataclass(frozen=True)
class Outcome:
    """How a child ended."""

    status: Status
    value: Any = None
    """What the function returned; where the status is not ok, the last results that it reported."""
    reason: str | None = None
    """One line, where it is not."""
    detail: str = ""
    """Traceback or last output, for the record."""


class ProcessRunner:
    """Starts children one at a time. ``beat`` is called while one is awaited that has not reported for a while."""

    def __init__(self, beat: Callable[[], object] = lambda: None, preload: Sequence[str] = PRELOAD) -> None:
        self._beat = beat
        multiprocessing.get_context("forkserver").set_forkserver_preload(list(preload))

    def call(
        self, function: str, *arguments: Any, limit_seconds: float, listen: Listen = str, start: str = "forkserver"
    ) -> Outcome:
        """``function(*arguments, report)`` in a fresh process; what it reports goes to ``listen``.

        ``report(text, so_far=None)`` may have the results so far, which outlive a function that fails.

        ``function`` is ``package.module:name``: the child imports it, this process need not. ``start`` is a start
        method of `multiprocessing`; the forkserver's children find the preloaded modules imported.
        """
        context: Any = multiprocessing.get_context(start)
        results: Any = None

        def hear(text: str, so_far: Any) -> None:
            nonlocal results
            results = so_far
            listen(text)

        ours, theirs = context.Pipe()
        with tempfile.TemporaryFile() as output:
            # By path, not by descriptor: the forkserver shares none with us.
            name = f"/proc/{os.getpid()}/fd/{output.fileno()}" if Path("/proc/self/fd").exists() else os.devnull
            child = context.Process(target=_serve, args=(theirs, name, function, arguments))
            try:
                with _signals_wait():
                    _start(child)
                theirs.close()
                outcome = _await(child, ours, limit_seconds, hear, self._beat)
            finally:
                _kill(child)
                ours.close()
            if outcome.status is Status.OK:
                return outcome
            output.seek(0)
            tail = output.read()[-2000:].decode(errors="replace")
            return replace(outcome, value=results, detail=outcome.detail or tail)


def _start(child: Any) -> None:
    """Starts a child.

    Raises:
        UsageError: the folder for temporary files has too long a path for the server's socket.
    """
    try:
        child.start()
    except OSError as error:
        if "AF_UNIX path too long" in str(error):
            raise UsageError(f"TMPDIR={tempfile.gettempdir()} is too long for a socket: set a shorter one") from error
        raise


def _await(child: Any, pipe: Connection, limit: float, hear: Hear, beat: Callable[[], object]) -> Outcome:
    killed_before, deadline = _oom_kills(), time.monotonic() + limit
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return Outcome(Status.TIMEOUT, reason=f"took longer than {limit:g} s; raise time_limit")
        ready = wait([pipe, child.sentinel], timeout=min(left, WAKE_SECONDS))
        if pipe in ready or pipe.poll():  # a child may end between its last word and our look at it
            try:
                kind, content = pipe.recv()
            except (EOFError, ConnectionResetError):
                child.join(5)
                return _crashed(child.exitcode, killed_before)
            if kind == "report":
                hear(*content)
            else:
                assert isinstance(content, Outcome)
                child.join(LEAVE_SECONDS)
                return content
        elif ready:
            child.join()
            return _crashed(child.exitcode, killed_before)
        else:
            beat()


def _crashed(code: int | None, killed_before: int) -> Outcome:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        if -code == signal.SIGKILL and _oom_kills() > killed_before:
            return Outcome(Status.OOM, reason="killed by the kernel: the machine ran out of memory")
        return Outcome(Status.FAILED, reason=f"killed by signal {-code} ({name})")
    return Outcome(Status.FAILED, reason=f"the process ended with status {code} and no result")


def _oom_kills() -> int:
    """How many processes the kernel has killed for memory since it started."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Ctrl-C waits until a child has been told what to run: half told, it would print a traceback where we speak."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda caught, _: came.append(caught)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for caught in came:
            signal.raise_signal(caught)


def _kill(child: Any) -> None:
    """Ends the child, if it came to be, and whatever it started."""
    if child.pid is None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    if child.is_alive():
        child.kill()
    child.join()


def _serve(pipe: Connection, output: str, function: str, arguments: Sequence[Any]) -> None:
    """The child's main function."""
    with contextlib.suppress(PermissionError):
        os.setsid()
    _redirect(output)
    threading.Thread(target=_die_with_parent, args=(pipe,), daemon=True).start()
    outcome = _run(function, [*arguments, lambda text, so_far=None: pipe.send(("report", (text, so_far)))])
    try:
        pipe.send(("outcome", outcome))
    except Exception:  # what can't be pickled must not look like a crash
        pipe.send(("outcome", Outcome(Status.FAILED, reason="the result can't be sent", detail=traceback.format_exc())))


def _run(function: str, arguments: Sequence[Any]) -> Outcome:
    try:
        module, _, name = function.partition(":")
        return Outcome(Status.OK, value=getattr(importlib.import_module(module), name)(*arguments))
    except Exception as error:  # every failure of a cell is a record, which keeps the traceback
        status = _status_of(error)
        kind = "" if status is Status.SKIPPED else f"{type(error).__name__}: "  # a refusal is a sentence of its own
        reason = " ".join(f"{kind}{error}".split())[:300]
        return Outcome(status, reason=reason, detail=traceback.format_exc())


def _status_of(error: Exception) -> Status:
    """The status that an error carries as an attribute, or that of a full memory, or ``failed``."""
    status = getattr(error, "status", None)
    if isinstance(status, str) and status in STATUSES:
        return Status(status)
    torch = sys.modules.get("torch")  # a child without torch has no such error
    full = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    if isinstance(error, full) or "DefaultCPUAllocator: can't allocate memory" in str(error):
        return Status.OOM
    return Status.FAILED


def _redirect(output: str) -> None:
    """Libraries' chatter goes to a file of the parent's, whose end is kept if the child crashes."""
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    except OSError:  # the parent has given this child up already, and will end it
        descriptor = os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _die_with_parent(pipe: Connection) -> None:
    """Blocks until the parent's end of the pipe closes: it sends nothing, so anything that comes is its death."""
    with contextlib.suppress(EOFError, OSError):
        pipe.recv()
    if os.getpgrp() == os.getpid():  # with whatever this child started
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
