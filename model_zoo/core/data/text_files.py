"""Text files that may be compressed; their names tell: ``log.csv``, ``log.csv.gz``."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

import pyarrow as pa

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
_PIECE = 1 << 20  # bytes
DELIMITERS = {".csv": ",", ".tsv": "\t"}


def table_suffix(path: str | os.PathLike[str]) -> str:
    """The suffix that tells a file's form, in lower case.

    Example:
        >>> table_suffix("data/log.CSV.gz"), table_suffix("a.parquet"), table_suffix("b.gz")
        ('.csv', '.parquet', '.gz')
    """
    name = Path(path)
    if name.suffix.lower() in COMPRESSIONS:
        return Path(name.stem).suffix.lower() or name.suffix.lower()
    return name.suffix.lower()


def open_text(path: str | os.PathLike[str]) -> pa.NativeFile:
    """A stream of a file's bytes, decompressed if its name says so.

    Raises:
        OSError: It cannot be opened. Reading raises it where the compressed data is cut off or
            damaged.
    """
    return pa.input_stream(os.fspath(path), COMPRESSIONS.get(Path(path).suffix.lower()))


def require_utf8(path: str | os.PathLike[str]) -> None:
    """Read a text once; pyarrow does not say where a byte is none of UTF-8.

    Raises:
        OSError: As :func:`open_text`.
        UnicodeError: Names the line, from 1.
    """
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    with open_text(path) as file:
        while True:
            piece = file.read(_PIECE)
            try:
                decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                line += error.object.count(b"\n", 0, error.start)
                byte = error.object[error.start]
                raise UnicodeError(
                    f"'utf-8' codec can't decode byte 0x{byte:02x} in line {line}: {error.reason}"
                ) from None
            if not piece:
                return
            line += piece.count(b"\n")


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a text; blank ones at its end are left out.

    Raises:
        OSError: As :func:`open_text`.
        UnicodeDecodeError: It is not UTF-8.
    """
    with open_text(path) as file:
        text = file.read().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    # Not splitlines: an id may hold what Unicode calls a line's end.
    lines: list[str] = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines
