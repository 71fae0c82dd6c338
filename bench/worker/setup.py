"""How every child process begins: the plan, torch's settings, the text."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bench.config.schema import Execution
from bench.instruments.steps import compile_without_end
from bench.instruments.timing import TimingConfig
from bench.workload.corpus import Corpus, load_corpus
from bench.workload.models import load_tokenizer
from bench.workload.plan import Plan, read_plan
from methods.architectures import embedding_shape

Report = Callable[..., object]
"""``report(text, so_far=None)`` tells the parent what is being done now, and what was found so far."""

CHECKPOINT, COMPILED = "checkpoint", "compiled"
"""Folders of a cell, from which replicates load the method and compiled code."""


def start(config: Mapping[str, Any], staging: str | None = None) -> Plan:
    """Reads the configuration and sets up this process for it; ``staging`` is the cell's own folder."""
    plan = read_plan(config)
    gc.freeze()  # a million objects of the libraries, which each collection would walk through in 0.3 s
    if plan.device.threads is not None:
        torch.set_num_threads(plan.device.threads)
    if plan.runtime.execution is Execution.compile:
        compile_without_end()
        if staging is not None:  # shared by its children, and by no one else's, old or broken as that may be
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(staging) / COMPILED)
    torch.manual_seed(plan.seed)
    return plan


def timing_config(plan: Plan) -> TimingConfig:
    """How much one process measures."""
    precision = plan.precision
    return TimingConfig(precision.pairs, precision.warmup_steps, precision.discarded_steps, precision.block_seconds)


def random_tokens(plan: Plan, model: PreTrainedModel) -> Tensor:
    """Token ids [4096] for what is timed. Times do not depend on them."""
    vocabulary = embedding_shape(model)[0]
    return torch.randint(vocabulary, (4096,), generator=torch.Generator().manual_seed(plan.seed))


def load_text(plan: Plan) -> Corpus:
    """The training and held-out text of a cell.

    Raises:
        SourceError: it can't be had, or there is too little of it.
        SourceError: the tokenizer can't be had.
    """
    work = plan.workload
    return load_corpus(
        plan.data,
        load_tokenizer(plan.model),
        work.train_length,
        work.train_steps * work.train_batch_size,
        work.held_out_sequences,
    )
