"""An append-only file of changes: each is on disk before it is answered, and replayed at a start.

A line for each record: the length of its text and that text's CRC-32, eight hex digits each, and
the text, JSON without line breaks. The first record says which folded file the changes belong to.
What follows the last line break is a record that was cut: its writer was killed before it answered.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

from model_zoo.core.errors import InputError

FORMAT, VERSION = "qin-journal", 1
_HEAD = 18  # "llllllll cccccccc "


class Journal:
    """The changes of the items of one folded file.

    Reading needs no lock. Whoever appends holds one that keeps other writers out, and has read
    everything before.

    Args:
        path: The file; it need not be there yet.
        digest: Of the folded file.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self.path = path
        self._digest = digest
        self._end = 0  # of the records that were read
        self.records = 0  # of changes, of those that were read

    def new(self) -> list[dict[str, Any]]:
        """The records since the last call, all that are complete.

        Raises:
            InputError: If one is damaged, or the file belongs to another folded file.
        """
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size == self._end:
                    return []
                if size < self._end:
                    raise InputError(
                        f"{self.path}: has {size:,} bytes, expected at least {self._end:,}: it was "
                        "cut while it was served; restore it from a copy"
                    )
                file.seek(self._end)
                content = file.read()
        except FileNotFoundError:
            if self._end:
                raise InputError(f"{self.path}: was removed while it was served") from None
            return []
        found = []
        for line in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
            record = self._record(line)
            if self._end == 0:
                self._require_own(record)
            else:
                found.append(record)
                self.records += 1
            self._end += len(line)
        return found

    def drop_cut(self) -> int:
        """Remove a cut last record, if there is one; its number of bytes."""
        try:
            cut = self.path.stat().st_size - self._end
        except FileNotFoundError:
            return 0
        if cut > 0:
            with open(self.path, "r+b") as file:
                file.truncate(self._end)
                os.fsync(file.fileno())
        return cut

    def append(self, record: dict[str, Any]) -> None:
        """Write a record; it is on disk when this returns.

        Raises:
            OSError: If it cannot be written; then the file is as it was.
        """
        lines = [] if self._end else [_line(self._header())]
        lines.append(_line(record))
        content = b"".join(lines)
        with open(self.path, "ab", buffering=0) as file:
            try:
                written = 0
                while written < len(content):
                    written += file.write(content[written:])
                os.fsync(file.fileno())
            except OSError:
                file.truncate(self._end)
                raise
        if not self._end:
            sync_folder(self.path.parent)
        self._end += len(content)
        self.records += 1

    def _header(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, "digest": self._digest}

    def _record(self, line: bytes) -> dict[str, Any]:
        text = line[_HEAD:-1]
        if line[:_HEAD] != _head(text):
            where = f"record {self.records + 1} at byte {self._end:,}"
            raise InputError(
                f"{self.path}: {where} is damaged: length and checksum do not fit; restore the "
                f"file from a copy, or keep only what stands before it: truncate -s {self._end} "
                f"'{self.path}'"
            )
        record: dict[str, Any] = json.loads(text)
        return record

    def _require_own(self, header: dict[str, Any]) -> None:
        if header.get("format") != FORMAT:
            raise InputError(f"{self.path}: not a journal of a service")
        if header["version"] > VERSION:
            raise InputError(
                f"{self.path}: version {header['version']}, expected at most {VERSION}: it was "
                "written by a newer release"
            )
        if header["digest"] != self._digest:
            raise InputError(
                f"{self.path}: belongs to the folded file {header['digest']}, expected "
                f"{self._digest}"
            )


def _head(text: bytes) -> bytes:
    return b"%08x %08x " % (len(text), zlib.crc32(text))


def _line(record: dict[str, Any]) -> bytes:
    text = json.dumps(record, allow_nan=False).encode("ascii")
    return _head(text) + text + b"\n"


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
