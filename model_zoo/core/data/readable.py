"""A reader's errors as the user's message, which names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa

from model_zoo.core.errors import InputError, first_line

# What polars and pyarrow raise for damaged files; polars "panics" at some of them.
READER_ERRORS = (
    pa.ArrowException,
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
    OSError,
    UnicodeError,
)


@contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """What goes wrong inside is the parquet file's fault.

    Raises:
        InputError: In place of an error of pyarrow, polars or the system; names the file.
    """
    try:
        yield
    except READER_ERRORS as error:
        raise unreadable(path, "parquet", error) from None


def unreadable(path: str | Path, kind: str, error: BaseException) -> InputError:
    """The error to raise in place of a reader's: file, kind, and what the reader says in a line."""
    return InputError(f"{path}: not a readable {kind} file: {first_line(error)}")
