"""What the forkserver imports once, so that children need not: whatever a cell is likely to use."""

import contextlib
import importlib
import logging

import torch
import transformers.models.gpt2.modeling_gpt2
import transformers.models.gpt_neox.modeling_gpt_neox
import transformers.models.llama.modeling_llama
import transformers.models.opt.modeling_opt
import transformers.models.qwen3.modeling_qwen3

import bench.worker.latency
import bench.worker.probes
import bench.workload.evaluation
import methods

methods.available()
# Half of what a child of a quantised cell would take to start. This process shares our terminal: on a processor with
# AVX512-BF16 the library would warn there of a kernel that it can't fetch, and that is not used here.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# With CUDA in torch, importing either asks the driver about the card, and a process that has done so can't be forked.
for library in ("bitsandbytes", "peft") if torch.version.cuda is None else ():
    with contextlib.suppress(ImportError):
        importlib.import_module(library)

__all__ = ["bench", "transformers"]
