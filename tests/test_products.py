"""The registry of products against arithmetic by hand, torch's own counters, and the names of torch's operators."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from packaging.version import parse
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from bench.instruments.fake import fake_tensors
from bench.instruments.products import FUSED_ATTENTION, PRODUCTS, formula_of, is_free_of_products
from bench.instruments.structure import Structure, StructureCounter
from bench.probes import structure as probe

SIZES = {
    "vocab_size": 4096,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ANGLES = int(parse(transformers.__version__) < parse("5.24"))
"""Before, the angles of rotary embeddings were one product more, of 16 positions and 8 frequencies in these models."""
MIXTURES: dict[str, tuple[dict[str, Any], int]] = {
    "qwen3_moe": ({"moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 2}, 3_997_696),
    "mixtral": ({"num_local_experts": 4, "num_experts_per_tok": 2}, 7_110_656),
}
"""Settings, and FLOPs of a prefill of 16 tokens by hand."""
PRODUCT_WORDS = re.compile(
    "mm$|mm_|matmul|mv$|mv_|dot|conv_|convol|attention|rnn|lstm|gru|linear_?$|linear_b|trilinear|cholesky|solve|fft|"
    "cdist|pdist|einsum|linalg_(?!cross|vector|_powsum|check)|qr$|svd|(?<!w)eig|multi_head|addr|_lu_"
)
"""What torch calls operators that compute products, or solve or decompose by them."""


def model(kind: str, settings: dict[str, Any], attention: str = "sdpa") -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, **settings})
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def count(function: Callable[[], object]) -> Structure:
    with StructureCounter() as counter:
        function()
    return counter.result()


def prefill(of: PreTrainedModel) -> Callable[[], object]:
    return lambda: of(input_ids=torch.arange(3, 19)[None], use_cache=True, logits_to_keep=1)


@pytest.mark.parametrize("kind", MIXTURES)
def test_experts_cost_the_same_however_they_are_run(kind: str) -> None:
    """FLOPs and the longest chain of products are those by hand, in prefill and training; a call is a product."""
    settings, by_hand = MIXTURES[kind]
    mixture = model(kind, settings)
    ids = torch.arange(3, 19)[None]
    training = set()

    def backward() -> None:
        mixture(input_ids=ids, labels=ids, use_cache=False).loss.backward()

    for implementation in ("eager", "grouped_mm"):
        mixture.set_experts_implementation(implementation)
        with torch.no_grad():
            counted = count(prefill(mixture))
        assert (counted.flops, counted.critical_path_matmuls) == (by_hand + 256 * ANGLES, 25)
        training.add(count(backward).flops)
    assert counted.matmuls == 33 + ANGLES  # of each layer q, k, v, attention, o, router, and two for all experts
    assert len(training) == 1


@pytest.mark.parametrize("kind", MIXTURES)
def test_experts_need_no_data(kind: str) -> None:
    """Fake tensors of any dtype give the products and the FLOPs of real ones."""
    settings, by_hand = MIXTURES[kind]
    with fake_tensors(cuda=False):
        counted = count(prefill(model(kind, settings)))
    assert (counted.matmuls, counted.critical_path_matmuls, counted.flops) == (33 + ANGLES, 25, by_hand + 256 * ANGLES)


def test_grouped_products_by_their_shapes() -> None:
    """Rows, columns or both are split over the groups; three dimensions against three are a batch."""
    formula = PRODUCTS["aten::_grouped_mm"]
    groups, m, k, n = 3, 8, 16, 32
    flat = 2 * m * k * n
    shapes: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {
        ((m, k), (groups, k, n)): flat,
        ((groups, m, k), (k, n)): flat,
        ((m, k), (k, n)): flat,
        ((groups, m, k), (groups, k, n)): groups * flat,
    }
    for (a, b), expected in shapes.items():
        assert formula(None, torch.empty(a, device="meta"), torch.empty(b, device="meta")) == expected


@pytest.mark.parametrize("name", FUSED_ATTENTION)
def test_every_fused_attention_has_one_formula(name: str) -> None:
    """Grouped heads count as repeated ones, and the backward pass twice the forward pass, without a card."""
    query, key, value = (torch.empty(shape, device="meta") for shape in ((2, 4, 3, 8), (2, 2, 5, 8), (2, 2, 5, 6)))
    flops = 2 * (2 * 4) * 3 * 5 * (8 + 6)
    assert PRODUCTS[f"aten::{name}"](None, query, key, value) == flops
    assert PRODUCTS[f"aten::{name}_backward"](None, query, query, key, value, *[None] * 12) == 2 * flops
    packet = getattr(torch.ops.aten, f"{name}_backward")
    assert [argument.name for argument in packet.default._schema.arguments[1:4]] == ["query", "key", "value"]


CONVOLUTIONS: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "conv1d": (nn.Conv1d(6, 4, 3), (2, 6, 10), 2 * 2 * 8 * (4 * 6 * 3)),
    "depthwise": (nn.Conv1d(6, 6, 4, groups=6, padding=3), (2, 6, 10), 2 * 2 * 13 * (6 * 4)),
    "conv2d": (nn.Conv2d(6, 4, 3, stride=2), (2, 6, 9, 9), 2 * 2 * 16 * (4 * 6 * 9)),
    "transposed": (nn.ConvTranspose1d(6, 4, 3, stride=2), (2, 6, 5), 2 * 2 * 5 * (6 * 4 * 3)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_is_a_product(name: str) -> None:
    """FLOPs by hand, with groups or transposed; the backward pass costs as much for each gradient that is wanted."""
    layer, shape, flops = CONVOLUTIONS[name]
    x = torch.ones(shape)
    counted = count(lambda: layer(x))
    assert (counted.matmuls, counted.critical_path_matmuls, counted.flops) == (1, 1, flops)
    assert count(lambda: layer(x).sum().backward()).flops == 2 * flops
    x.requires_grad_()
    assert count(lambda: layer(x).sum().backward()).flops == 3 * flops


def test_a_recurrent_layer_is_a_product() -> None:
    """Each position meets the weights of its input and of its state, in both directions; backward costs twice that."""
    layer = nn.LSTM(5, 6, bidirectional=True, batch_first=True)
    x = torch.ones(2, 7, 5, requires_grad=True)
    flops = 2 * (2 * 7) * 2 * (4 * 6) * (5 + 6)
    with torch.no_grad():
        assert count(lambda: layer(x)).flops == flops
    assert count(lambda: layer(x)[0].sum().backward()).flops == 3 * flops
    cudnn = PRODUCTS["aten::_cudnn_rnn"]
    assert cudnn(None, x, [*layer.parameters()], 4) == flops


X, Y, M = torch.ones(5), torch.ones(5), torch.ones(3, 5)
SQUARE = torch.eye(3)


@pytest.mark.parametrize(
    ("function", "flops"),
    [
        (lambda: torch.outer(M[:, 0], X), 30),
        (lambda: M[:, 0].outer(X), 30),
        (lambda: SQUARE.clone().addmm_(M, M.t()), 2 * 3 * 3 * 5),
        (lambda: torch.mm(M, M.t(), out=torch.empty(3, 3)), 2 * 3 * 3 * 5),
        (lambda: torch.linalg.vecdot(M, M), 30),
        (lambda: torch.linalg.vecdot(X, Y), 10),
        (lambda: torch.vdot(X, Y), 10),
        (lambda: torch.addr(M, M[:, 0], X), 30),
        (lambda: torch.addbmm(SQUARE, torch.ones(2, 3, 4), torch.ones(2, 4, 3)), 2 * 2 * 9 * 4),
        (lambda: torch.linalg.solve_triangular(SQUARE, torch.ones(3, 2), upper=True), 18),
    ],
)
def test_products_that_torch_writes_otherwise(function: Callable[[], Tensor], flops: int) -> None:
    """Products of vectors, sums of products and triangular solves are one product each, with their FLOPs."""
    counted = count(function)
    assert (counted.matmuls, counted.critical_path_matmuls, counted.flops) == (1, 1, flops)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda: functional.bilinear(M, M, torch.ones(2, 5, 5)), "aten::_trilinear"),
        (lambda: torch.fft.rfft(X), "aten::_fft_r2c"),
        (lambda: torch.cdist(M, M), "aten::_cdist_forward"),
        (lambda: torch.linalg.inv(SQUARE), "aten::linalg_inv_ex"),
        (lambda: torch.ops.tests_products.triple(M), "tests_products::triple"),
    ],
)
def test_an_unknown_operator_makes_products_missing_by_name(function: Callable[[], Tensor], name: str) -> None:
    """Products, their chain and FLOPs are missing, with the operator's name; operations are counted all the same."""
    counted = count(lambda: (function(), X + 1))
    assert (counted.matmuls, counted.critical_path_matmuls, counted.flops) == (None, None, None)
    assert counted.unknown == (name,)
    assert counted.operations >= 2
    found = list(probe._found("prefill", counted, "unmerged", 1, 16))
    missing = {one.metric: one.reason for one in found if hasattr(one, "reason")}
    assert missing.keys() == {f"prefill_{metric}" for metric in ("matmuls", "critical_path_matmuls", "flops")}
    assert all(name in reason for reason in missing.values())


@torch.library.custom_op("tests_products::triple", mutates_args=())
def triple(x: Tensor) -> Tensor:
    """Stands for a kernel of another package."""
    return 3 * x


def test_no_operator_that_is_named_after_a_product_passes_for_free() -> None:
    """Of all operators of torch, those whose names speak of products are in the table or of unknown cost."""
    wrong, seen = set(), 0
    for qualified in torch._C._dispatch_get_all_op_names():
        namespace, _, rest = qualified.partition("::")
        name, _, overload = rest.partition(".")
        if namespace != "aten" or not PRODUCT_WORDS.search(name):
            continue
        operator = getattr(getattr(torch.ops.aten, name), overload or "default")
        takes = any("Tensor" in str(argument.type) for argument in operator._schema.arguments)
        if takes and not operator.is_view:
            seen += 1
            if formula_of(operator) is None and is_free_of_products(operator):
                wrong.add(name)
    assert wrong == set()
    assert seen > 200


def torch_flops(function: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def profiled_flops(function: Callable[[], object]) -> int:
    """Of products alone: the profiler counts an addition and a multiplication of elements too."""
    with profile(with_flops=True, acc_events=True) as profiler:
        function()
    products = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::conv2d")
    return sum(event.flops for event in profiler.key_averages() if event.key in products)


class Picture(nn.Module):
    """A convolution and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W]; [B, 5]."""
        return self.head(self.convolution(x).mean((2, 3)))


@torch.no_grad()
def test_flops_are_those_of_the_profiler() -> None:
    """A dense model, a mixture and a convolution: the profiler adds up the same FLOPs of products."""
    picture, x = Picture(), torch.ones(2, 3, 8, 8)
    mixture = model("qwen3_moe", MIXTURES["qwen3_moe"][0], attention="eager")
    mixture.set_experts_implementation("eager")
    for function in (prefill(model("llama", {}, attention="eager")), prefill(mixture), lambda: picture(x)):
        assert count(function).flops == profiled_flops(function) > 0


def test_flops_are_those_of_torch_s_counter() -> None:
    """A dense model, a mixture, a state-space model and a convolution, forward and backward."""
    mixture = model("qwen3_moe", MIXTURES["qwen3_moe"][0], attention="eager")
    mixture.set_experts_implementation("eager")
    ids = torch.arange(3, 19)[None]
    state_space = model("mamba", {"num_hidden_layers": 2, "state_size": 4}, attention="eager")
    for one in (model("llama", {}, attention="eager"), mixture, state_space):

        def forward(one: PreTrainedModel = one) -> Tensor:
            return one(input_ids=ids, labels=ids, use_cache=False).loss

        assert count(forward).flops == torch_flops(forward) > 0
        if one is not state_space:  # torch counts a depthwise convolution's gradients as if every channel met every one
            assert count(lambda: forward().backward()).flops == torch_flops(lambda: forward().backward())
    picture, x = Picture(), torch.ones(2, 3, 8, 8)
    assert count(lambda: picture(x).sum().backward()).flops == torch_flops(lambda: picture(x).sum().backward())
