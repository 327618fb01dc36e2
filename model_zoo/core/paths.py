"""Paths as people write them, in YAML and on the command line."""

from __future__ import annotations

import argparse
import os
import re

from model_zoo.core.errors import InputError

_VARIABLE = re.compile(r"\$(?:\{(?P<braced>[^}]*)\}|(?P<plain>[A-Za-z_]\w*))")


def expanded(path: str) -> str:
    """A path with ``~`` and environment variables (``$NAME``, ``${NAME}``) replaced.

    Raises:
        InputError: It is empty, or names a variable that is not set or a user that is not there.

    Example:
        >>> os.environ["SET_FOR_THIS"] = "/data"
        >>> expanded("${SET_FOR_THIS}/train.parquet")
        '/data/train.parquet'
    """
    if not path.strip():
        raise InputError(f"found {path!r}, expected a path")
    names = [match["braced"] or match["plain"] or "" for match in _VARIABLE.finditer(path)]
    unset = [name for name in dict.fromkeys(names) if name not in os.environ]
    if unset:
        raise InputError(
            f"{path}: the environment has no variable {' and no '.join(unset)}; set it, or write "
            "the path without it"
        )
    whole = os.path.expanduser(_VARIABLE.sub(_value, path))
    if path.startswith("~") and whole.startswith("~") and os.sep in whole:
        raise InputError(f"{path}: no home folder of {whole.partition(os.sep)[0]} is known")
    return whole


def path_argument(text: str) -> str:
    """``type`` of an argument of the command line that is a path."""
    try:
        return expanded(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _value(match: re.Match[str]) -> str:
    return os.environ[match["braced"] or match["plain"]]
