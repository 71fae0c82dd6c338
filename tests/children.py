"""Functions that the tests of the launcher call in child processes. None needs torch but those that say so."""

from __future__ import annotations

import os
import pickle
import pickletools
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

Report = Callable[[str], None]
FOREVER = 600
"""Seconds that a test never waits for."""


class Unsupported(ValueError):
    """Carries its status, as the methods' exception does."""

    status = "skipped"


def add(a: int, b: int, report: Report) -> int:
    return a + b


def tell(words: list[str], report: Report) -> str:
    for word in words:
        report(word)
    return "told"


def fail_half_way(report: Callable[..., None], crash: bool = False) -> None:
    report("begun", so_far=["first"])
    report("half done", so_far=["first", "second"])
    if crash:
        os._exit(3)
    raise ValueError("no more")


def crash_half_way(report: Callable[..., None]) -> None:
    fail_half_way(report, crash=True)


def process_and_session(report: Report) -> tuple[int, int]:
    return os.getpid(), os.getsid(0)


def large(count: int, report: Report) -> bytes:
    return bytes(count)


def unsendable(report: Report) -> Callable[[], None]:
    return lambda: None


def fail(report: Report) -> NoReturn:
    raise ValueError("first line\nsecond line")


def exhaust(report: Report) -> NoReturn:
    raise MemoryError("no more")


def exhaust_accelerator(report: Report) -> NoReturn:
    """Raises what torch raises if a card is full."""
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory")


def exhaust_torch(report: Report) -> object:
    """Asks torch for four pebibytes."""
    import torch

    return torch.empty(1 << 50).shape


def refuse(report: Report) -> NoReturn:
    raise Unsupported("this method can't take this model")


def die(report: Report) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(code: int, report: Report) -> NoReturn:
    print("last words", flush=True)
    os._exit(code)


def leave_politely(report: Report) -> NoReturn:
    sys.exit(0)


def chatter(report: Report) -> str:
    """Speaks through Python, through the descriptors and through a program of its own."""
    print("chatter by print")
    print("chatter by stderr", file=sys.stderr)
    os.write(1, b"chatter by write\n")
    os.write(2, b"chatter by write\n")
    subprocess.run(["echo", "chatter by echo"], check=True)
    return "quiet"


def hang(report: Report) -> None:
    report(str(os.getpid()))
    time.sleep(FOREVER)


def hang_with_grandchild(report: Report) -> None:
    grandchild = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({FOREVER})"])
    report(str(os.getpid()))
    report(str(grandchild.pid))
    time.sleep(FOREVER)


def crash_with_grandchild(report: Report) -> None:
    grandchild = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({FOREVER})"])
    report(str(grandchild.pid))
    os._exit(3)


def hang_and_write(path: str, with_grandchild: bool, report: Report) -> None:
    """Writes the ids of the processes into ``path``, whole or not at all, for a parent that is about to die."""
    pids = [os.getpid()]
    if with_grandchild:
        pids.append(subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({FOREVER})"]).pid)
    beside = Path(f"{path}.new")
    beside.write_text(" ".join(map(str, pids)))
    beside.replace(path)
    time.sleep(FOREVER)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie, which nobody may reap in a container, has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in ("Z", "X")


def wait_until(true: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Polls for something that comes at once on an idle machine and later on a busy one."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:g} s in vain: {what}")
        time.sleep(0.02)


def marked(marker: str) -> list[int]:
    """Live processes that inherited ``marker`` in their environment: a program and whatever came from it."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and marker.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:  # ended meanwhile
            continue
    return [pid for pid in found if not is_gone(pid)]


def modules_to_read(value: object) -> set[str]:
    """The modules that a process must import to read what a child returned, Python's own not among them."""
    text = pickle.dumps(value, protocol=2)  # in which each class is named in one place
    named = {str(argument).split()[0] for code, argument, _ in pickletools.genops(text) if code.name == "GLOBAL"}
    return {module for module in named if module.partition(".")[0] not in sys.stdlib_module_names | {"__builtin__"}}
