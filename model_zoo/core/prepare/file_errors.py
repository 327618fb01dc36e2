"""What goes wrong with a file, as a message that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_zoo.core.errors import InputError, first_line


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A disk that is full, or a folder that is not ours, as a message that names the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def unreadable(path: Path, kind: str, error: Exception) -> InputError:
    """A reader's error in one line, to be raised in its place."""
    return InputError(f"{path}: not a readable {kind} file: {first_line(error)}")
