"""From a row of a data set to the text of a document: text as it stands, a chat, or columns in a template."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerFast

from bench.config.sources import DataConfig, SourceError

CHAT = "messages"
"""The column that chats usually are in."""
KEYS = ("role", "content")
"""What each message of a chat has."""


class Document(NamedTuple):
    """One text, and how it came to be."""

    text: str
    form: str
    """``text``, ``template``, ``chat template`` (the tokenizer's) or ``role: content``."""

    @property
    def has_special_tokens(self) -> bool:
        """Whether special tokens that the text spells out are meant: a tokenizer's chat template writes them."""
        return self.form == "chat template"


def to_document(row: Mapping[str, Any], config: DataConfig, tokenizer: PreTrainedTokenizerFast) -> Document | None:
    """The text of a row; None of an empty one.

    Raises:
        SourceError: the row lacks a column that the settings name, or its value is neither text nor a chat.
    """
    if config.template is not None:
        return Document(_filled(config.template, row, config), "template")
    value = row[_column(row, config)]
    if not value:
        return None
    if isinstance(value, str):
        return Document(value, "text")
    if not _is_chat(value):
        kind = type(value).__name__
        raise SourceError(f"{_named(config)} holds {kind} values in column '{config.text_column}': {_advice(row)}")
    return _rendered(value, config, tokenizer)


def _rendered(chat: Sequence[Mapping[str, Any]], config: DataConfig, tokenizer: PreTrainedTokenizerFast) -> Document:
    if not tokenizer.chat_template:
        return Document("\n".join(f"{one['role']}: {_plain(one['content'])}" for one in chat), "role: content")
    # files fill up keys that some messages lack, and templates ask whether a key is there
    messages = [{key: value for key, value in one.items() if value is not None or key in KEYS} for one in chat]
    try:
        return Document(str(tokenizer.apply_chat_template(messages, tokenize=False)), "chat template")
    except Exception as error:  # templates are programs that raise what they like, say at roles that do not alternate
        reason = " ".join(str(error).split())[:200]
        raise SourceError(f"{_named(config)} has a chat that the tokenizer's template refuses: {reason}") from error


def columns_of(config: DataConfig) -> Sequence[str]:
    """The columns that the settings name.

    Raises:
        SourceError: the template can't be read, or names none.
    """
    if config.template is None:
        return [config.text_column]
    try:
        fields = [field for _, *field in string.Formatter().parse(config.template) if field[0] is not None]
    except ValueError as error:
        raise SourceError(
            f"data.template can't be read: {error}; write {{{{ for a brace: '{config.template}'"
        ) from error
    if not fields or any(not name or rest != ["", None] for name, *rest in fields):
        raise SourceError(f"data.template needs names of columns in braces, as {{question}}: '{config.template}'")
    return [str(name) for name, *_ in fields]


def _filled(template: str, row: Mapping[str, Any], config: DataConfig) -> str:
    """The template with the row's values, as they stand; nothing for one that is absent."""
    if unknown := [name for name in columns_of(config) if name not in row]:
        raise SourceError(
            f"{_named(config)} has no column '{unknown[0]}', which data.template names: use {', '.join(sorted(row))}"
        )
    # Hydra and the shell leave these as they are typed
    parts = string.Formatter().parse(template.replace("\\n", "\n").replace("\\t", "\t"))
    return "".join(before + ("" if name is None else _plain(row[name])) for before, name, _, _ in parts)


def _plain(value: Any) -> str:
    return "" if value is None else str(value)


def _column(row: Mapping[str, Any], config: DataConfig) -> str:
    if config.text_column in row:
        return config.text_column
    if config.text_column == DataConfig.text_column and _is_chat(row.get(CHAT)):
        return CHAT
    raise SourceError(f"{_named(config)} has no column '{config.text_column}': {_advice(row)}")


def _advice(row: Mapping[str, Any]) -> str:
    """What to set, by the columns that there are."""
    columns = ", ".join(sorted(row))
    usable = [name for name, value in row.items() if isinstance(value, str) or _is_chat(value)]
    if len(usable) == 1:
        return f"set data.text_column={usable[0]} (of {columns})"
    if usable:
        whole = "\\n".join(f"{{{name}}}" for name in usable)
        return f"set data.text_column to one of {', '.join(usable)}, or data.template='{whole}' (of {columns})"
    return f"none of {columns} is text or a chat of {' and '.join(KEYS)}, convert one"


def _is_chat(value: Any) -> bool:
    """Whether this is a list of messages; what they say may be None where a tool was called."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(message, Mapping) and all(key in message for key in KEYS) for message in value)
    )


def _named(config: DataConfig) -> str:
    return f"data '{config.name}' at '{config.path}'"
