"""Exceptions that a front door turns into a message and an exit code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class Interrupted(Exception):
    """A signal ended the work in good order.

    Args:
        number: The signal.
        message: What was saved, and how to go on.
    """

    def __init__(self, number: int, message: str) -> None:
        self.number = number
        super().__init__(message)


class InputError(ValueError):
    """Something the user wrote (YAML, data file, command line) is wrong.

    Args:
        problems: One message, or several that were found in one check; each names
            where it is, what was found and what was expected.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


def suggestion(name: str, known: Iterable[str]) -> str:
    """For messages about an unknown name: the nearest one that is known, or nothing.

    Example:
        >>> suggestion("epoch", ["epochs", "seed"])
        " (did you mean 'epochs'?)"
    """
    nearest = get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f" (did you mean '{nearest[0]}'?)" if nearest else ""


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its kind if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
