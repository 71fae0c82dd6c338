"""Records on disk: what is written comes back, what is broken is refused, and nobody sees half a record."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import operator
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.records.cell import Cell
from bench.records.record import SCHEMA_VERSION, Measurement, Missing, Pairs, Record, Status
from bench.records.store import Store, read_paths, read_record
from tests.fakes import make_cell, make_record

FINITE = st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers(min_value=0, max_value=1 << 80)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
"""Whatever JSON can hold, nested."""
SETTINGS = st.dictionaries(st.text(), PLAIN, max_size=5)
CELLS = st.builds(
    Cell,
    method=st.text(max_size=20),
    implementation=st.text(max_size=20),
    size=st.none() | st.integers(min_value=0, max_value=1 << 40),
    model=st.text(max_size=20),
    config=SETTINGS,
)
READINGS = st.builds(
    Measurement,
    metric=st.text(),
    value=FINITE | st.integers(),
    state=st.text(),
    batch_size=st.none() | COUNTS,
    prompt_length=st.none() | COUNTS,
)
SECONDS = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
BLOCKS = st.lists(st.tuples(SECONDS, SECONDS, st.booleans()), min_size=1, max_size=4)


@st.composite
def any_pairs(draw: st.DrawFn) -> Pairs:
    control, arm, first = zip(*draw(BLOCKS), strict=True)
    return Pairs(
        process=draw(COUNTS),
        phase=draw(st.text()),
        arm=draw(st.text()),
        batch_size=draw(COUNTS),
        prompt_length=draw(COUNTS),
        steps_per_block=draw(COUNTS),
        discarded_steps=draw(COUNTS),
        control_seconds=control,
        arm_seconds=arm,
        control_first=first,
        shared_weights=draw(st.booleans()),
    )


@st.composite
def any_record(draw: st.DrawFn) -> Record:
    cell = draw(CELLS)
    return Record(
        cell_id=cell.id,
        study=draw(st.text()),
        status=draw(st.sampled_from(Status)),
        reason=draw(st.none() | st.text()),
        cell=cell,
        measurements=tuple(draw(st.lists(READINGS, max_size=4))),
        missing=tuple(draw(st.lists(st.builds(Missing, st.text(), st.text(), st.text()), max_size=3))),
        pairs=tuple(draw(st.lists(any_pairs(), max_size=3))),
        warnings=tuple(draw(st.lists(st.text(), max_size=3))),
        metadata=draw(SETTINGS),
        machine=draw(SETTINGS),
        versions=draw(st.dictionaries(st.text(), st.text(), max_size=3)),
        commit=draw(st.none() | st.text()),
        started=draw(st.text()),
        seconds=draw(FINITE),
    )


@given(record=any_record())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_record_comes_back_equal(tmp_path: Path, record: Record) -> None:
    """Writing and measurement changes nothing: neither a float's last bit, nor a type, nor a character."""
    back = read_record(Store(tmp_path).write(record))
    assert back == record
    assert repr(back) == repr(record)  # equality would let 1 and 1.0 pass for each other


def test_text_that_is_no_unicode_can_be_read_again(tmp_path: Path) -> None:
    """A reason with a stray byte in it, as in the name of a file, does not make a record that nothing can read."""
    stray = b"/tmp/\xff".decode(errors="surrogateescape")
    record = make_record(make_cell(), status=Status.FAILED, reason=f"no such file: {stray}")
    assert read_record(Store(tmp_path).write(record)).status is Status.FAILED


Spoil = Callable[[dict[str, Any]], object]
SPOILT: dict[str, Spoil] = {
    "unknown key": lambda raw: raw.update(colour="red"),
    "unknown key of a measurement": lambda raw: raw["measurements"][0].update(colour="red"),
    "unknown key of the cell": lambda raw: raw["cell"].update(colour="red"),
    "missing key": lambda raw: raw.pop("status"),
    "wrong type": lambda raw: raw.update(seconds="1.5"),
    "wrong type of a measurement": lambda raw: raw["measurements"][0].update(value="12"),
    "metric that is no number": lambda raw: raw["measurements"][0].update(value=float("nan")),
    "blocks without a partner": lambda raw: raw["pairs"][0]["arm_seconds"].pop(),
    "no blocks": lambda raw: raw["pairs"][0].update(arm_seconds=[], control_seconds=[], control_first=[]),
    "block that took no time": lambda raw: operator.setitem(raw["pairs"][0]["arm_seconds"], 0, 0.0),
    "schema 0": lambda raw: raw.update(schema_version=0),
    "no schema": lambda raw: raw.pop("schema_version"),
    "unknown status": lambda raw: raw.update(status="fine"),
    "newer schema": lambda raw: raw.update(schema_version=SCHEMA_VERSION + 1),
    "newer schema with unknown keys": lambda raw: raw.update(schema_version=SCHEMA_VERSION + 1, colour="red"),
    "edited configuration": lambda raw: raw["cell"]["config"].update(seed=1),
    "edited id": lambda raw: raw.update(cell_id="tiny-lora-8-0000000000"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_record_is_refused_by_name(tmp_path: Path, how: str) -> None:
    """Whatever is wrong with a record, the one line about it names the file, and the folder is refused as well."""
    path = Store(tmp_path).write(make_record(make_cell()))
    raw = json.loads(path.read_text())
    SPOILT[how](raw)
    path.write_text(json.dumps(raw))
    for read in (lambda: read_record(path), Store(tmp_path).read, lambda: read_paths([tmp_path])):
        with pytest.raises(UsageError) as caught:
            read()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


NO_RECORDS = ["", "[]", "null", "7", "{}", '{"cell_id": "x"', "\x00\x01", '{"schema_version": 1}', "[" * 10**5]


@pytest.mark.parametrize("text", NO_RECORDS, ids=range(len(NO_RECORDS)))
def test_what_is_no_record_is_refused_by_name(tmp_path: Path, text: str) -> None:
    """Any other JSON, or none, is refused as a spoilt record is."""
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"x\.json"):
        read_record(path)


@given(fraction=st.floats(min_value=0.0, max_value=0.999))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_torn_record_is_refused_by_name(tmp_path: Path, fraction: float) -> None:
    """Wherever a file was cut off, it is no record."""
    path = Store(tmp_path).write(make_record(make_cell()))
    whole = path.read_bytes()[:-1]  # the last byte is the newline
    path.write_bytes(whole[: int(fraction * len(whole))])
    with pytest.raises(UsageError) as caught:
        read_record(path)
    assert str(path) in str(caught.value)


def test_bytes_that_are_no_text_are_refused_by_name(tmp_path: Path) -> None:
    """A file in no encoding at all is an error of one line too."""
    path = tmp_path / "x.json"
    path.write_bytes(b'{"cell_id": "\xff\xfe"}')
    with pytest.raises(UsageError, match=r"x\.json"):
        read_record(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_figure_that_is_no_number_is_not_written(tmp_path: Path, value: float) -> None:
    """JSON has no NaN: the record is refused, and neither it nor a temporary file is left."""
    record = make_record(make_cell())
    spoilt = dataclasses.replace(record, measurements=(Measurement("loss", value, "unmerged"),))
    with pytest.raises(ValueError):  # in json's own words
        Store(tmp_path).write(spoilt)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_record_leaves_the_old_one(tmp_path: Path) -> None:
    """A write that fails leaves what was there, byte for byte."""
    store, record = Store(tmp_path), make_record(make_cell())
    path = store.write(record)
    before = path.read_bytes()
    with pytest.raises(ValueError):
        store.write(dataclasses.replace(record, seconds=float("nan")))
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (before, [path])


WRITERS = 4
ROUNDS = 25


def _write_often(folder: str, number: int) -> None:
    store = Store(Path(folder))
    for count in range(ROUNDS):
        store.write(make_record(make_cell("lora", 8), started=f"2026-01-0{number + 1}T00:00:{count:02}+00:00"))
        store.write(make_record(make_cell("adapter", 1000 * number + count)))


def test_writers_at_once_lose_and_tear_nothing(tmp_path: Path) -> None:
    """Processes that write the same cell and others into one folder: a reader always sees whole records, each record
    that was once there stays there, and in the end every one is there and no temporary file."""
    # forkserver: what the forked copy of a process with threads would do is undefined
    context = multiprocessing.get_context("forkserver")
    writers = [context.Process(target=_write_often, args=(str(tmp_path), number)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    store, seen = Store(tmp_path), set[str]()
    while any(writer.is_alive() for writer in writers):
        now = set(store.read())
        assert seen <= now
        seen = now
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    assert len(store.read()) == 1 + WRITERS * ROUNDS
    assert {path.suffix for path in tmp_path.iterdir()} == {".json"}


def _shuffled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict):
        return {key: _shuffled(value[key], rng) for key in rng.sample(list(value), len(value))}
    return [_shuffled(item, rng) for item in value] if isinstance(value, list) else value


@given(cell=CELLS, rng=st.randoms(use_true_random=False))
def test_an_id_does_not_depend_on_the_order_of_keys(cell: Cell, rng: random.Random) -> None:
    """The same configuration, written in another order at any depth, is the same cell."""
    assert dataclasses.replace(cell, config=_shuffled(cell.config, rng)).id == cell.id


@given(cell=CELLS, other=SETTINGS)
def test_different_configurations_have_different_ids(cell: Cell, other: dict[str, Any]) -> None:
    """Anything that differs in the configuration makes another cell."""
    assume(other != cell.config)
    assert dataclasses.replace(cell, config=other).id != cell.id


@given(cell=CELLS)
def test_an_id_can_name_a_file(cell: Cell) -> None:
    """Whatever a model or method is called, the id is a plain file name and no hidden one."""
    assert set(cell.id) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")
    assert not cell.id.startswith(".")


def test_a_folder_that_can_not_be_made_is_refused(tmp_path: Path) -> None:
    """A file in the way, at the folder's place or above it, is an error that names the folder."""
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError) as caught:
            Store(folder).open()
        assert str(folder) in str(caught.value)
    assert (tmp_path / "file").read_text() == "in the way"


def test_opening_leaves_an_empty_folder(tmp_path: Path) -> None:
    """Opening makes the folder with those above it and leaves nothing in it; opening again changes nothing."""
    store = Store(tmp_path / "a" / "b")
    store.open()
    store.open()
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_read_paths_refuses_what_holds_nothing(tmp_path: Path) -> None:
    """A path that is not there, and a folder without records, are errors that name it."""
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UsageError) as caught:
            read_paths([path])
        assert str(path) in str(caught.value)


def test_read_paths_takes_files_and_folders(tmp_path: Path) -> None:
    """Files and folders may be mixed, and a cell that is in both counts once."""
    first, second = make_record(make_cell("lora", 8)), make_record(make_cell("adapter", 16))
    file = Store(tmp_path).write(first)
    Store(tmp_path).write(second)
    assert {r.cell_id for r in read_paths([file])} == {first.cell_id}
    assert sorted(r.cell_id for r in read_paths([file, tmp_path, file])) == sorted([first.cell_id, second.cell_id])


def test_records_of_two_machines_are_both_read(tmp_path: Path) -> None:
    """Of one cell, measured on two machines, with two versions of torch, or two of a package that the method runs on,
    both records count, in whatever order they are named and also in one folder; of another package the later does."""
    base = {"python": "3.11.7", "torch": "2.11.0"}
    changes: list[tuple[Any, int]] = [
        ({"machine": {"processor": "another"}}, 2),
        ({"machine": {"processor": "fake", "accelerator": "card"}}, 2),
        ({"versions": {**base, "torch": "2.12.0"}}, 2),
        ({"versions": {**base, "bitsandbytes": "1.0"}}, 1),
        ({"versions": {**base, "bitsandbytes": "1.0"}, "metadata": {"packages": ["bitsandbytes"]}}, 2),
    ]
    for number, (change, count) in enumerate(changes):
        folders = [tmp_path / f"{number}-{name}" for name in "ab"]
        Store(folders[0]).write(make_record(make_cell()))
        path = Store(folders[1]).write(dataclasses.replace(make_record(make_cell()), **change))
        found = [read_paths(order) for order in (folders, folders[::-1])]
        assert [len(records) for records in found] == [count, count]
        assert found[0] == found[1] or count == 1
        path.rename(folders[0] / "copy.json")
        assert len(read_paths([folders[0]])) == count


def test_the_later_of_two_records_wins(tmp_path: Path) -> None:
    """Of two records of one cell the one that started later counts, in whatever order they are named."""
    folders = [tmp_path / "old", tmp_path / "new"]
    for day, folder in enumerate(folders, start=1):
        Store(folder).open()
        Store(folder).write(make_record(make_cell(), started=f"2026-01-0{day}T00:00:00+00:00"))
    for order in (folders, folders[::-1]):
        assert [r.started for r in read_paths(order)] == ["2026-01-02T00:00:00+00:00"]
