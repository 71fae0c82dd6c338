"""What a method refuses, in one line each."""


class MethodError(ValueError):
    """A setting, a model or a checkpoint that a method can't use. The message says what, where and what to do."""


class Unsupported(MethodError):
    """The settings are sound, but this method can't take this model; a sweep records the reason and goes on."""
