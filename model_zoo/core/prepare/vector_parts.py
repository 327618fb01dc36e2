"""Which part of a file of vectors holds the ids, and which the vectors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from model_zoo.core.errors import InputError

Role = Literal["ids", "vectors"]
EXPECTED = {
    "ids": "one dimension of integers or strings",
    "vectors": "two dimensions (ids, width) of numbers",
}


def role_of(dtype: np.dtype[Any], shape: tuple[int, ...], *, text: bool) -> Role | None:
    """What an array can be, by its type and shape; None: neither."""
    if len(shape) == 1 and (text or dtype.kind in "iu"):
        return "ids"
    if len(shape) == 2 and shape[1] and dtype.kind in "iuf" and not text:
        return "vectors"
    return None


def pick(
    path: Path,
    parts: Mapping[str, str],
    roles: Mapping[str, Role | None],
    role: Role,
    key: str | None,
    preferred: str | None,
    candidates: set[str] | None = None,
) -> str:
    """The name of the part that holds the ids, or the vectors.

    Args:
        path: The file, for messages.
        parts: What each array, data set or column is, by name, for messages.
        roles: What each can be.
        role: What is looked for.
        key: Its name, if the user gave one.
        preferred: The name to take if several parts can be it.
        candidates: Parts that are taken unasked; ``None``: all that can be it.

    Raises:
        InputError: If there is none, or none of that name, or several.
    """
    listed = ", ".join(f"'{name}' ({text})" for name, text in parts.items()) or "nothing"
    if key is not None:
        if key not in parts:
            raise InputError(f"{path}: no '{key}' for the {role}; the file holds {listed}")
        if roles[key] != role:
            raise InputError(f"{path}: '{key}' is {parts[key]}; expected {EXPECTED[role]}")
        return key
    fitting = [n for n, r in roles.items() if r == role and (candidates is None or n in candidates)]
    if preferred in fitting:
        return str(preferred)
    if len(fitting) != 1:
        raise InputError(
            f"{path}: {len(fitting)} candidates for the {role} ({EXPECTED[role]}); name one "
            f"with --{role}-key: the file holds {listed}"
        )
    return fitting[0]
