"""A file of changes: each is on disk before it is answered, and replayed at a start.

A line for each record: the length of its text and that text's CRC-32, eight hex digits each, and
the text, JSON without line breaks. The first record says which folded file the changes belong to.
What follows the last line break is a record that was cut: its writer was killed before it answered.

Records are appended. Now and then the whole file is replaced by one with fewer records that leave
all items the same; its first record says how many changes they stand for, so whoever has made
these goes on behind them.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from model_zoo.core.errors import InputError
from model_zoo.core.files import write_aside
from model_zoo.core.serving.network.compaction import compacted

FORMAT, VERSION = "qin-journal", 1
WORTH = 1_000  # records from which on they are compacted
_HEAD = 18  # "llllllll cccccccc "


class Rewritten(Exception):
    """The file begins with records that stand for changes of which not all were read."""


class _Compacted(NamedTuple):
    """The first records of a file, which stand for changes that were there before.

    Attributes:
        records: How many they are.
        bytes: Of their lines.
        changes: How many changes they stand for.
    """

    records: int = 0
    bytes: int = 0
    changes: int = 0


class Journal:
    """The changes of the items of one folded file.

    Reading needs no lock. Whoever appends or compacts holds one that keeps other writers out, and
    has read everything before.

    Args:
        path: The file; it need not be there yet.
        digest: Of the folded file.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self.path = path
        self._digest = digest
        self._seen: tuple[int, ...] = ()  # how the file was when all of it had been read
        self._end = 0  # of the records that were read
        self._read = 0  # records of the file, but for its first one
        self._first = _Compacted()

    @property
    def records(self) -> int:
        """Changes since the file was folded, as far as they were read."""
        return self._read + self._first.changes - self._first.records

    def new(self) -> list[dict[str, Any]]:
        """The records since the last call, all that are complete.

        Raises:
            InputError: If one is damaged, or the file belongs to another folded file.
            Rewritten: If they cannot be told from those that were read; begin anew.
        """
        try:
            with open(self.path, "rb") as file:
                found = os.fstat(file.fileno())
                seen = found.st_ino, found.st_size, found.st_mtime_ns
                if seen == self._seen:
                    return []
                if self._end:
                    self._go_on(file, found.st_size)
                file.seek(self._end)
                content = file.read()
        except FileNotFoundError:
            if self._end:
                raise InputError(f"{self.path}: was removed while it was served") from None
            return []
        records = []
        for line in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
            record = self._record(line, self._read + 1 if self._end else 0)
            if self._end == 0:
                self._require_own(record)
                self._first = _Compacted(**record.get("compacted", {}))
            else:
                records.append(record)
                self._read += 1
            self._end += len(line)
        self._seen = seen
        return records

    def _go_on(self, file: BinaryIO, size: int) -> None:
        """Stay behind what was read, also in a file that has replaced the one it was read from."""
        line = file.readline()
        if line.endswith(b"\n"):
            header = self._record(line, 0)
            self._require_own(header)
            first = _Compacted(**header.get("compacted", {}))
            if first != self._first:
                if first.changes != self.records:
                    raise Rewritten
                self._first, self._read = first, first.records
                self._end = len(line) + first.bytes
        if size < self._end:
            raise InputError(
                f"{self.path}: has {size:,} bytes, expected at least {self._end:,}: it was "
                "cut while it was served; restore it from a copy"
            )

    def compact(self) -> bool:
        """Replace the file by a shorter one that says the same, if that is worth it.

        It is under the file's name only when it is on disk; whenever this ends, there is the old
        file or the new one. A cut last record has to be dropped before.

        Returns:
            Whether it was done.

        Raises:
            InputError: As :meth:`new`.
            OSError: If it cannot be written; the file is the old one then, or the new one.
        """
        whole = Journal(self.path, self._digest)
        records = whole.new()
        old = whole._first.records
        if whole._read - old < max(WORTH, old) or self.path.stat().st_size > whole._end:
            return False
        kept = compacted(records)
        lines = b"".join(map(_line, kept))
        first = _Compacted(len(kept), len(lines), whole.records)
        # What a writer left that was killed: the lock is held, so nobody is at it.
        for left in self.path.parent.glob(f".{self.path.stem}.partial-*"):
            left.unlink()
        with write_aside(self.path) as partial, open(partial, "wb") as file:
            file.write(_line(self._header() | {"compacted": first._asdict()}))
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.path.parent)
        if self._end:
            self.new()
        return True

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
        self._read += 1

    def _header(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, "digest": self._digest}

    def _record(self, line: bytes, number: int) -> dict[str, Any]:
        text = line[_HEAD:-1]
        if line[:_HEAD] != _head(text):
            start = self._end if number else 0
            raise InputError(
                f"{self.path}: record {number} at byte {start:,} is damaged: length and checksum "
                "do not fit; restore the file from a copy, or keep only what stands before it: "
                f"truncate -s {start} '{self.path}'"
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
