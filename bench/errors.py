"""What the person at the keyboard can put right."""


class UsageError(Exception):
    """Bad input: one line that says what, where and what to do. The command ends with status 2."""
