"""What the forkserver imports once, so that children need not: whatever a cell is likely to use."""

import transformers.models.gpt2.modeling_gpt2
import transformers.models.gpt_neox.modeling_gpt_neox
import transformers.models.llama.modeling_llama
import transformers.models.opt.modeling_opt
import transformers.models.qwen3.modeling_qwen3

import bench.metrics
import bench.worker
import methods

methods.available()

__all__ = ["bench", "transformers"]
