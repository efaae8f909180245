"""The one exception that carries a sentence for the competitor."""


class InputError(ValueError):
    """Something attached or configured is wrong: the message says what, where, and what to do."""
