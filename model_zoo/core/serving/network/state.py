"""What the processes of a service share on disk: which file is served, and the changes of items."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from model_zoo.core.errors import InputError, first_line
from model_zoo.core.files import make_folder, require_writable, write_aside
from model_zoo.core.serving.network.journal import Journal, sync_folder


class Current(NamedTuple):
    """What is served.

    Attributes:
        file: Name of the folded file, in the folder of the one that the service was started with.
        digest: Its digest.
        started_with: Digest of the file that the service was started with.
    """

    file: str
    digest: str
    started_with: str


class State:
    """The folder ``<folded file>.service``.

    Args:
        folded: The file that the service was started with.
        writable: Whether this service changes anything; else it only reads what is there.

    Raises:
        InputError: If it has to be writable and is not.
    """

    def __init__(self, folded: Path, *, writable: bool) -> None:
        self.folder = folded.with_name(f"{folded.name}.service")
        self.writable = writable
        self._current = self.folder / "current.json"
        if writable:
            require_writable([], [self.folder])
            make_folder(self.folder)

    def journal(self, digest: str) -> Journal:
        """The changes of the items of a folded file."""
        return Journal(self.folder / f"{digest}.journal", digest)

    def current(self) -> Current | None:
        """What was last served, if anything was written.

        Raises:
            InputError: If the file is damaged.
        """
        try:
            content = self._current.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return Current(**TypeAdapter(dict[str, str]).validate_json(content))
        except (ValidationError, TypeError) as error:
            raise InputError(
                f"{self._current}: damaged ({first_line(error)}); remove it to serve the file that "
                "the service is started with"
            ) from None

    def write_current(self, current: Current) -> None:
        """Say what is served from now on; the caller holds the lock."""
        with write_aside(self._current) as partial, open(partial, "w", encoding="utf-8") as file:
            json.dump(current._asdict(), file)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other processes that change something waiting."""
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
