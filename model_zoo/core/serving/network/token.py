"""The token that whoever changes something has to show."""

from __future__ import annotations

import stat
from pathlib import Path

from model_zoo.core.errors import InputError

SHORTEST_TOKEN = 16


def read_token(path: Path) -> str:
    """The token in a file, without the blanks around it.

    Raises:
        InputError: If the file cannot be read, or others can, or the token is too short.
    """
    try:
        mode = path.stat().st_mode
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError(f"--token-file {path}: cannot be read: {why}") from None
    if len(token) < SHORTEST_TOKEN or not token.isascii() or any(c.isspace() for c in token):
        raise InputError(
            f"--token-file {path}: found {len(token)} characters, expected one word of at least "
            f"{SHORTEST_TOKEN} ASCII characters"
        )
    if mode & stat.S_IROTH:
        raise InputError(f"--token-file {path}: everybody can read it; chmod o-r {path}")
    return token
