"""Real child processes: whatever becomes of one is an outcome, and nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from bench.records.record import Status
from bench.runner.process import Outcome, ProcessRunner
from tests.children import is_gone, marked, wait_until

ROOT = Path(__file__).parent.parent
PATIENCE = 120.0
"""Seconds that a child which ends by itself may take on a busy machine."""


@pytest.fixture(scope="module")
def launcher() -> ProcessRunner:
    return ProcessRunner(preload=())


def call(launcher: ProcessRunner, name: str, *arguments: object, limit_seconds: float = PATIENCE) -> Outcome:
    return launcher.call(f"tests.children:{name}", *arguments, limit_seconds=limit_seconds)


def test_a_value_comes_back(launcher: ProcessRunner) -> None:
    """A function's value is the outcome's, and there is nothing else to say."""
    assert call(launcher, "add", 2, 3) == Outcome(Status.OK, value=5)


def test_a_value_larger_than_a_pipe_comes_back_whole(launcher: ProcessRunner) -> None:
    """A result need not fit the pipe's buffer."""
    assert call(launcher, "large", 1 << 22).value == bytes(1 << 22)


def test_each_call_has_a_process_and_a_session_of_its_own(launcher: ProcessRunner) -> None:
    """No call runs in a process that ran another, or in the session of this one."""
    first, second = call(launcher, "process_and_session").value, call(launcher, "process_and_session").value
    assert first[0] != second[0]
    assert first[0] == first[1]
    assert os.getpid() not in (first[0], second[0])


def test_reports_reach_the_listener_in_order(launcher: ProcessRunner) -> None:
    """What the child reports is heard, all of it and in order, before the call returns."""
    heard: list[str] = []
    words = [f"word {number}" for number in range(100)]
    outcome = launcher.call("tests.children:tell", words, limit_seconds=PATIENCE, listen=heard.append)
    assert (outcome.value, heard) == ("told", words)


def test_an_exception_is_a_failure_with_one_line_and_a_traceback(launcher: ProcessRunner) -> None:
    """The reason is one line that names the exception; the detail shows where it came from."""
    outcome = call(launcher, "fail")
    assert outcome.status is Status.FAILED
    assert outcome.reason == "ValueError: first line second line"
    assert "in fail" in outcome.detail
    assert outcome.detail.startswith("Traceback")


@pytest.mark.parametrize("name", ["fail_half_way", "crash_half_way"])
def test_results_outlive_a_failure(launcher: ProcessRunner, name: str) -> None:
    """Whether it raises or dies, what a child last reported of its results is the outcome's value."""
    outcome = call(launcher, name)
    assert (outcome.status, outcome.value) == (Status.FAILED, ["first", "second"])


@pytest.mark.parametrize("name", ["exhaust", "exhaust_accelerator", "exhaust_torch"])
def test_running_out_of_memory_is_told_apart(launcher: ProcessRunner, name: str) -> None:
    """Python's, the accelerator's and torch's own CPU allocator's lack of memory all end as ``oom``."""
    outcome = call(launcher, name)
    assert outcome.status is Status.OOM
    assert outcome.reason


def test_what_a_method_does_not_support_is_skipped(launcher: ProcessRunner) -> None:
    """An exception named Unsupported is no failure, and its reason is kept."""
    outcome = call(launcher, "refuse")
    assert outcome.status is Status.SKIPPED
    assert outcome.reason == "this method can't take this model"


def test_a_function_that_is_not_there_is_a_failure(launcher: ProcessRunner) -> None:
    """A wrong name of a module or a function is an outcome too."""
    assert call(launcher, "nothing").status is Status.FAILED
    assert launcher.call("tests.nowhere:add", limit_seconds=PATIENCE).status is Status.FAILED


def test_a_killed_child_is_a_failure_that_names_the_signal(launcher: ProcessRunner) -> None:
    """A death by signal is recorded by number and name."""
    outcome = call(launcher, "die")
    assert (outcome.status, outcome.reason) == (Status.FAILED, "killed by signal 9 (SIGKILL)")


def test_a_child_that_leaves_without_a_result_is_a_failure(launcher: ProcessRunner) -> None:
    """An exit behind Python's back gives its status, and the end of what was printed."""
    outcome = call(launcher, "leave", 3)
    assert outcome.status is Status.FAILED
    assert "status 3" in str(outcome.reason)
    assert "last words" in outcome.detail
    assert call(launcher, "leave_politely").status is Status.FAILED


def test_a_result_that_can_not_be_sent_is_a_failure(launcher: ProcessRunner) -> None:
    """What can't be pickled does not look like a crash."""
    outcome = call(launcher, "unsendable")
    assert (outcome.status, outcome.reason) == (Status.FAILED, "the result can't be sent")
    assert outcome.detail


def test_a_hanging_child_ends_at_its_limit(launcher: ProcessRunner) -> None:
    """A child past its time limit is killed, and the reason says what the limit was."""
    heard: list[str] = []
    outcome = launcher.call("tests.children:hang", limit_seconds=1.0, listen=heard.append)
    assert outcome.status is Status.TIMEOUT
    assert "1 s" in str(outcome.reason)
    assert all(is_gone(int(pid)) for pid in heard)


def test_a_timeout_ends_the_grandchildren_too(launcher: ProcessRunner) -> None:
    """Nothing that a timed-out child started outlives it."""
    heard: list[str] = []
    outcome = launcher.call("tests.children:hang_with_grandchild", limit_seconds=5.0, listen=heard.append)
    assert outcome.status is Status.TIMEOUT
    assert len(heard) == 2, "the limit was too short for this machine to start two processes"
    for pid in heard:
        wait_until(lambda pid=pid: is_gone(int(pid)), f"process {pid} to end")


def test_a_crash_ends_the_grandchildren_too(launcher: ProcessRunner) -> None:
    """Nothing that a crashed child started outlives it."""
    heard: list[str] = []
    outcome = launcher.call("tests.children:crash_with_grandchild", limit_seconds=PATIENCE, listen=heard.append)
    assert outcome.status is Status.FAILED
    wait_until(lambda: is_gone(int(heard[0])), "the grandchild to end")


def test_an_interrupted_call_leaves_no_child(launcher: ProcessRunner) -> None:
    """An exception in the parent, such as Ctrl-C, ends the child before it goes on its way."""
    heard: list[str] = []

    def interrupt(text: str) -> None:
        heard.append(text)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launcher.call("tests.children:hang", limit_seconds=PATIENCE, listen=interrupt)
    wait_until(lambda: is_gone(int(heard[0])), "the child to end")


def test_chatter_of_a_child_does_not_reach_our_output() -> None:
    """Whatever a child or its programs print, this process's stdout and stderr carry its own words alone.

    In a program of its own, because a forkserver that is up already holds other descriptors than this test could see.
    """
    code = (
        "from bench.runner.process import ProcessRunner\n"
        "launcher = ProcessRunner(preload=())\n"
        "for name in ('chatter', 'fail'):\n"
        f"    print(launcher.call(f'tests.children:{{name}}', limit_seconds={PATIENCE}).value)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("quiet\nNone\n", "")


@pytest.mark.parametrize("with_grandchild", [False, True], ids=["child", "child and grandchild"])
def test_children_end_when_their_parent_is_killed(tmp_path: Path, with_grandchild: bool) -> None:
    """A parent that is killed, and so can clean up nothing, leaves no process behind: no child and no helper."""
    marker, pids = f"PEFT_VERDICT_TEST={uuid.uuid4()}", tmp_path / "pids"
    code = (
        "from bench.runner.process import ProcessRunner\n"
        f"arguments = ({str(pids)!r}, {with_grandchild})\n"
        "ProcessRunner(preload=()).call('tests.children:hang_and_write', *arguments, limit_seconds=600)\n"
    )
    environment = {**os.environ, **dict([marker.split("=")])}
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment)
    try:
        wait_until(pids.exists, "the child to start")
        assert len(marked(marker)) >= 2
    finally:
        parent.kill()
        parent.wait()
    try:
        wait_until(lambda: not marked(marker), "every process that came from the parent to end", 20.0)
    finally:
        for pid in marked(marker):
            os.kill(pid, signal.SIGKILL)


def test_a_server_that_is_to_fork_asks_nothing_of_a_card() -> None:
    """On a machine with a card: once CUDA has been asked for anything, children that are forked can't use it."""
    code = (
        "import torch\n"
        "torch.version.cuda = '13.0'\n"
        "def refuse(*_, **__):\n"
        "    raise SystemExit('asked the card')\n"
        "for name in ('is_available', 'device_count', 'get_device_capability', '_lazy_init', 'init'):\n"
        "    setattr(torch.cuda, name, refuse)\n"
        "import bench.worker.preload\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
