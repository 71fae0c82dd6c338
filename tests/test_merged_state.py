"""The merged state is what a user gets: from the merge itself, and from the files that the merged model is saved to."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from bench.config.compose import compose_run
from bench.records.record import MERGED, UNMERGED
from bench.records.results import ProbeResults
from bench.worker.merging import WrongMerge, check_saved, lacking_room, merge, save_merged, ties_of
from bench.worker.probes import measure_metrics
from bench.workload.corpus import Corpus
from bench.workload.plan import Plan, read_plan
from bench.workload.subject import parameter_count
from bench.workload.training import weight_tensors
from methods import Attached, MethodError, Unsupported
from methods.lora import Lora
from methods.peft import Peft
from tests.command import SMALL
from tests.families import GROUPED, build
from tests.test_conformance import logits, tokens

pytestmark = pytest.mark.filterwarnings("ignore")  # peft warns of its own choices, and of transformers' new names
BASE, EMBEDDINGS = 4096 * 32 + 2 * 7_744 + 32, 4096 * 32
"""Parameters of `SMALL` with tied embeddings, and of its embeddings: a layer has 7,744, the last norm 32."""
TIED: dict[str, dict[str, Any]] = {
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "both places": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "copy of the head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "rows": {"target_modules": ["q_proj"], "trainable_token_indices": [1, 2]},
    "no tie": {"target_modules": ["q_proj"]},
}


def tied() -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **GROUPED, tie_word_embeddings=True))
    return model.eval()


def moved(attached: Attached) -> Attached:
    """With each trained number moved by about 0.1."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in attached.trained().values():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    attached.model.eval()
    return attached


@pytest.mark.parametrize("case", TIED)
def test_a_merge_gives_what_peft_alone_gives(case: str) -> None:
    """The merged outputs and parameters are those of ``merge_and_unload`` on a model that nobody else shares."""
    method = Peft(type="LORA", config=TIED[case])
    ours, alone = moved(method.attach(tied())), moved(method.attach(tied()))
    ours.merge()
    model = alone.wrapped.merge_and_unload()  # type: ignore[attr-defined]
    assert torch.equal(logits(ours.model, tokens()), logits(model, tokens()))
    assert parameter_count(ours.model.parameters()) == parameter_count(model.parameters())


@pytest.mark.parametrize("case", TIED)
def test_a_merge_of_tied_weights_leaves_a_model_alone_that_shares_them(case: str) -> None:
    """The copy that keeps the tie is the merged model's own."""
    base = tied()
    aliases = {id(one): nn.Parameter(one.detach(), requires_grad=False) for one in base.parameters()}
    twin = copy.deepcopy(base, aliases)
    before = logits(twin, tokens())
    moved(Peft(type="LORA", config=TIED[case]).attach(base)).merge()
    assert torch.equal(logits(twin, tokens()), before)


@pytest.mark.parametrize("kind", ["all", "lora_only"])
def test_loading_trained_biases_leaves_a_model_alone_that_shares_them(kind: str, tmp_path: Path) -> None:
    """peft loads them into the base's own, so these get storage of their own; the base can't be given back."""
    method = Peft(type="LORA", config={"bias": kind, "target_modules": ["c_attn"]})
    trained = moved(method.attach(build("gpt2")))
    folder = trained.save(tmp_path / "checkpoint")
    base = build("gpt2")
    twin = copy.deepcopy(base, {id(tensor): tensor for tensor in weight_tensors(base)})
    before = logits(twin, tokens())
    loaded = method.load(base, folder)
    torch.testing.assert_close(logits(loaded.model, tokens()), logits(trained.model, tokens()), atol=2e-5, rtol=2e-5)
    assert torch.equal(logits(twin, tokens()), before)
    with pytest.raises(MethodError, match="trains the base's own biases"):
        loaded.detach()


def corpus() -> Corpus:
    return Corpus(train=tokens(), held_out=tokens(), held_out_bytes=0, fingerprint="", description={})


def plan_of(*overrides: str) -> Plan:
    return read_plan(compose_run(overrides).cells[0])


PLAN = ("method=lora", "method.rank=2")


@pytest.mark.parametrize(
    ("case", "says"),
    [
        (
            "embedding",
            "the merge changed model.embed_tokens.weight, and with it lm_head.weight, which is the same weight",
        ),
        ("head", "the merge changed model.embed_tokens.weight, and with it lm_head.weight, which is the same weight"),
        ("both places", "the merge changed model.embed_tokens.weight"),
    ],
)
def test_a_wrong_merge_says_what_the_tie_did(case: str, says: str) -> None:
    """Where one place of a shared weight was adapted and a merge changes both, the outputs are others."""
    base = tied()
    ties = ties_of(base)
    attached = moved(Peft(type="LORA", config=TIED[case]).attach(base))
    with pytest.raises(WrongMerge) as caught:
        merge(plan_of(*PLAN), attached, corpus(), ties)
    assert caught.value.error > 0.1
    assert says in str(caught.value)


def test_outputs_that_are_no_numbers_are_not_the_same(tmp_path: Path) -> None:
    """A comparison with NaN is false whichever way it is asked."""
    base = tied()
    attached = Lora(rank=2).attach(base)
    for parameter in attached.trained().values():
        parameter.data.fill_(1e30)  # their product overflows once it is merged
    with pytest.raises(WrongMerge, match="nan") as caught:
        merge(plan_of(*PLAN), attached, corpus(), ties_of(base))
    assert math.isnan(caught.value.error)


@pytest.mark.parametrize("case", ["copy of the head", "rows", "no tie"])
def test_a_right_merge_is_right_from_disk(case: str, tmp_path: Path) -> None:
    """Saved by ``save_pretrained`` and loaded as a base, it has the same outputs and parameters, whatever was tied."""
    base = tied()
    ties = ties_of(base)
    attached = moved(Peft(type="LORA", config=TIED[case]).attach(base))
    merge(plan_of(*PLAN), attached, corpus(), ties)
    check_saved(plan_of(*PLAN), save_merged(attached, corpus(), ties, tmp_path), corpus(), tmp_path)


def untie(model: PreTrainedModel) -> None:
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())


def hook(model: PreTrainedModel) -> None:
    model.get_output_embeddings().register_forward_hook(lambda _module, _args, output: 2.0 * output)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (hook, "the merged model's outputs differ by"),
        (untie, "are one weight of the base, and the merge made them several"),
    ],
)
def test_a_merge_that_its_files_do_not_hold_is_refused(
    change: Callable[[PreTrainedModel], None], says: str, tmp_path: Path
) -> None:
    """What only memory has, such as a hook, or a second copy that is tied again as the files are loaded, is found."""
    base = tied()
    ties = ties_of(base)
    attached = moved(Lora(rank=2).attach(base))
    merge(plan_of(*PLAN), attached, corpus(), ties)
    change(attached.model)
    saved = save_merged(attached, corpus(), ties, tmp_path)
    with pytest.raises(Unsupported, match="saved and loaded, the merged model") as caught:
        check_saved(plan_of(*PLAN), saved, corpus(), tmp_path)
    assert says in str(caught.value)


def test_what_does_not_fit_the_disk_is_not_saved(tmp_path: Path) -> None:
    """The bytes of the weights are compared with the room that there is."""
    model = build("llama")
    assert lacking_room(model, tmp_path) is None
    huge = nn.Linear(1 << 26, 1 << 26, bias=False, device="meta")
    assert "it takes 16777216.0 GiB" in str(lacking_room(huge, tmp_path))  # type: ignore[arg-type]


def measured(folder: Path, *overrides: str) -> ProbeResults:
    config = compose_run(["~study", *SMALL, "model.settings.tie_word_embeddings=true", *overrides]).cells[0]
    return measure_metrics(config, str(folder), lambda *_, **__: None)


def values(results: ProbeResults, state: str) -> dict[str, float]:
    return {one.metric: one.value for one in results.measurements if one.state == state}


def test_a_wrong_merge_has_no_row(tmp_path: Path) -> None:
    """Its error is recorded, and why; nothing is counted or timed of it."""
    results = measured(tmp_path, "method=peft_lora", "method.config.target_modules=[q_proj,embed_tokens]")
    assert results.states == [UNMERGED]
    assert list(values(results, MERGED)) == ["merge_error"]
    (why,) = [one.reason for one in results.missing if one.state == MERGED]
    assert "the merge changed model.embed_tokens.weight" in why


@pytest.mark.parametrize(
    ("override", "more"),
    [("method.config.r=2", 0), ("method.config.modules_to_save=[lm_head]", EMBEDDINGS)],
)
def test_a_merged_model_is_counted(override: str, more: int, tmp_path: Path) -> None:
    """Its parameters are its own, a shared one once: a head of its own stays in memory, merged LoRA does not."""
    results = measured(tmp_path, "method=peft_lora", override)
    assert results.states == [UNMERGED, MERGED]
    merged, unmerged = values(results, MERGED), values(results, UNMERGED)
    assert (merged["total_parameters"], merged["resident_parameters"]) == (BASE + more, more)
    assert unmerged["total_parameters"] == BASE + unmerged["trained_parameters"]
    assert not (tmp_path / MERGED).exists()


def test_parameters_that_are_the_bases_own_are_counted_once(tmp_path: Path) -> None:
    """Biases of the base that train beside LoRA are no further parameters."""
    overrides = ("method=peft_lora", "method.config.bias=all", "model.settings.attention_bias=true")
    found = values(measured(tmp_path, *overrides), UNMERGED)
    biases = 2 * (32 + 2 * 16 + 32)  # of q, k, v and o in two layers
    lora = 2 * 8 * ((32 + 32) + (32 + 16))
    assert found["trained_parameters"] == lora + biases
    assert found["total_parameters"] == BASE + biases + lora


def test_a_lossy_merge_says_that_no_file_holds_it(tmp_path: Path) -> None:
    """Weights merged into 4 bits have no form that a base is saved in; parameters are those that they stand for."""
    results = measured(tmp_path, "method=qlora", "method.rank=2")
    assert any("the merge is lossy" in one and "no file of a base model holds it" in one for one in results.warnings)
    assert values(results, MERGED)["total_parameters"] == BASE
