"""What a failure of the Hugging Face hub means for the reader: one line, for models, data and metrics.

The libraries answer with several lines, wrap one another's errors, and call a folder that is not there a bad hub id.
"""

from __future__ import annotations

import textwrap

from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from bench.config.sources import is_local

_UNREACHABLE = (
    "is not in the cache and the hub cannot be reached: download it where there is a network, or use a local path"
)
_ADVICE: tuple[tuple[type[BaseException], str], ...] = (
    # in this order, for a gated repository's error is a kind of missing one's
    (GatedRepoError, "is gated: ask for access on its page, then log in with 'hf auth login'"),
    (RepositoryNotFoundError, "is not on the hub, or private: correct it, or log in with 'hf auth login'"),
    (RevisionNotFoundError, "has no such revision: correct it"),
    (LocalEntryNotFoundError, _UNREACHABLE),
    (OfflineModeIsEnabled, _UNREACHABLE),
    (ConnectionError, _UNREACHABLE),
)


def one_line(error: BaseException, source: str | None) -> str:
    """The reason behind an error raised while getting ``source`` (a hub id or path), with advice if it is the hub's."""
    # a KeyError prints its argument quoted
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    if "trust_remote_code" in text:
        return f"'{source}' needs code of its own, which is never run here: choose one that transformers knows"
    if source is not None and not is_local(source) and (advice := _hub_advice(error)):
        return f"hub id '{source}' {advice}"
    return textwrap.shorten(text, 300, placeholder=" ...") or type(error).__name__


def _hub_advice(error: BaseException) -> str | None:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for kind, advice in _ADVICE:
        if any(isinstance(link, kind) for link in chain):
            return advice
    return None
