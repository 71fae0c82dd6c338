"""Overrides that nobody means: whatever is typed composes, or is refused in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.config.compose import compose_multirun, compose_run
from bench.config.keys import check_overrides
from bench.config.schema import Sweep
from bench.errors import UsageError

KEYS = (
    *("method", "model", "data", "workload", "runtime", "device", "precision", "study", "method@reference", "hydra"),
    *("reference", "seed", "results_dir", "time_limit", "method.rank", "method._target_", "method.learning_rate"),
    *("reference.rank", "reference._target_", "model.name", "model.settings", "study.name", "study.grids", "lora"),
    *("lora.rank", "peft.type", "workload.batch_sizes", "precision.start", "device.threads", "seed.x", "nonsense", ""),
)
VALUES = (
    *(None, "", "null", "{}", "[]", "{a: 1}", "{rank: 4}", "[lora]", "1", "-1", "1e400", "nan", "true", "'x'", "a=b"),
    *("lora", "lora,adapter", "lora,null", "lorra", "???", "${seed}", "${nope}", "./some/file.Class", "range(3)"),
    *("interval(0,1)", "glob(*)", "choice(lora,adapter)", "sort(3,1)", "\n", "é", "@", "[1", "methods.lora.Lora"),
)
OVERRIDE = st.builds(
    lambda sign, key, value: f"{sign}{key}" + ("" if value is None else f"={value}"),
    st.sampled_from(["", "", "+", "++", "~"]),
    st.sampled_from(KEYS),
    st.sampled_from(VALUES),
)


def composed(arguments: Sequence[str], compose: Callable[[Sequence[str]], Sweep | list[Sweep]]) -> str | None:
    """Why the overrides are refused, None where they are not. Anything but a refusal is raised."""
    try:
        check_overrides(arguments)
        compose(arguments)
    except UsageError as refusal:
        return str(refusal)
    return None


@given(st.lists(OVERRIDE, min_size=1, max_size=2))
@settings(max_examples=10)
@example(["method.rank=4", "method=lorra"])
@example(["~method._target_"])
@example(["~seed"])
@example(["~model.name"])
@example(["+method=lora"])
@example(["reference={rank: 4}"])
@example(["method@reference=lora", "~reference._target_"])
def test_whatever_is_typed_is_taken_or_refused_in_one_line(arguments: list[str]) -> None:
    """Nothing but a refusal comes out of odd keys, signs and values, and it is a line with words in it."""
    one_cell = [] if any("study" in argument for argument in arguments) else ["~study"]
    for compose, more in ((compose_run, []), (compose_multirun, one_cell)):
        line = composed([*arguments, *more], compose)
        assert line is None or (line.strip() and "\n" not in line)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["method.rank=4", "method=lorra"], ["method=lorra", "lora"]),
        (["reference.rank=4"], ["reference.rank=4", "method@reference=NAME"]),
        (["reference.rank=4", "method@reference=null"], ["reference.rank=4", "method@reference=NAME"]),
        (["method@reference=lorra"], ["method@reference=lorra", "lora"]),
        (["~method._target_"], ["method._target_", "class"]),
        (["~seed"], ["~seed", "leave this out"]),
        (["~model.name"], ["model.name"]),
        (["~results_dir"], ["~results_dir"]),
        (["+method=lora"], ["method"]),
        (["method=null"], ["method=null", "choose from"]),
        (["method=lora,null"], ["method=null", "choose from"]),
        (["model=null"], ["model=null"]),
        (["study=null"], ["study=null"]),
        (["method._target_=null"], ["method._target_", "class"]),
        (["method._target_=Lora"], ["method._target_", "Lora"]),
        (["lora=4"], ["lora"]),
    ],
)
def test_a_refusal_names_what_is_wrong(arguments: list[str], words: list[str]) -> None:
    """The key as it was typed, and a way out."""
    line = composed(arguments, compose_multirun)
    assert line is not None
    for word in words:
        assert word in line


@pytest.mark.parametrize("none", ["method@reference=null", "~method@reference", "reference=null"])
def test_no_reference_is_a_choice(none: str) -> None:
    """It composes to the very cell that has none, and can be swept beside one."""
    assert compose_run([none]).cells == compose_run([]).cells
    both = ["method=lora", "method@reference=null,adapter"]
    check_overrides(both)
    (sweep,) = compose_multirun(both)
    assert [cell.get("reference", {}).get("_target_") for cell in sweep.cells] == [None, "methods.adapter.Adapter"]


def test_no_file_outside_the_package_is_read_for_a_class(tmp_path: Path) -> None:
    """``_target_`` is a dotted name: a path in its place is refused before anything is read there."""
    (tmp_path / "trap.py").write_text("from enum import StrEnum\nclass Trap(StrEnum):\n    raise SystemExit('run')\n")
    for target in (
        f"methods.{tmp_path}/trap.Trap",
        f"{tmp_path}/trap.Trap",
        "methods.../trap.Trap",
        "./some/file.Class",
    ):
        line = composed([f"method._target_={target}"], compose_run)
        assert line is not None
        assert target in line
