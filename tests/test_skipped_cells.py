"""One cell's trouble is that cell's row: what a model or a machine can't run leaves the other cells alone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import methods
from bench.config.compose import compose_multirun
from bench.errors import UsageError
from bench.records.record import Status
from bench.records.results import CheckedCell
from bench.runner.process import Outcome, ProcessRunner
from bench.runner.progress import Progress
from bench.runner.sweep import check_cells
from bench.worker.check import check_all
from methods.full import Full
from methods.lora import Lora
from methods.p_tuning import PTuning
from methods.prompt_tuning import PromptTuning
from tests.fakes import make_cell
from tests.families import GROUPED
from tests.test_conformance import logits, tokens, train

UNKNOWN = "phi3"
"""A family whose modules have names that are not known here: q, k and v are one matrix, gate and up another."""


def unknown(**sizes: int) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(UNKNOWN, **{**GROUPED, **sizes})
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model.eval()


def reasons(*arguments: str) -> list[str | None]:
    """Why each cell is skipped, in the order of the cells; no cell is refused."""
    (sweep,) = compose_multirun(["~study", *arguments])
    found = check_all(sweep.cells, str)
    assert not [item for item in found if isinstance(item, str)], found
    return [item.skip for item in found if isinstance(item, CheckedCell)]


def only(skips: Sequence[str | None]) -> tuple[int, str]:
    """The one cell that is skipped, and why."""
    ((number, reason),) = [(number, skip) for number, skip in enumerate(skips) if skip is not None]
    return number, reason


@pytest.mark.parametrize("method", [Full(), PromptTuning(), PTuning()], ids=lambda method: method.name)
def test_what_needs_no_names_runs_on_any_family(method: methods.Method, tmp_path: Path) -> None:
    """It attaches to a model of an unknown family, trains, and answers the same once it is saved and loaded."""
    attached = method.attach(unknown())
    before = logits(attached.model.eval(), tokens())
    train(attached, 2, rate=0.05)
    attached.prepare_for_inference()
    expected = logits(attached.model.eval(), tokens())
    assert not torch.equal(expected, before)
    loaded = method.load(unknown(), attached.save(tmp_path / "checkpoint"))
    torch.testing.assert_close(logits(loaded.model.eval(), tokens()), expected, atol=2e-5, rtol=2e-5)


def test_an_unknown_family_skips_only_what_needs_its_names(tmp_path: Path) -> None:
    """The row of LoRA says what was looked for; full fine-tuning, prompts and peft, told its modules, run."""
    unknown(vocab_size=4096).save_pretrained(tmp_path)
    skips = reasons(
        "method=full,prompt_tuning,p_tuning,peft_lora,lora",
        "peft_lora.config.target_modules=[qkv_proj]",
        "model=pretrained",
        f"model.path={tmp_path}",
        "model.tokenizer=builtin",
        "workload.prompt_lengths=[16]",
        "workload.train_length=16",
    )
    number, reason = only(skips)
    assert number == 4
    assert "Phi3ForCausalLM belongs to no known model family" in reason


TWO_MODELS: dict[str, tuple[list[str], str]] = {
    "rank": (["method=lora", "method.rank=100", "model.settings.num_key_value_heads=1,8"], "rank 100 is larger"),
    "bottleneck": (["method=adapter", "method.bottleneck=200", "model.settings.hidden_size=128,256"], "bottleneck 200"),
    "layers": (
        ["method=adapter", "method.skip_layers=3", "model.settings.num_hidden_layers=2,4"],
        "leaves none of 2 layers",
    ),
    "positions": (["method=lora", "model.settings.max_position_embeddings=64,512"], "positions are needed"),
    "heads": (["method=lora", "model.settings.num_key_value_heads=3,2"], "num_key_value_heads"),
}


@pytest.mark.parametrize("case", TWO_MODELS)
def test_what_one_of_two_models_can_not_run_is_its_row(case: str) -> None:
    """A setting that fits one model and not the other skips the cell of the other, with the reason in one line."""
    arguments, words = TWO_MODELS[case]
    number, reason = only(reasons(*arguments))
    assert number == 0
    assert words in reason
    assert "\n" not in reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_device_that_is_not_there_is_a_row() -> None:
    """The cells of a processor run on a machine without a card; those of a card say what is missing."""
    assert only(reasons("method=lora", "device=cpu,cuda")) == (
        1,
        "device=cuda: torch sees no CUDA device on this machine; use device=cpu",
    )


def test_an_error_that_nobody_foresaw_is_one_cells_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a check raises, the cell says so, by the error's kind where it has no words, and the others run."""

    def fail(self: Lora, model: PreTrainedModel) -> None:
        raise AssertionError

    monkeypatch.setattr(Lora, "check", fail)
    assert only(reasons("method=full,lora,adapter")) == (1, "AssertionError: no reason given")


def test_a_text_that_fails_unforeseen_is_its_cells_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while one text is read is the reason of the cells with this text; cells with another one run."""

    def load(plan: Any) -> None:
        if plan.workload.train_length == 32:
            raise RuntimeError("generator\nraised")

    monkeypatch.setattr("bench.worker.check.load_text", load)
    lengths = "workload.train_length=16,32"
    assert reasons("method=full,lora", lengths) == [None, "stdlib: RuntimeError: generator raised"] * 2


def test_what_was_typed_wrong_refuses_the_sweep() -> None:
    """A rank of 0 fits no model: the line is no row, however many other cells could run."""
    (sweep,) = compose_multirun(["~study", "method=adalora", "method.final_steps=3,99"])
    kinds = [type(item) for item in check_all(sweep.cells, str)]
    assert kinds == [CheckedCell, str]


class Answer(ProcessRunner):
    """Stands in for the child that checks cells."""

    def __init__(self, found: list[CheckedCell | str]) -> None:
        self.found = found

    def call(self, function: str, *arguments: Any, **options: Any) -> Outcome:
        return Outcome(Status.OK, value=self.found)


def test_if_no_cell_can_run_something_must_be_corrected() -> None:
    """Every command that checks cells ends with one line then, the first reason; one good cell is enough to go on."""
    bad = [CheckedCell(make_cell(size=size), f"rank {size} is larger") for size in (100, 200)]
    good, progress = CheckedCell(make_cell(size=8), None), Progress(Console(file=io.StringIO()))
    with pytest.raises(UsageError, match=r"^rank 100 is larger \(and 1 more like it\)$"):
        check_cells([{}], Answer([*bad]), progress)
    assert check_cells([{}], Answer([*bad, good]), progress) == [*bad, good]
