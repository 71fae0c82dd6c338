"""Estimates vs. measurements: the same bytes and counts, without weights, data or a device."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils

from bench.commands import estimate
from bench.commands.estimate import against_command, estimate_command
from bench.config.compose import compose_run
from bench.errors import UsageError
from bench.estimate.estimate import RESERVE_BYTES, Comparison, Estimate, Request
from bench.instruments.fake import fake_tensors
from bench.instruments.memory import BLOCK_BYTES, Category, MemoryPeak, StorageTracker
from bench.instruments.steps import Decode, Prefill
from bench.instruments.structure import StructureCounter
from bench.probes.structure import MEANINGS
from bench.records.record import CONTROL, UNMERGED, Measurement, Status
from bench.records.store import Store
from bench.runner.process import Outcome
from bench.worker.capacity import largest
from bench.worker.check import check_elsewhere
from bench.worker.estimate import EstimateTrainer, estimate_cell
from bench.workload.models import load_model, meta_model
from bench.workload.plan import read_plan
from bench.workload.resolve import resolve
from bench.workload.training import Trainer, attach_to_train
from methods import Unsupported
from tests import command
from tests.fakes import make_cell, make_record
from tests.families import FAMILIES, TYPES, WITHOUT_CACHE

ROOT = Path(__file__).parent.parent
OWN = ("full", "prompt_tuning", "p_tuning", "p_tuning_v2", "prefix_tuning", "adapter", "lora", "adalora", "qlora")
OTHERS = ("peft_lora", "peft_prefix_tuning", "peft_vera")
SHORT = ["workload.train_batch_size=2", "workload.train_length=48", "workload.prompt_lengths=[8]"]
PARTS = ("weights", "gradients", "optimizer_state", "other", "method_state")


def configure(method: str, *overrides: str, family: str = "llama", layers: int = 2) -> dict[str, Any]:
    """A cell of a narrow model of the family."""
    config = compose_run([f"method={method}", *SHORT, *overrides]).cells[0]
    depth = {"n_layer" if "n_layer" in FAMILIES[family] else "num_hidden_layers": layers}
    model = {"architecture": TYPES[family], "settings": {**FAMILIES[family], **depth}}
    return {**config, "model": {**config["model"], **model}}


def estimated(config: dict[str, Any], **asked: Any) -> Estimate:
    """What a child estimates of the cell."""
    found = estimate_cell(config, Request(**{"control": False, "serving": False, **asked}), str)
    results = found.results
    measured, missing = tuple(results.measurements), tuple(results.missing)
    return Estimate(make_cell(), Status.OK, None, measured, missing, tuple(found.fits))


def estimated_peak(found: Estimate) -> MemoryPeak:
    values = {measurement.metric: int(measurement.value) for measurement in found.measurements}
    peak = MemoryPeak(*(values[f"train_{part}_bytes"] for part in PARTS), values["train_rounded_bytes"])
    assert peak.total_bytes == values["train_peak_bytes"]
    return peak


def measured(config: dict[str, Any]) -> tuple[MemoryPeak, int]:
    """Peak and FLOPs of a real step."""
    plan = read_plan(config)
    model = load_model(plan.model, "cpu", 0)
    attached = attach_to_train(plan, plan.method, model)
    attached.model.train()
    work = plan.workload
    ids = torch.randint(3, 60, (work.train_steps * work.train_batch_size, work.train_length))
    trainer = Trainer(plan, attached, ids)
    flops = trainer.structure().flops
    return trainer.tracked_step(), flops


def check_equal(config: dict[str, Any]) -> None:
    peak, flops = measured(config)
    found = estimated(config)
    assert estimated_peak(found) == peak
    assert estimated_peak(found).rounded_bytes == peak.rounded_bytes
    assert found.value("train_flops", UNMERGED) == flops


@pytest.mark.parametrize(
    ("method", "dtype", "attention"),
    [
        pytest.param(method, dtype, attention, marks=[] if plain or method == "lora" else [pytest.mark.longer])
        for method in [*OWN, *OTHERS]
        for dtype, attention, plain in (
            ("float32", "sdpa", True),
            ("bfloat16", "sdpa", False),
            ("float32", "eager", False),
        )
    ],
)
def test_an_estimate_is_what_is_measured(method: str, dtype: str, attention: str) -> None:
    """Peak, each category at it, its blocks and the FLOPs of a step: to the byte, for every method of ours."""
    check_equal(configure(method, f"model.dtype={dtype}", f"model.attention={attention}"))


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("llama", *WITHOUT_CACHE)])
@pytest.mark.parametrize("method", ["full", "prefix_tuning", "qlora"])
def test_on_every_family(method: str, family: str) -> None:
    """Tied weights, fused projections, dropout, normed queries: the estimate has whatever the model has."""
    check_equal(configure(method, family=family))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_mixture_of_experts(dtype: str) -> None:
    """Peak and FLOPs of grouped experts are estimated as measured, in a dtype that torch's shapes refuse too."""
    config = configure("peft_lora", f"model.dtype={dtype}", "method.config.target_modules=[q_proj,v_proj]")
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    settings = {**config["model"]["settings"], **experts}
    check_equal({**config, "model": {**config["model"], "architecture": "qwen3_moe", "settings": settings}})


@pytest.mark.parametrize("method", ["lora", "adapter", "p_tuning_v2", "peft_lora"])
def test_activations_that_are_computed_again(method: str) -> None:
    """The trainer does gradient checkpointing, and so does the estimate."""
    kept = configure(method)
    again = configure(method, "workload.gradient_checkpointing=on")
    check_equal(again)
    assert estimated_peak(estimated(again)).other_bytes < estimated_peak(estimated(kept)).other_bytes


def test_activations_that_a_card_computes_again() -> None:
    """Its kernels are taken in the second run of a layer as in the first: the two must keep the same tensors."""
    peaks = [
        estimated_peak(estimated(configure("lora", "device=cuda", f"workload.gradient_checkpointing={switch}")))
        for switch in ("off", "on")
    ]
    assert peaks[1].other_bytes < peaks[0].other_bytes


@pytest.mark.parametrize("method", [name for name in OWN if name != "adalora"])
def test_what_it_costs_at_inference(method: str) -> None:
    """Structure and cache of the base and of the method that serves are those of real models; so is the checkpoint."""
    config = configure(method)
    found = estimated(config, control=True, serving=True)
    plan = read_plan(config)
    model = load_model(plan.model, "cpu", 0)
    prompt = torch.ones(1, 8, dtype=torch.int64)
    for state in (CONTROL, UNMERGED):
        if state == UNMERGED:
            attached = plan.method.attach(model)
            attached.prepare_for_inference()
            model = attached.model.eval()
        with torch.no_grad():
            for phase, kind in (("prefill", Prefill), ("decode", Decode)):
                steps = kind(model, prompt)
                with StructureCounter() as counter:
                    steps.run(1)
                for name in MEANINGS:
                    expected = found.value(f"{phase}_{name}", state, (1, 8))
                    assert expected == getattr(counter.result(), name), (state, phase, name)
    assert found.value("cache_length", UNMERGED, (1, 8)) == 8 + plan.method.virtual_tokens
    count = plan.method.count(load_model(plan.model, "cpu", 0))
    assert found.value("shipped_parameters", UNMERGED) == count.shipped


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", OWN)
def test_the_size_of_a_checkpoint_is_that_of_its_files(method: str, dtype: str, tmp_path: Path) -> None:
    """From names, shapes and dtypes alone, header included, in our format and in peft's."""
    plan = read_plan(configure(method, f"model.dtype={dtype}"))
    attached = plan.method.attach(load_model(plan.model, "cpu", 0))
    attached.prepare_for_inference()
    assert attached.checkpoint_bytes() == sum(file.stat().st_size for file in attached.save(tmp_path).iterdir())


def test_ranks_that_nobody_knows_are_even() -> None:
    """Which triplets AdaLoRA keeps depends on the data: their number does not, and is spread evenly."""
    plan = read_plan(configure("adalora"))
    found = estimated(configure("adalora"), serving=True)
    model = load_model(plan.model, "cpu", 0)
    assert found.value("shipped_parameters", UNMERGED) == plan.method.count(model).shipped
    lora = estimated(configure("lora"), serving=True)
    for metric in ("prefill_operations", "decode_flops"):
        assert found.value(metric, UNMERGED, (1, 8)) == lora.value(metric, UNMERGED, (1, 8))


def test_what_everybody_knows_of_these_methods() -> None:
    """Full fine-tuning needs most; 4-bit weights are smaller; LoRA has next to no optimiser state."""
    full, lora, qlora = (estimated_peak(estimated(configure(name))) for name in ("full", "lora", "qlora"))
    assert full.total_bytes > lora.total_bytes > qlora.total_bytes
    assert qlora.weights_bytes < lora.weights_bytes
    assert lora.optimizer_state_bytes < full.optimizer_state_bytes / 10


def test_what_reads_data_is_refused() -> None:
    """A method that chooses weights by their values is a row with the reason."""
    config = {**configure("peft_lora")}
    config["method"] = {**config["method"], "type": "SHIRA", "config": {"r": 4}}
    with pytest.raises(Unsupported, match="DynamicOutputShape"):
        estimated(config)


def test_nothing_is_left_behind() -> None:
    """After an estimate torch, transformers and bitsandbytes are as they were: QLoRA runs in this process."""
    import bitsandbytes

    before = (masking_utils.is_tracing, torch.utils.swap_tensors, dict(bitsandbytes.functional.name2qmap))
    estimated(configure("qlora"))
    after = (masking_utils.is_tracing, torch.utils.swap_tensors, dict(bitsandbytes.functional.name2qmap))
    assert after == before
    assert measured(configure("qlora"))[0].total_bytes > 0


# --- a device that is not there


def test_a_card_need_not_be_there() -> None:
    """A cell with device=cuda is estimated on any machine, and still skipped where it would run."""
    config = configure("lora", "device=cuda")
    (found,) = check_elsewhere([config], str)
    assert not isinstance(found, str) and found.skip is None
    assert estimated_peak(estimated(config)).total_bytes > 0
    if not torch.cuda.is_available():
        assert "sees no CUDA device" in str(resolve(config).skip)


def test_adamw_has_temporaries_of_all_weights_on_cuda() -> None:
    """There torch updates all parameters at once, which full fine-tuning pays for with one more copy of them."""
    on_cpu, on_cuda = (estimated_peak(estimated(configure("full", f"device={name}"))) for name in ("cpu", "cuda"))
    assert on_cuda.total_bytes >= on_cpu.gradients_bytes * 5
    assert on_cuda.total_bytes > on_cpu.total_bytes


class Names(TorchDispatchMode):
    """Which operations ran."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


def kernel_of(dtype: torch.dtype, heads: int, head_size: int, mask: bool) -> str:
    with fake_tensors(cuda=True):
        query = torch.zeros(2, 4, 10, head_size, dtype=dtype, requires_grad=True)
        key = torch.zeros(2, heads, 10, head_size, dtype=dtype)
        shown = torch.ones(1, 1, 10, 10, dtype=torch.bool) if mask else None
        with Names() as names:
            out = functional.scaled_dot_product_attention(query, key, key, shown, enable_gqa=heads < 4)
            assert out.shape == query.shape
            out.sum().backward()
    known = {"_scaled_dot_product_flash_attention": "flash", "_scaled_dot_product_efficient_attention": "efficient"}
    return next((known[name] for name in names.seen if name in known), "math")


@pytest.mark.parametrize(
    ("dtype", "heads", "head_size", "mask", "kernel"),
    [
        (torch.bfloat16, 4, 64, False, "flash"),
        (torch.bfloat16, 2, 64, False, "flash"),
        (torch.bfloat16, 4, 36, False, "flash"),  # padded
        (torch.bfloat16, 4, 64, True, "efficient"),
        (torch.float32, 4, 64, False, "efficient"),
        (torch.float32, 2, 64, False, "math"),  # memory-efficient attention knows no groups
        (torch.float32, 4, 33, False, "math"),  # nor rows that are not aligned
        (torch.bfloat16, 4, 264, False, "efficient"),
    ],
)
def test_attention_takes_the_kernel_that_cuda_would(
    dtype: torch.dtype, heads: int, head_size: int, mask: bool, kernel: str
) -> None:
    """torch's own rules: flash for half precision without a mask, memory-efficient for what else it can do."""
    assert kernel_of(dtype, heads, head_size, mask) == kernel


def test_dropout_keeps_a_byte_an_element_on_cuda() -> None:
    """On the processor it keeps four, in float32."""

    def kept(cuda: bool) -> int:
        with fake_tensors(cuda):
            x = torch.zeros(1000, requires_grad=True)
            tracker = StorageTracker()
            tracker.register([x], Category.WEIGHTS)
            with tracker:
                out = functional.dropout(x, 0.1)
        assert out.shape == x.shape
        return tracker.peak().other_bytes

    assert kept(cuda=True) == 4000 + 1000
    assert kept(cuda=False) == 4000 + 4000


# --- the largest that fits


@given(
    st.integers(0, 200),
    st.integers(0, 20),
    st.integers(0, 2),
    st.integers(1, 9),
    st.integers(0, 5000),
    st.integers(1, 2),
    st.none() | st.integers(2, 300),
)
def test_the_largest_is_the_largest(
    base: int, rise: int, bend: int, step: int, limit: int, least: int, most: int | None
) -> None:
    """Whatever the shape of the peak, the answer fits, the next does not, and both were tried."""
    tried: set[int] = set()

    def peak(n: int) -> int:
        tried.add(n)
        return base + n + rise * (-(-n // step) * step) + bend * n * n

    answer = largest(peak, limit, least, most)
    end = limit + 2 if most is None else most
    fitting = [n for n in range(least, end + 1) if peak(n) <= limit]
    tried.clear()
    assert answer == (fitting[-1] if fitting else 0)
    assert largest(peak, limit, least, most) == answer
    assert not fitting or (answer in tried and (answer == most or answer + 1 in tried))


@pytest.mark.parametrize("method", ["lora", "prefix_tuning"])
def test_the_largest_batch_and_length_by_brute_force(method: str) -> None:
    """What is said to fit fits, and one more does not, each estimated as a cell of its own."""
    cards = (RESERVE_BYTES + 700_000, RESERVE_BYTES + 10)
    fit, small = estimated(configure(method), cards=cards, largest=True).fits
    assert (small.fits, small.largest_batch, small.longest) == (False, 0, 0)

    def fits(batch: int, length: int) -> bool:
        config = configure(method, f"workload.train_batch_size={batch}", f"workload.train_length={length}")
        return estimated_peak(estimated(config)).rounded_bytes <= cards[0] - RESERVE_BYTES

    assert fit.largest_batch is not None and fit.longest is not None
    assert [fits(fit.largest_batch + more, 48) for more in (0, 1)] == [True, False]
    room = 128 - read_plan(configure(method)).method.virtual_tokens
    assert fits(1, fit.longest) and (fit.longest == room or not fits(1, fit.longest + 1))
    assert fit.fits == (fit.largest_batch >= 2)


def test_a_second_step_can_be_asked_for_again() -> None:
    """Another batch in between leaves the answer as it was, schedules of the method included."""
    plan = read_plan(configure("adalora"))
    with fake_tensors(cuda=False):
        attached = plan.method.attach(meta_model(plan.model, "cpu"))
        trainer = EstimateTrainer(plan, attached)
        trainer.warm_up()
        first = trainer.tracked_step().rounded_bytes
        assert trainer.needed_bytes(3, 40) != first
        assert trainer.needed_bytes(2, 48) == first


def test_blocks_are_multiples_of_512_bytes() -> None:
    """Each storage is rounded up by itself; an empty one takes none."""
    with StorageTracker() as tracker:
        held = [torch.zeros(size, dtype=torch.uint8) for size in (0, 1, 512, 513)]
    assert tracker.peak().other_bytes == sum(map(Tensor.numel, held)) == 1026
    assert tracker.peak().rounded_bytes == 4 * BLOCK_BYTES


# --- the verb


class HereRunner:
    """Runs what a child would in this process."""

    fails: frozenset[str] = frozenset()

    def __init__(self, _beat: Callable[[], object]) -> None: ...

    def call(
        self, function: str, *arguments: Any, limit_seconds: float, listen: Callable[[str], object] = str
    ) -> Outcome:
        module, _, name = function.partition(":")
        if isinstance(arguments[0], dict) and arguments[0]["method"]["_target_"].rpartition(".")[2] in self.fails:
            return Outcome(Status.TIMEOUT, reason="took longer than 1 s; raise time_limit")
        try:
            return Outcome(Status.OK, getattr(importlib.import_module(module), name)(*arguments, listen))
        except Unsupported as error:
            return Outcome(Status.SKIPPED, reason=str(error))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> type[HereRunner]:
    monkeypatch.setattr(estimate, "ProcessRunner", HereRunner)
    monkeypatch.setattr(HereRunner, "fails", frozenset())
    monkeypatch.setenv("COLUMNS", "80")
    return HereRunner


NARROW = ["model.settings.num_hidden_layers=1", *SHORT]


def test_the_tables_fit_80_columns(here: type[HereRunner], capsys: pytest.CaptureFixture[str]) -> None:
    """Training, cards and inference, with the untouched base once, and a row's reason where there is no row."""
    status = estimate_command(
        ["method=lora,prefix_tuning,qlora", *NARROW], "24,0.5", largest=True, format="text", output=None
    )
    text = capsys.readouterr().out
    assert status == 0
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("control") == 2  # prefill and decode
    for words in ("a training step of 2 x 48 tokens", "What fits which card", "no / no", "needs: the peak in blocks"):
        assert words in text
    for name in ("lora r=8", "prefix_tuning tokens=20", "qlora r=8"):
        assert " ".join(text.split()).count(name) >= 4


def test_rows_that_would_be_called_the_same_say_what_differs(
    here: type[HereRunner], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two ranks are two names; two sets of targets are told apart by their values."""
    estimate_command(["method=lora", "method.alpha=8,16", *NARROW], "24", False, "md", None)
    text = capsys.readouterr().out
    assert "| lora r=8 alpha=8.0  |" in text and "| lora r=8 alpha=16.0 |" in text


def test_a_child_that_fails_is_a_row(here: type[HereRunner], capsys: pytest.CaptureFixture[str]) -> None:
    """The others are estimated all the same, and the status says that one was not."""
    here.fails = frozenset({"Lora"})
    assert estimate_command(["method=lora,adapter", *NARROW], "24", False, "text", None) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "lora r=8: timeout: took longer than 1 s" in text
    assert "adapter b=16" in text and "control" in text
    with pytest.raises(UsageError, match="took longer"):
        estimate_command(["method=lora", *NARROW], "24", False, "text", None)


def test_files_hold_base_units(here: type[HereRunner], tmp_path: Path) -> None:
    """CSV and JSON have one row a metric, the same in both, and cards among them."""
    overrides = ["method=lora", *NARROW]
    for format in ("csv", "json", "md"):
        assert estimate_command(overrides, "24", False, format, tmp_path / f"out.{format}") == 0
    rows = json.loads((tmp_path / "out.json").read_text())
    table = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [row["metric"] for row in rows] == [row["metric"] for row in table]
    assert {row["metric"] for row in rows} >= {"train_peak_bytes", "checkpoint_bytes", "decode_critical_path", "fits"}
    (peak,) = (row for row in rows if row["metric"] == "train_peak_bytes")
    assert isinstance(peak["value"], int) and peak["state"] == UNMERGED
    assert "| lora r=8 |" in (tmp_path / "out.md").read_text()


def recorded(folder: Path, factor: float) -> Path:
    """A record whose peak is so many times what it would be."""
    (item,) = check_elsewhere([compose_run(["method=lora", *NARROW]).cells[0]], str)
    assert not isinstance(item, str)
    peak = estimated_peak(estimated(dict(item.cell.config)))
    record = make_record(make_cell())
    measurements = (
        Measurement("train_peak_bytes", round(peak.total_bytes * factor), UNMERGED),
        Measurement("train_weights_bytes", peak.weights_bytes, UNMERGED),
        Measurement("train_cuda_allocated_bytes", peak.rounded_bytes, UNMERGED),
    )
    store = Store(folder)
    store.open()
    store.write(dataclasses.replace(record, cell=item.cell, cell_id=item.cell.id, measurements=measurements))
    return folder


@pytest.mark.parametrize(("factor", "status"), [(1.0, 0), (1.009, 0), (1.02, 1), (0.98, 1)])
def test_an_estimate_vs_a_measurement(
    factor: float, status: int, here: type[HereRunner], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Side by side with the difference; status 1 where the peak is off by more than one in a hundred."""
    folder = recorded(tmp_path / "records", factor)
    assert against_command([folder], [], "text", None) == status
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert f"{1 / factor - 1:+.2%}" in text and "cuda allocated" in text
    assert against_command([folder], [], "json", None) == status
    rows = json.loads(capsys.readouterr().out)
    assert [row["metric"] for row in rows][:2] == ["train_peak_bytes", "train_weights_bytes"]


def test_a_difference_of_nothing_is_none() -> None:
    """No gradients estimated and none measured agree; some instead of none are infinitely many too much."""
    row = Comparison("id", "lora", 8, "tiny", "train_peak_bytes", 0, 0)
    assert row.difference == 0 and not row.beyond
    assert dataclasses.replace(row, estimated=1).beyond


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["method=lorra"], "unknown method"),
        (["--cards", "24,x"], "--cards 24,x: give the GiB"),
        (["--cards", "0"], "--cards 0: give the GiB"),
        (["--format", "yaml"], "invalid --format 'yaml': choose from text, md, csv, json"),
        (["--output", "out.md"], "--output needs another --format"),
        (["--against", "nowhere"], "nowhere does not exist"),
        (["--against", "results/reference/default", "method=lora"], "leave out method=lora"),
        (["method=lora", "method.rank=100000"], "rank 100000 is larger"),
    ],
)
def test_bad_input_is_one_line_with_status_2(arguments: list[str], says: str) -> None:
    """Nothing is estimated and there is no traceback."""
    done = command.here("estimate", *arguments)
    command.refused(done, says)
    assert done.stdout == ""


@pytest.mark.slow
def test_the_committed_records_are_estimated_to_the_byte() -> None:
    """The verb as it is typed, children and all, over the reference study: every method, each category.

    The record of AdaLoRA is from before what a method keeps between steps was counted, and lacks its importance scores.
    """
    done = command.really("estimate", "--against", "results/reference/default", "--format", "json")
    assert done.status == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) >= 5 * len(OWN)
    apart = {row["method"]: row["estimated"] - row["measured"] for row in rows if row["estimated"] != row["measured"]}
    assert set(apart) == {"adalora"}
    assert 0 < apart["adalora"] < 0.01 * min(row["measured"] for row in rows if row["metric"] == "train_peak_bytes")


def test_the_parent_loads_no_torch() -> None:
    """Composing needs Hydra; torch is the children's."""
    code = "import sys, bench.commands.estimate; print(*({'torch', 'transformers', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
