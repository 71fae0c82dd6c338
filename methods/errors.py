"""Errors that methods raise, each with a message of one line."""

from typing import ClassVar


class MethodError(ValueError):
    """A setting, a model or a checkpoint that a method can't use. The message says what, where and what to do."""


class Unsupported(MethodError):
    """The settings are valid, but this method can't run on this model or machine; a sweep records why and goes on."""

    status: ClassVar[str] = "skipped"
    """The status of a run that ends with this error."""
