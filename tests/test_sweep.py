"""The sweep: with a fake measuring device for its logic, and for real, through the command line, for its promises."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from bench.errors import UsageError
from bench.records.cell import Cell
from bench.records.machine import machine, versions
from bench.records.record import AA, SCHEMA_VERSION, UNMERGED, Missing, Pairs, Record, Status
from bench.records.results import CheckedCell
from bench.records.store import Store, read_record
from bench.runner.progress import Progress
from bench.runner.stopping import should_stop
from bench.runner.sweep import Summary, run_sweep
from tests.children import marked, wait_until
from tests.command import SMALL, Done, here
from tests.fakes import FakeEngine, checked_cells, make_cell, make_record, pairs_at

ROOT = Path(__file__).parent.parent
METHODS = ("full", "lora", "adapter")


def sweep(
    folder: Path,
    engine: FakeEngine,
    items: Sequence[CheckedCell] | None = None,
    *,
    fresh: bool = False,
    deadline: float | None = None,
) -> Summary:
    items = checked_cells(*METHODS) if items is None else items
    return run_sweep(items, "test", Store(folder), engine, Progress(Console(file=io.StringIO())), fresh, deadline)


def test_each_record_is_there_when_the_next_cell_starts(tmp_path: Path) -> None:
    """A record is written as soon as its cell ends, in the order of the cells."""
    found: list[int] = []

    def look(_cell: Cell) -> None:
        found.append(len(Store(tmp_path).read()))

    summary = sweep(tmp_path, FakeEngine(before=look))
    assert found == [0, 1, 2]
    assert Store(tmp_path).read() == {r.cell_id: r for r in summary.ran}
    assert [r.cell.method for r in summary.records] == list(METHODS)


def test_an_interrupted_sweep_keeps_what_it_has_and_goes_on(tmp_path: Path) -> None:
    """Ctrl-C during a cell loses that cell alone; the same sweep again runs what is left."""

    def interrupt(cell: Cell) -> None:
        if cell.method == "lora":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, FakeEngine(before=interrupt))
    assert [r.cell.method for r in Store(tmp_path).read().values()] == ["full"]
    again = FakeEngine()
    summary = sweep(tmp_path, again)
    assert again.measured == ["lora", "adapter"]
    assert len(summary.kept) == 1
    assert len(Store(tmp_path).read()) == len(METHODS)


def test_no_cell_is_started_that_would_end_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With cells that took 40 s each there is no time for a third one in 100 s; the same sweep goes on with it."""
    now = [0.0]
    monkeypatch.setattr("bench.runner.sweep.time.monotonic", lambda: now[0])

    def takes(_cell: Cell) -> None:
        now[0] += 40.0

    class Slow(FakeEngine):
        def measure(self, cell: Cell, study: str, listen: Callable[[str], object]) -> Record:
            return dataclasses.replace(super().measure(cell, study, listen), seconds=40.0)

    summary = sweep(tmp_path, Slow(before=takes), deadline=100.0)
    assert ([r.cell.method for r in summary.ran], summary.left) == (["full", "lora"], 1)
    rest = sweep(tmp_path, Slow(before=takes), deadline=now[0] + 100.0)
    assert ([r.cell.method for r in rest.ran], rest.left) == (["adapter"], 0)


def test_a_finished_sweep_runs_nothing_again(tmp_path: Path) -> None:
    """With every record there, nothing is measured and no file is touched."""
    sweep(tmp_path, FakeEngine())
    before = _state(tmp_path)
    again = FakeEngine()
    summary = sweep(tmp_path, again)
    assert again.measured == []
    assert (summary.ran, len(summary.kept), summary.failed) == ([], len(METHODS), [])
    assert _state(tmp_path) == before


@pytest.mark.parametrize("ending", [Status.FAILED, Status.OOM, Status.TIMEOUT])
def test_a_cell_that_ended_badly_is_run_again(tmp_path: Path, ending: Status) -> None:
    """Resuming repeats the cells that ended badly and no other, and the new record takes the old one's place."""
    sweep(tmp_path, FakeEngine(endings={"lora": ending}))
    again = FakeEngine()
    summary = sweep(tmp_path, again)
    assert again.measured == ["lora"]
    assert summary.failed == []
    assert {r.status for r in Store(tmp_path).read().values()} == {Status.OK}


def test_fresh_runs_everything(tmp_path: Path) -> None:
    """A fresh sweep measures what is recorded already, and keeps nothing."""
    sweep(tmp_path, FakeEngine())
    again = FakeEngine()
    summary = sweep(tmp_path, again, fresh=True)
    assert again.measured == list(METHODS)
    assert summary.kept == []


def test_records_of_other_cells_are_left_alone(tmp_path: Path) -> None:
    """A sweep neither touches nor counts records in its folder that are not of its cells."""
    path = Store(tmp_path).write(make_record(make_cell("qlora"), status=Status.FAILED))
    before = path.read_bytes()
    summary = sweep(tmp_path, FakeEngine(), fresh=True)
    assert path.read_bytes() == before
    assert "qlora" not in {r.cell.method for r in summary.records}


@pytest.mark.parametrize("ending", [Status.FAILED, Status.OOM, Status.TIMEOUT, Status.SKIPPED])
def test_a_bad_ending_does_not_stop_the_sweep(tmp_path: Path, ending: Status) -> None:
    """However a cell ends, the others run; every ending but a skip counts as failed."""
    summary = sweep(tmp_path, FakeEngine(endings={"lora": ending}))
    assert [str(r.status) for r in summary.ran] == ["ok", str(ending), "ok"]
    assert [r.cell.method for r in summary.failed] == ([] if ending is Status.SKIPPED else ["lora"])
    assert len(Store(tmp_path).read()) == len(METHODS)


def test_failures_of_an_earlier_run_are_replaced_not_added(tmp_path: Path) -> None:
    """A sweep whose failed cell fails again has one failure."""
    measure = FakeEngine(endings={"lora": Status.OOM})
    sweep(tmp_path, measure)
    summary = sweep(tmp_path, measure)
    assert len(summary.failed) == 1
    assert len(summary.records) == len(METHODS)


def test_a_figure_that_is_no_number_fails_its_cell_alone(tmp_path: Path) -> None:
    """NaN can't be stored: its cell has failed and says which metric it was, keeps the others, and the rest run."""
    summary = sweep(tmp_path, FakeEngine(not_numbers=frozenset({"lora"})))
    stored = {r.cell.method: r for r in Store(tmp_path).read().values()}
    assert {method: r.status for method, r in stored.items()} == {
        "full": Status.OK,
        "lora": Status.FAILED,
        "adapter": Status.OK,
    }
    whole = make_record(make_cell(), study="test")
    assert stored["lora"].reason == "loss (unmerged) came out as nan"
    assert (stored["lora"].measurements, stored["lora"].pairs) == (whole.measurements, whole.pairs)
    assert Missing("loss", UNMERGED, "it came out as nan") in stored["lora"].missing
    assert [r.cell.method for r in summary.failed] == ["lora"]


def test_what_json_does_not_have_is_left_out_of_a_record(tmp_path: Path) -> None:
    """A method's own description may hold anything: the part is left out, and the cell says so."""

    class Odd(FakeEngine):
        def measure(self, cell: Cell, study: str, listen: Callable[[str], object]) -> Record:
            record = super().measure(cell, study, listen)
            return dataclasses.replace(record, metadata={**record.metadata, "own": {"scale": float("inf")}})

    sweep(tmp_path, Odd(), checked_cells("lora"))
    (stored,) = Store(tmp_path).read().values()
    assert (stored.status, stored.reason) == (Status.FAILED, "metadata.own holds what JSON can't")
    assert stored.metadata == make_record(make_cell()).metadata
    assert stored.measurements


def test_a_sweep_says_which_of_its_records_are_of_elsewhere(tmp_path: Path) -> None:
    """Records of other versions or another machine stay, and the line that says so names both values."""
    said = io.StringIO()
    items = checked_cells(*METHODS)
    sweep(tmp_path, FakeEngine(), items)
    run_sweep(items, "test", Store(tmp_path), FakeEngine(), Progress(Console(file=said, width=999)), fresh=False)
    (line,) = said.getvalue().splitlines()
    assert line.startswith("3 cells are recorded already, 3 of them elsewhere (")
    assert f"torch 2.11.0, now {versions()['torch']}" in line
    assert "machine fake, now " in line
    assert line.endswith("; --fresh measures them again")
    for record in Store(tmp_path).read().values():
        Store(tmp_path).write(dataclasses.replace(record, machine=machine(), versions=versions()))
    said.truncate(0)
    run_sweep(items, "test", Store(tmp_path), FakeEngine(), Progress(Console(file=said, width=999)), fresh=False)
    assert said.getvalue().strip("\0\n") == "3 cells are recorded already; --fresh measures them again"


def test_a_cell_that_can_not_be_run_is_recorded_and_not_measured(tmp_path: Path) -> None:
    """A skip that was known beforehand costs nothing, has its reason in a record and is no failure."""
    items = [*checked_cells("full"), CheckedCell(make_cell("lora"), skip="it does not fit")]
    measure = FakeEngine()
    summary = sweep(tmp_path, measure, items)
    assert measure.measured == ["full"]
    assert summary.failed == []
    stored = Store(tmp_path).read()[items[1].cell.id]
    assert (stored.status, stored.reason) == (Status.SKIPPED, "it does not fit")


@pytest.mark.parametrize("ending", [Status.OK, Status.FAILED, Status.SKIPPED])
def test_a_record_names_the_accelerator_however_its_cell_ended(tmp_path: Path, ending: Status) -> None:
    """The check that came before has seen it, so that a cell that failed or is skipped has no table of its own."""
    cell = make_cell("lora")
    item = CheckedCell(cell, "no room" if ending is Status.SKIPPED else None, {"accelerator": "a card"})
    (record,) = sweep(tmp_path, FakeEngine(endings={"lora": ending}), [item]).ran
    assert record.status is ending
    assert record.machine == {**record.machine, "accelerator": "a card"}
    assert record.processor == "a card"
    assert Store(tmp_path).read()[cell.id] == record


def test_a_failure_keeps_its_own_reason(tmp_path: Path) -> None:
    """Also where a number that can't be stored is among what was measured before it."""
    engine = FakeEngine(endings={"lora": Status.FAILED}, not_numbers=frozenset({"lora"}))
    (record,) = sweep(tmp_path, engine, checked_cells("lora")).ran
    assert (record.status, record.reason, record.measurements) == (Status.FAILED, "it was failed", ())


def test_a_folder_with_a_broken_record_is_refused_before_anything_runs(tmp_path: Path) -> None:
    """A record that can't be read stops the sweep before its first cell, and stays as it is."""
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    measure = FakeEngine()
    with pytest.raises(UsageError, match=r"broken\.json"):
        sweep(tmp_path, measure)
    assert measure.measured == []
    assert broken.read_text() == "{"


# From here on for real: a model of two layers, three training steps and one replicate.

TWO = ("method=lora,prompt_tuning", "method.rank=2", *SMALL)


def start(folder: Path, overrides: Sequence[str], marker: str = "PEFT_VERDICT_TEST=0") -> subprocess.Popen[str]:
    name, _, value = marker.partition("=")
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "multirun", *overrides, f"results_dir={folder}"],
        cwd=ROOT,
        env={**os.environ, name: value},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> Done:
    stdout, stderr = process.communicate(timeout=300)
    return Done(process.returncode, stdout, stderr)


def records(folder: Path) -> dict[str, Record]:
    """By method; measurement checks each against the schema."""
    return {r.cell.method: r for r in map(read_record, folder.glob("*.json"))}


def _state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


@dataclass(frozen=True)
class Resumed:
    """A sweep that was killed after its first record, then run twice more."""

    folder: Path
    leftovers: list[int]
    killed: dict[str, tuple[int, bytes]]
    resumed: Done
    complete: dict[str, tuple[int, bytes]]
    again: Done
    final: dict[str, tuple[int, bytes]]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    folder = tmp_path_factory.mktemp("resumed")
    marker = f"PEFT_VERDICT_TEST={uuid.uuid4()}"
    process = start(folder, TWO, marker)
    try:
        wait_until(lambda: bool(list(folder.glob("*.json"))) or process.poll() is not None, "the first record")
    finally:
        process.kill()
        finish(process)
    killed = {name: state for name, state in _state(folder).items() if name.endswith(".json")}
    _wait_quietly(lambda: not marked(marker))
    leftovers = marked(marker)
    first = here("multirun", *TWO, f"results_dir={folder}")
    complete = _state(folder)
    second = here("multirun", *TWO, f"results_dir={folder}")
    return Resumed(folder, leftovers, killed, first, complete, second, _state(folder))


def _wait_quietly(true: Callable[[], bool]) -> None:
    """What is waited for is asserted by a test."""
    try:
        wait_until(true, "", 20.0)
    except AssertionError:
        return


def test_a_killed_sweep_leaves_no_process(resumed: Resumed) -> None:
    """A sweep that is killed, and so can clean up nothing, takes its children with it."""
    assert resumed.leftovers == []


def test_a_killed_sweep_is_taken_up_where_it_stopped(resumed: Resumed) -> None:
    """The record of the cell that had ended is not touched, and the others are there and valid in the end."""
    assert len(resumed.killed) == 1
    assert resumed.resumed.status == 0, resumed.resumed
    for name, state in resumed.killed.items():
        assert resumed.complete[name] == state
    assert {m: r.status for m, r in records(resumed.folder).items()} == {
        "lora": Status.OK,
        "prompt_tuning": Status.OK,
    }


def test_a_killed_sweep_leaves_no_half_record(resumed: Resumed) -> None:
    """After resuming, the folder holds the records and nothing else that a table would trip over."""
    assert [name for name in resumed.complete if not name.endswith(".json")] == []


def test_a_finished_sweep_touches_no_record(resumed: Resumed) -> None:
    """The same command a third time measures nothing, changes no file, prints the same table and ends well."""
    assert resumed.again.status == 0, resumed.again
    assert resumed.final == resumed.complete


def test_a_sweep_ends_with_its_table(resumed: Resumed) -> None:
    """Both the run that measured and the one that had nothing to do show every method, and nothing on stderr."""
    for done in (resumed.resumed, resumed.again):
        assert done.stderr == ""
        for word in ("control", "lora", "prompt_tuning", "unmerged", "merged", "2 cells: 2 ok"):
            assert word in done.stdout


def test_records_of_a_sweep_have_the_figures(resumed: Resumed) -> None:
    """A real record holds what its method promises: trained parameters by formula, each state, pairs of each arm."""
    lora = records(resumed.folder)["lora"]
    measurements = {(r.metric, r.state): r.value for r in lora.measurements}
    # two layers, q [32 -> 32] and v [32 -> 16], rank 2
    assert measurements["trained_parameters", "unmerged"] == 2 * 2 * ((32 + 32) + (32 + 16))
    assert {p.arm for p in lora.pairs} == {"unmerged", "merged", "aa"}
    assert {p.phase for p in lora.pairs} == {"prefill", "decode", "train"}
    assert {r.state for r in lora.measurements} == {"control", "unmerged", "merged"}
    assert lora.reason is None
    assert lora.cell.size == 2


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder with a path that is short enough for a socket, as that of `tmp_path` is not."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        pytest.param(signal.SIGTERM, 143, "", marks=pytest.mark.slow),
        (signal.SIGINT, 130, "interrupted"),
    ],
)
def test_a_sweep_that_is_told_to_stop_leaves_nothing_behind(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals, status: int, said: str
) -> None:
    """Asked to end, it ends its children, removes the checkpoints that it kept for them, and keeps its records."""
    folder = tmp_path / "results"
    monkeypatch.setenv("TMPDIR", str(scratch))
    marker = f"PEFT_VERDICT_TEST={uuid.uuid4()}"
    process = start(folder, TWO, marker)
    try:
        wait_until(lambda: any(scratch.glob("peft-verdict-*")) or process.poll() is not None, "a cell to start")
        process.send_signal(sent)
        done = finish(process)
    finally:
        process.kill()
    assert done.status == status, done
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == bool(said)
    wait_until(lambda: not marked(marker), "every process of the sweep to end", 20.0)
    assert not any(scratch.glob("peft-verdict-*"))
    Store(folder).read()


def test_two_sweeps_at_once_into_one_folder(tmp_path: Path) -> None:
    """Two of the same sweep at once both end well, and leave each record once and whole."""
    folder = tmp_path / "shared"
    one = ("method=prompt_tuning", *SMALL)
    both = [finish(process) for process in [start(folder, one), start(folder, one)]]
    assert [(done.status, done.stderr) for done in both] == [(0, ""), (0, "")]
    assert {m: r.status for m, r in records(folder).items()} == {"prompt_tuning": Status.OK}
    assert {path.suffix for path in folder.iterdir()} == {".json"}


def test_training_that_diverges_fails_its_cell_alone(tmp_path: Path) -> None:
    """An absurd learning rate leaves a failed record with a reason in one line; the cell after it runs; status 1."""
    folder = tmp_path / "results"
    rates = "method.learning_rate=1e30,1e-3"
    done = here("multirun", "method=lora", "method.rank=2", rates, *SMALL, f"results_dir={folder}")
    assert done.status == 1, done
    found = {r.cell.config["method"]["learning_rate"]: r for r in map(read_record, folder.glob("*.json"))}
    assert {rate: r.status for rate, r in found.items()} == {1e30: Status.FAILED, 1e-3: Status.OK}
    reason = found[1e30].reason
    assert reason
    assert "\n" not in reason
    assert reason in done.stdout.replace("\n", " ")
    assert all(json.loads(path.read_text())["schema_version"] == SCHEMA_VERSION for path in folder.glob("*.json"))


def replicated(spreads: Sequence[float], precision: dict[str, object]) -> int:
    """How many processes are run, when the first ones spread as given and all later ones not at all."""
    pairs: list[Pairs] = []
    for process in range(20):
        if should_stop(process, pairs, precision):
            return process
        log = spreads[process] if process < len(spreads) else 0.0
        pairs.extend(pairs_at([log]))
        pairs.extend(pairs_at([log * 50], arm=AA))
    raise AssertionError("it never ended")


@pytest.mark.parametrize(
    ("spreads", "most", "count"),
    [
        ([0.001, -0.001] * 3, 12, 6),
        ([0.02, -0.02] * 3, 12, 9),
        ([0.9, -0.9] * 9, 12, 12),
        ([0.9, -0.9] * 9, 0, 6),
        ([0.9, -0.9] * 9, 8, 8),
    ],
)
def test_processes_are_added_until_the_interval_is_narrow(spreads: list[float], most: int, count: int) -> None:
    """Six where they agree, more where they do not, never more than may be; the A/A arm asks for none."""
    precision = {"processes": 6, "max_processes": most, "margin": 0.03}
    assert replicated(spreads, precision) == count
