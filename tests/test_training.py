"""The training budget: phases of a step, and activations that are computed again."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.config.compose import compose_run
from bench.instruments.allocator import AllocatorPeak, reconcile
from bench.instruments.memory import (
    BLOCK_BYTES,
    Category,
    MemoryPeak,
    StorageTracker,
    storages,
    training_step_peak,
)
from bench.worker.probes import measure_metrics
from bench.workload.plan import Plan, read_plan
from bench.workload.training import Trainer, attach_to_train, weight_tensors
from methods import Method, Unsupported
from methods.lora import Lora
from methods.peft import Peft
from methods.prefix_tuning import PrefixTuning
from tests.families import build
from tests.test_conformance import CASES, tokens

PEFT: dict[str, dict[str, Any]] = {
    "ADALORA": {"init_r": 6, "target_r": 4, "tinit": 1, "tfinal": 1},
    "LORA": {"use_dora": True},
    "IA3": {},
    "VERA": {},
    "LOHA": {},
    "OFT": {},
    "HRA": {},
    "RANDLORA": {},
    "PREFIX_TUNING": {"num_virtual_tokens": 3},
}


def plan_of(*overrides: str) -> Plan:
    return read_plan(compose_run(["method=lora", "workload.train_batch_size=2", *overrides]).cells[0])


def trainer(*overrides: str) -> Trainer:
    torch.manual_seed(0)
    plan = plan_of(*overrides)
    attached = attach_to_train(plan, Lora(rank=4), build("llama").train())
    return Trainer(plan, attached, tokens(batch=8, length=40))


@dataclass
class FakeAllocator:
    """Hands out the peaks of successive phases, and notes when it was told to begin anew."""

    log: list[str] = field(default_factory=list)
    taken: int = 0

    def reset(self) -> None:
        self.log.append("reset")

    def peak(self) -> AllocatorPeak:
        self.log.append("peak")
        self.taken += 1
        return AllocatorPeak(50 * self.taken, 100 * self.taken, 1000 * self.taken)


def test_each_phase_has_a_peak_of_its_own() -> None:
    """The allocator's peaks are reset before each of forward, backward and optimiser, in one step after the first."""
    allocator, one = FakeAllocator(), trainer()
    peaks = one.phase_peaks(allocator)
    assert {phase: peak.allocated_bytes for phase, peak in peaks.items()} == {
        "forward": 100,
        "backward": 200,
        "optimizer": 300,
    }
    assert allocator.log == ["reset", "peak", "reset", "peak", "reset", "peak", "reset"]
    assert len(one.losses) == 2


def test_an_allocators_peak_is_taken_apart() -> None:
    """Exact tensors, what was asked for beside them, and the blocks' own; the parts add up to the whole."""
    with StorageTracker() as tracker:
        small = torch.zeros(1)  # 4 B, a block of 512
        large = torch.zeros(300)  # 1200 B, three blocks
    exact = tracker.peak()
    del small, large
    assert (exact.total_bytes, exact.rounded_bytes) == (1204, 4 * BLOCK_BYTES)
    parts = reconcile(exact, AllocatorPeak(requested_bytes=3204, allocated_bytes=5000, reserved_bytes=1 << 20))
    assert (parts.tensors_bytes, parts.workspace_bytes, parts.rounding_bytes) == (1204, 2000, 1796)
    assert sum(vars(parts).values()) == 5000


def test_rounding_follows_a_storage_that_grows() -> None:
    """Whole blocks are of its size at the peak."""
    with StorageTracker() as tracker:
        grown = torch.zeros(1)
        grown.resize_(300)
    assert tracker.peak().rounded_bytes == 3 * BLOCK_BYTES


def test_computing_activations_again_saves_them() -> None:
    """The same losses with fewer activations at the peak; everything else is as large."""
    plain, again = (trainer(f"workload.gradient_checkpointing={switch}") for switch in ("off", "on"))
    peaks: list[MemoryPeak] = [plain.tracked_step(), again.tracked_step()]
    assert peaks[1].other_bytes < 0.8 * peaks[0].other_bytes
    for category in Category:
        if category is not Category.OTHER:
            name = f"{category}_bytes"
            assert getattr(peaks[0], name) == getattr(peaks[1], name)
    assert again.losses == pytest.approx(plain.losses, rel=1e-5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "method", [PrefixTuning(), Peft(type="PREFIX_TUNING", config={"num_virtual_tokens": 4})], ids=["ours", "peft"]
)
def test_a_method_that_can_not_recompute_finds_out_as_it_attaches(method: Method) -> None:
    """Recomputation is on before a method is attached: one that loses its cache then says so, and trains nothing."""
    with pytest.raises(Unsupported, match="gradient checkpointing"):
        attach_to_train(plan_of("workload.gradient_checkpointing=on"), method, build("llama"))
    attach_to_train(plan_of(), method, build("llama"))


ALIKE = ("peft-IA3", "peft-VERA", "peft-LOHA", "peft-OFT", "peft-HRA", "peft-RANDLORA")
"""Types of peft that keep nothing."""
KEPT: dict[str, Method] = {
    **CASES,
    **{f"peft-{kind}": Peft(type=kind, config=settings, total_steps=9) for kind, settings in PEFT.items()},
}


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.longer] if c in ALIKE else []) for c in KEPT])
def test_every_tensor_that_lives_between_steps_is_in_a_category(case: str, request: pytest.FixtureRequest) -> None:
    """Of all tensors in Python after two steps, each that was not there before is known to the count of memory."""
    stepped(KEPT[case])  # makes what a library keeps once a process
    gc.collect()
    gc.freeze()  # all that there is, which the collector then knows no more
    request.addfinalizer(gc.unfreeze)
    one = stepped(KEPT[case])
    attached = one.attached
    gc.collect()
    known = {
        id(storage)
        for storage in storages(
            [*weight_tensors(attached.model), *one.parameters, *attached.training_state(), *one.batches]
            + [leaf for state in one.optimizer.state.values() for leaf in state.values()]
        )
    }
    unknown = [tensor for tensor in live_tensors() if id(tensor.untyped_storage()) not in known]
    assert [(tuple(tensor.shape), tensor.dtype) for tensor in unknown] == []


def stepped(method: Method) -> Trainer:
    """A training between two steps."""
    torch.manual_seed(0)
    one = Trainer(plan_of(), method.attach(build("llama").train()), tokens(batch=8, length=12))
    one.step()
    one.step()
    return one


def live_tensors() -> list[Tensor]:
    """All tensors that the collector knows."""
    return [found for found in gc.get_objects() if issubclass(type(found), Tensor)]


@pytest.mark.parametrize("method", [CASES["adalora"], Peft(type="ADALORA", config=PEFT["ADALORA"], total_steps=9)])
def test_importance_scores_are_the_methods_state(method: Method) -> None:
    """AdaLoRA keeps two numbers (peft's three) of each of its own, in a category that adds up with the others."""
    torch.manual_seed(0)
    one = Trainer(plan_of(), method.attach(build("llama").train()), tokens(batch=8, length=12))
    peak = one.tracked_step()
    trained = 4 * sum(parameter.numel() for parameter in one.parameters)
    lambdas = sum(parameter.numel() for name, parameter in one.attached.trained().items() if name.endswith("lam"))
    kept = 2 * trained + lambdas if method.name == "adalora" else 3 * trained
    assert peak.method_state_bytes == kept
    assert peak.total_bytes == sum(getattr(peak, f"{category}_bytes") for category in Category)


def test_checkpointing_keeps_states_of_random_numbers() -> None:
    """One for each layer, in the memory of the host; a training that is elsewhere has none of them in its memory."""
    one = trainer("workload.gradient_checkpointing=true")
    one.warm_up()
    weights = list(weight_tensors(one.attached.model))
    with_them, without = (training_step_peak(one.step, weights, one.optimizer, host=host) for host in (True, False))
    assert with_them.other_bytes - without.other_bytes == 3 * torch.get_rng_state().nbytes


@pytest.mark.parametrize(
    ("method", "rate", "idle"), [("lora", 1e-30, True), ("lora", 1e-3, False), ("full", 1e-30, True)]
)
def test_training_that_changes_no_output_is_told(method: str, rate: float, idle: bool, tmp_path: Path) -> None:
    """A trained method whose outputs are the untouched base's, bit for bit, has a warning in its record."""
    small = ["workload.train_steps=3", "workload.train_length=16", "workload.prompt_lengths=[8]"]
    small += ["workload.held_out_sequences=1", "model.settings.num_hidden_layers=1", "precision=gate"]
    overrides = [f"method={method}", f"method.learning_rate={rate}", "model=tiny", *small]
    results = measure_metrics(compose_run(overrides).cells[0], str(tmp_path), lambda *_, **__: None)
    assert ("after training, its outputs are the untouched base's, bit for bit" in results.warnings) is idle
