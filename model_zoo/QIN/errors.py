"""The one exception that a front door turns into a message and exit code 2."""

from __future__ import annotations

from collections.abc import Sequence


class InputError(ValueError):
    """Something the user wrote (YAML, data file, command line) is wrong.

    Args:
        problems: One message, or several that were found in one check; each names
            where it is, what was found and what was expected.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))
