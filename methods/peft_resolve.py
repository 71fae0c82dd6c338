"""What Hugging Face peft makes of a configuration, found by attaching it to a copy of the model without values.

As it attaches, peft resolves keys in place: ``target_modules`` of None or "all-linear" become names, a prompt gets the
sizes of the model. It also passes over entries that match nothing, at most with a warning.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from methods.errors import Unsupported
from methods.peft_library import library

ADAPTER = "default"
"""The name that peft gives an adapter that nobody has named."""
INITS = ("init_lora_weights", "init_weights")
"""Keys that say how weights start, some of whose values read the weights of the base."""
LISTS = ("modules_to_save", "target_parameters")
"""Keys whose value is never a pattern."""
SHOWN = 4
"""Names in a message."""


def rehearse(model: PreTrainedModel, configuration: Callable[[], Any]) -> Any:
    """peft's wrapper around a copy of ``model`` on the meta device; None where peft must read values to attach.

    ``configuration`` makes a new configuration each time. The random state and ``model`` stay as they were.
    """
    config = configuration()
    inits = {name: getattr(config, name) for name in INITS if hasattr(config, name)}
    for start in (inits, dict.fromkeys(inits, True)):
        config = configuration()
        vars(config).update(start)
        try:
            wrapped = _attach(_copy(model, _without_values), config)
        except RuntimeError:  # what torch raises, and peft does not, where an operation needs values
            continue
        vars(config).update(inits)
        return wrapped
    return None


def resolve(model: PreTrainedModel, configuration: Callable[[], Any]) -> Any:
    """The configuration as it is once it is attached to ``model``, which has values and stays as it was."""
    wrapped = rehearse(model, configuration) or _attach(_copy(model, Tensor.detach), configuration())
    return wrapped.peft_config[ADAPTER]


def _attach(model: PreTrainedModel, config: Any) -> Any:
    with torch.random.fork_rng(devices=()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns again when it attaches to the model itself
        return library().get_peft_model(model, config)


def _copy(model: PreTrainedModel, of: Callable[[Tensor], Tensor]) -> PreTrainedModel:
    tensors = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {id(tensor): _like(tensor, of) for tensor in tensors})


def _like(tensor: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    if type(tensor) is nn.Parameter:
        return nn.Parameter(of(tensor.detach()), requires_grad=tensor.requires_grad)
    return tensor if isinstance(tensor, nn.Parameter) else of(tensor)  # a quantized weight is more than its numbers


def _without_values(tensor: Tensor) -> Tensor:
    return tensor.to("meta")


def plain(value: Any) -> Any:
    """A value of a configuration as it is after being saved and loaded: without classes, and without order in sets."""
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def refuse_idle(model: PreTrainedModel, given: Mapping[str, Any], wrapped: Any) -> None:
    """Refuses entries of a configuration that match nothing of ``model``, which peft would pass over.

    ``given``: the configuration as it was written; ``wrapped``: what `rehearse` made of it. An entry that peft has
    replaced by others is not looked at.

    Raises:
        Unsupported: naming the key, the entry, and some of the names that it could have matched.
    """
    resolved, tuner = wrapped.peft_config[ADAPTER], wrapped.base_model
    modules = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    adapted = [*getattr(tuner, "targeted_module_names", ()), *getattr(tuner, "targeted_parameter_names", ())]
    rules: dict[str, tuple[list[str], Matches]] = {
        "target_modules": (modules, _ends),
        "feedforward_modules": (modules, _ends),
        "exclude_modules": (modules, _ends),
        "modules_to_save": (modules, _ends_anywhere),
        "target_parameters": (parameters, _ends),
        "rank_pattern": (adapted, _matches_end),
        "alpha_pattern": (adapted, _matches_end),
        "layers_to_transform": (adapted, _in_layer),
    }
    for key in LISTS:
        if isinstance(given.get(key), str):  # of which peft would take each letter for a name
            raise Unsupported(f"{key} must be a list of names, not {given[key]}")
    for key, (names, rule) in rules.items():
        matches = re.fullmatch if isinstance(given.get(key), str) else rule
        kept = _entries(getattr(resolved, key, None))
        for entry in _entries(given.get(key)):
            if entry in kept and not any(matches(entry, name) for name in names):
                raise Unsupported(
                    f"{key}: {entry} matches nothing of this model and would be ignored; correct or remove it "
                    f"(there are {', '.join(_some(names))})"
                )


Matches = Callable[[Any, str], object]
"""Whether an entry of a key matches a name."""


def _entries(value: Any) -> list[Any]:
    """What a key lists; a string is a pattern for whole names, and a number that of a layer."""
    if isinstance(value, list | tuple | set | Mapping):
        return list(value)
    return [] if value is None else [value]


def _some(names: Iterable[str]) -> list[str]:
    """A few names of different modules, in the first layer where there are layers."""
    first = list(dict.fromkeys(re.sub(r"\.\d+(?=\.|$)", ".0", name) for name in names))
    return [name for name in first if not any(other.startswith(f"{name}.") for other in first)][:SHOWN]


def _ends(entry: str, name: str) -> bool:
    return f".{name}".endswith(f".{entry}")


def _ends_anywhere(entry: str, name: str) -> bool:
    return name.endswith(entry)


def _matches_end(entry: str, name: str) -> object:
    return re.match(rf"(.*\.)?({entry})$", name)


def _in_layer(entry: int, name: str) -> bool:
    found = re.match(r".*?\.[^.]*\.(\d+)\.", name)
    return found is not None and int(found[1]) == entry
