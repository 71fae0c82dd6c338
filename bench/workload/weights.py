"""The weights of a checkpoint: which files hold them, which names and shapes, and whether a configuration fits them.

transformers itself decides what fits: it is given the names and shapes of the files' headers as tensors without data,
and so takes prefixes, tied weights and conversions as it does when it loads. A file's header costs next to nothing.
"""

from __future__ import annotations

import copy
import json
import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME, logging

from bench.config.sources import SourceError, is_local, refuse_adapter
from bench.workload.hub import one_line

NAMES = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
"""In the order in which transformers looks for them."""
FORMER_BUFFERS = re.compile(r"(inv_freq|attn\.bias|masked_bias|causal_mask|position_ids|(cos|sin)_cached)$")
"""Constants that older checkpoints hold, and that models compute today."""


def weight_files(source: str, revision: str | None, download: bool) -> list[Path]:
    """The files that hold the weights of a local folder or hub id; none where the hub's are not in the cache.

    ``download``: whether to get them from the hub.

    Raises:
        SourceError: a local folder lacks weights, or one of their files.
    """
    folder = Path(source)
    if is_local(source):
        files = _listed(lambda name: folder / name if (folder / name).is_file() else None)
        if not files:
            refuse_adapter(folder)
            raise SourceError(f"the local folder '{folder}' has no {NAMES[0]}: give one written by save_pretrained")
        return files
    if download:
        return _download(source, revision)
    try:
        return _listed(lambda name: _cached(source, name, revision))
    except SourceError:  # a shard is not there yet
        return []


def _listed(find: Callable[[str], Path | None]) -> list[Path]:
    """The files that ``find`` finds under the usual names, an index read as what it lists."""
    for name in NAMES:
        if (path := find(name)) is None:
            continue
        if not name.endswith(".json"):
            return [path]
        shards = {shard: find(shard) for shard in sorted(set(json.loads(path.read_text())["weight_map"].values()))}
        if lacking := [shard for shard, found in shards.items() if found is None]:
            raise SourceError(f"'{path.parent}' has no {lacking[0]}, which {name} lists: copy it again")
        return [found for found in shards.values() if found is not None]
    return []


def _download(source: str, revision: str | None) -> list[Path]:
    """The files of a hub id.

    Raises:
        SourceError: it has none, or the hub can't be reached and they are not in the cache.
    """
    unreachable: list[LocalEntryNotFoundError] = []

    def find(name: str) -> Path | None:
        try:
            return Path(hf_hub_download(source, name, revision=revision))
        except LocalEntryNotFoundError as error:  # not in the cache, which may hold the weights under another name
            unreachable.append(error)
        except EntryNotFoundError:  # of a checkpoint in other files
            pass
        return None

    files = _listed(find)
    if not files and unreachable:
        raise SourceError(f"the weights of {one_line(unreachable[0], source)}") from unreachable[0]
    if not files:
        raise SourceError(f"hub id '{source}' has no {NAMES[0]}: choose one with weights that transformers reads")
    return files


def _cached(source: str, name: str, revision: str | None) -> Path | None:
    found = try_to_load_from_cache(source, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def read_weights(files: Sequence[Path]) -> dict[str, Any]:
    """Every weight by name: of safetensors as slices, which read nothing yet, of torch's format as mapped tensors.

    Raises:
        SourceError: a file is torn, or holds something else.
    """
    found: dict[str, Any] = {}
    for file in files:
        try:
            found |= _of_safetensors(file) if file.suffix == ".safetensors" else _of_torch(file)
        except SourceError:
            raise
        except Exception as error:  # what a torn pickle raises depends on where it is torn
            reason = " ".join(str(error).split())[:200]
            raise SourceError(f"{file} is torn or holds no weights: {reason}: copy it again") from error
    return found


def _of_safetensors(file: Path) -> dict[str, Any]:
    opened: Any = safe_open(file, framework="pt")
    return {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118  # it is no dictionary


def _of_torch(file: Path) -> dict[str, Any]:
    # files older than torch 1.6 are no zip archives, and can't be mapped
    loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise SourceError(f"{file} holds no dictionary of tensors: give one written by save_pretrained")
    return dict(loaded)


def shape_of(weight: Any) -> tuple[int, ...]:
    """The shape of a slice or tensor."""
    return tuple(weight.shape if isinstance(weight, Tensor) else weight.get_shape())


def check_weights(
    model: PreTrainedModel,
    shapes: Mapping[str, Sequence[int]],
    where: str,
    turned: Collection[str] = (),
    part: bool = False,
) -> None:
    """Refuses a model that is not what a checkpoint holds. ``shapes``: of the weights by name, not quantized.

    ``turned``: weights of the model that the checkpoint holds transposed. ``part``: see `refuse_misfit`.

    Raises:
        SourceError: a weight is left over, is missing, or has another shape.
    """
    plain = copy.deepcopy(model.config)
    vars(plain).pop("quantization_config", None)
    header = {name: torch.empty(tuple(shape), device="meta") for name, shape in shapes.items()}
    _, report = fill(type(model), plain, state_dict=header, device_map={"": "meta"})
    report["mismatched_keys"] = [
        (name, there, here)
        for name, there, here in report["mismatched_keys"]
        if name not in turned or tuple(there) != tuple(here)[::-1]
    ]
    refuse_misfit(report, where, part)


def fill(
    kind: type[PreTrainedModel], architecture: PreTrainedConfig, folder: str | None = None, **source: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A new model with the weights of ``source``, and transformers' report.

    transformers is told of no folder but one that holds them alone, or it would load an adapter beside them as well.
    """
    with _quiet():
        loaded: Any = kind.from_pretrained(
            folder, config=architecture, output_loading_info=True, ignore_mismatched_sizes=True, **source
        )
    model, report = loaded
    return model, report


def refuse_misfit(report: Mapping[str, Any], where: str, part: bool) -> None:
    """Refuses what transformers only reports: it draws weights that are missing or of another shape at random.

    ``part``: whether the model is only a part of what the checkpoint describes, such as its text model.

    Raises:
        SourceError: naming the first weight.
    """
    advice = "correct config.json, or choose another checkpoint"
    if misshapen := sorted(report["mismatched_keys"]):
        name, there, here = misshapen[0]
        raise SourceError(
            f"{name} has shape {list(there)} at '{where}', and {list(here)} by its configuration"
            f"{_more(misshapen, 'differ')}: {advice}"
        )
    if missing := sorted(report["missing_keys"]):
        raise SourceError(
            f"the checkpoint at '{where}' lacks {len(missing)} weights, the first being {missing[0]}: "
            f"it is not the whole causal language model that its configuration describes, {advice}"
        )
    left = sorted(name for name in report["unexpected_keys"] if not FORMER_BUFFERS.search(name))
    if left and not part:
        raise SourceError(
            f"the checkpoint at '{where}' holds {len(left)} weights that its configuration does not describe, "
            f"the first being {left[0]}: {advice}"
        )


def _more(found: Sequence[object], verb: str) -> str:
    return f", and {len(found) - 1} others {verb}" if len(found) > 1 else ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bar and report, which says in many lines what is refused in one."""
    level = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
