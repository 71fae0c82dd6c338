"""bitsandbytes while tensors have no data: patched for as long as that lasts, whenever it is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import bitsandbytes
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from bench.instruments.fake import fake_tensors

ROOT = Path(__file__).parent.parent


def test_a_weight_without_data_is_quantized() -> None:
    """It has the shape, dtype and constants of a real one; the library's own class is back afterwards."""
    real = bitsandbytes.nn.Params4bit
    packed, state = bitsandbytes.functional.quantize_4bit(torch.ones(64, 32), compress_statistics=True)
    with fake_tensors(cuda=False):
        fake_packed, fake_state = bitsandbytes.functional.quantize_4bit(torch.ones(64, 32), compress_statistics=True)
        parameter = bitsandbytes.nn.Params4bit(fake_packed, quant_state=fake_state)
        assert isinstance(parameter, FakeTensor) and isinstance(parameter, nn.Parameter)
        assert parameter.quant_state is fake_state
        assert not parameter.requires_grad
    assert (fake_packed.shape, fake_packed.dtype) == (packed.shape, packed.dtype)
    for name in ("absmax", "offset", "code"):
        assert getattr(fake_state, name).shape == getattr(state, name).shape
    assert bitsandbytes.nn.Params4bit is bitsandbytes.nn.modules.Params4bit is real


def test_a_weight_with_data_stays_the_library_s_own() -> None:
    """What is not fake is made as ever, also while fake tensors are on."""
    packed, state = bitsandbytes.functional.quantize_4bit(torch.ones(64, 32))
    with fake_tensors(cuda=False):
        parameter = bitsandbytes.nn.Params4bit(packed, quant_state=state, bnb_quantized=True)
    assert type(parameter) is bitsandbytes.nn.Params4bit
    assert parameter.quant_state is state


def test_the_library_is_patched_when_it_is_imported_later() -> None:
    """Fake tensors do not load it; a method that does gets it patched; afterwards it and all imports are as ever."""
    program = """
import sys
from bench.instruments.fake import fake_tensors
finders = list(sys.meta_path)
with fake_tensors(cuda=False):
    assert "bitsandbytes" not in sys.modules
    import bitsandbytes, torch
    patched = bitsandbytes.nn.Params4bit
    assert type(patched(torch.empty(8, 1))).__name__ == "FakeTensor"
    kept = [name for name, value in vars(bitsandbytes.functional).items() if type(value).__name__ == "FakeTensor"]
    assert kept == []
assert bitsandbytes.nn.Params4bit is bitsandbytes.nn.modules.Params4bit is patched.__base__
assert bitsandbytes.functional.name2qmap == {}
assert sys.meta_path == finders
with fake_tensors(cuda=False):
    pass
assert sys.meta_path == finders
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
