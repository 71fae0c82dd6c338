"""Token corpora: documents in, equal blocks of token ids out, from a :class:`~bench.config.sources.DataConfig`.

Documents are read in a fixed order and tokenized one at a time until both sides are full, so that a small run over a
large data set costs what the small run needs. Nothing here is random.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from bench.config.sources import DataConfig, DataSource, SourceError
from bench.workload.documents import read_documents


@dataclass(frozen=True, eq=False)
class Corpus:
    """Packed token blocks of one length T; see :func:`load_corpus`."""

    train: Tensor
    """int64 [train sequences, T]"""
    held_out: Tensor
    """int64 [held-out sequences, T], from documents of which train has nothing."""
    held_out_bytes: int | None
    """UTF-8 bytes of the held-out text that a model predicts: each sequence's tokens but its first. None where the
    tokenizer does not keep all text, as ``bytes_missing`` says."""
    fingerprint: str
    """sha256 over both sides' token ids and the documents they come from, wherever those are kept."""
    description: Mapping[str, str | int]
    """Facts for the record: where the text comes from, how it was made of rows, how many documents, which tokenizer."""
    bytes_missing: str | None = None
    """Why there are no bytes to count; None if there are."""


def load_corpus(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerFast,
    sequence_length: int,
    train_sequences: int,
    held_out_sequences: int,
) -> Corpus:
    """Tokenize documents, join them with the end-of-sequence token, and cut them into equal blocks.

    Raises:
        SourceError: the text cannot be had, is not text, is too little, or the tokenizer does not fit the purpose.
    """
    if sequence_length < 1 or train_sequences < 0 or held_out_sequences < 0:
        raise SourceError(f"data '{config.name}': sequences of {sequence_length} tokens: ask for at least one token")
    if not 0 <= config.held_out_fraction <= 1:
        raise SourceError(
            f"data '{config.name}': held_out_fraction is {config.held_out_fraction}: give one from 0 to 1"
        )
    train = _Side("train", train_sequences, sequence_length)
    held_out = _Side("held-out", held_out_sequences, sequence_length)
    _fill(train, held_out, config, tokenizer)
    train_blocks, held_out_blocks = train.blocks(config), held_out.blocks(config)
    token_bytes = _token_bytes(tokenizer)
    reason = _bytes_missing(held_out, token_bytes, tokenizer)
    counts = {"train_documents": len(train.digests), "held_out_documents": len(held_out.digests)}
    return Corpus(
        train=train_blocks,
        held_out=held_out_blocks,
        held_out_bytes=None if reason else int(token_bytes[held_out_blocks[:, 1:]].sum()),
        fingerprint=_fingerprint([(train, train_blocks), (held_out, held_out_blocks)]),
        description={**_origin(config, train.forms | held_out.forms), "tokenizer": tokenizer.name_or_path, **counts},
        bytes_missing=reason,
    )


@dataclass
class _Side:
    """Train or held-out, as it fills up."""

    name: str
    sequences: int
    length: int
    ids: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    """sha256 of each document used."""
    text_bytes: int = 0
    """UTF-8 bytes of the documents, without special tokens that are meant as such."""
    forms: set[str] = field(default_factory=set)
    """How the documents were made of rows: see `bench.workload.rows.Document`."""

    @property
    def is_full(self) -> bool:
        return len(self.ids) >= self.sequences * self.length

    def blocks(self, config: DataConfig) -> Tensor:
        """[sequences, length]"""
        if not self.is_full:
            raise SourceError(
                f"data '{config.name}' fills {len(self.ids) // self.length} {self.name} sequences of {self.length} "
                f"tokens, not {self.sequences}: ask for fewer or shorter ones, or change data.held_out_fraction"
            )
        return torch.tensor(self.ids[: self.sequences * self.length]).long().view(self.sequences, self.length)


def _fill(train: _Side, held_out: _Side, config: DataConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    """Give each document to the side that its text's hash picks, until both are full or the documents end."""
    separator = tokenizer.eos_token_id
    if not isinstance(separator, int):
        raise SourceError(f"tokenizer '{tokenizer.name_or_path}' has no eos token to part documents: choose another")
    if train.is_full and held_out.is_full:
        return
    added = tokenizer.added_tokens_decoder.items()
    special = {index: len(token.content.encode()) for index, token in added if token.special}
    for document in read_documents(config, tokenizer):
        encoded = document.text.encode()
        digest = hashlib.sha256(encoded).digest()
        side = held_out if int.from_bytes(digest[:8], "big") < config.held_out_fraction * 2**64 else train
        if side.is_full:
            continue
        # text that spells out a special token, as manuals of tokenizers do, is still text
        split = not document.has_special_tokens
        ids = tokenizer.encode(document.text, add_special_tokens=False, split_special_tokens=split, verbose=False)
        side.ids += [*ids, separator]
        side.digests.append(digest)
        side.forms.add(document.form)
        side.text_bytes += len(encoded) - sum(special.get(index, 0) for index in ids)
        if train.is_full and held_out.is_full:
            return


def _token_bytes(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """int64 [vocabulary]: the UTF-8 bytes that each token stands for; special tokens stand for none.

    A byte-level BPE spells a token with one character a byte, so that tokens ending within a character count exactly.
    A SentencePiece one spells a space as U+2581 and a lone byte as <0xE2>.
    """
    byte_level = "ByteLevel" in json.dumps(json.loads(tokenizer.backend_tokenizer.to_str())["decoder"])
    vocabulary = tokenizer.get_vocab()
    sizes = torch.zeros(max(vocabulary.values()) + 1, dtype=torch.long)
    for token, index in vocabulary.items():
        is_lone_byte = len(token) == len("<0xE2>") and token.startswith("<0x")
        sizes[index] = len(token) if byte_level else 1 if is_lone_byte else len(token.replace("\u2581", " ").encode())
    for index, added in tokenizer.added_tokens_decoder.items():
        sizes[index] = 0 if added.special else len(added.content.encode())
    return sizes


def _bytes_missing(side: _Side, token_bytes: Tensor, tokenizer: PreTrainedTokenizerFast) -> str | None:
    """Why bits per byte would be of another text: a tokenizer drops some (case, spaces) or composes accents anew."""
    counted = int(token_bytes[torch.tensor(side.ids).long()].sum())
    if abs(counted - side.text_bytes) > 0.01 * side.text_bytes + len(side.digests):  # one space may be put before each
        return (
            f"tokenizer '{tokenizer.name_or_path}' stands for {counted} bytes where the text has {side.text_bytes}: "
            "bits per byte need one that keeps all text"
        )
    return None


def _fingerprint(sides: Sequence[tuple[_Side, Tensor]]) -> str:
    digest = hashlib.sha256()
    for side, blocks in sides:
        digest.update(f"{side.name} {tuple(blocks.shape)} {len(side.digests)}".encode())
        digest.update(b"".join(side.digests))
        digest.update(blocks.numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def _origin(config: DataConfig, forms: Iterable[str]) -> dict[str, str | int]:
    if config.source == DataSource.stdlib:
        return {"source": config.source.value, "python_version": platform.python_version()}
    facts = {
        "path": config.path,
        "config_name": config.config_name,
        "split": config.split,
        **({"text_column": config.text_column} if config.template is None else {"template": config.template}),
        "form": " and ".join(sorted(forms)),
        "revision": config.revision,
    }
    return {"source": config.source.value, **{name: fact for name, fact in facts.items() if fact is not None}}
