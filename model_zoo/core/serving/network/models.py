"""The model that is served: scored, its items changed, exchanged for another, followed on disk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from model_zoo import folded_name
from model_zoo.core.errors import InputError
from model_zoo.core.files import sha256
from model_zoo.core.serving.file import FoldedFile, load_folded
from model_zoo.core.serving.network.journal import Journal, Rewritten
from model_zoo.core.serving.network.state import Current, State
from model_zoo.core.serving.scorer import Scorer

logger = logging.getLogger(__name__)
_DIGITS = 16


@dataclass
class Served:
    """A folded file with the changes of its items.

    Attributes:
        path: The folded file.
        digest: The first 16 hex digits of its SHA-256.
        file: What it holds.
        scorer: What scores it.
        journal: The changes of its items.
        loaded: When.
    """

    path: Path
    digest: str
    file: FoldedFile
    journal: Journal
    scorer: Scorer = field(init=False)
    loaded: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    def __post_init__(self) -> None:
        self.scorer = Scorer(self.file)

    @property
    def name(self) -> str:
        """Of the model."""
        return folded_name(type(self.file.folded))

    def catch_up(self) -> None:
        """Make the changes that are in the journal since the last call.

        Raises:
            Rewritten: If it does not say which they are.
        """
        for record in self.journal.new():
            with self.scorer.putting_items(record["ids"], record["features"]):
                pass


class Models:
    """The served model of one process, which other processes may change too.

    Whoever scores takes ``served`` once for all that belongs together. Everything else is for
    one thread at a time, and waits for its turn.

    Args:
        path: The folded file that the service is started with.
        writable: Whether items and models may be changed.
        device: Where the model computes.

    Raises:
        InputError: If the file, or what an earlier run left beside it, is wrong.
    """

    def __init__(self, path: Path, *, writable: bool, device: str = "cpu") -> None:
        path = path.absolute()  # not through a link, which may point elsewhere after a reload
        self._folder, self._device = path.parent, torch.device(device)
        self._state = State(path, writable=writable)
        self._turn = threading.Lock()
        self._started_with = _digest(path)
        self._seen = self._state.current()
        goes_on = self._seen and self._seen.started_with == self._started_with
        if self._seen and goes_on:
            path = self._folder / self._seen.file
            if not path.is_file():
                raise InputError(
                    f"{path}: not there; it was the last to be served. Put it back, or remove "
                    f"{self._state.folder / 'current.json'} to serve the file of the command line"
                )
        if not writable:
            self.served = self._loaded(path)
            self.served.catch_up()
            return
        with self._state.locked():
            self._adopt(self._loaded(path))

    def change_items(self, ids: Sequence[Any], features: Mapping[str, Any]) -> tuple[int, Served]:
        """Add the items that are not there, and replace features of the others.

        It is on disk when this returns, and other processes follow.

        Returns:
            How many are new, and the model that has them.

        Raises:
            InputError: If an id or a value does not fit; then nothing changes.
            OSError: If the journal cannot be written; then nothing changes.
        """
        with self._turn, self._state.locked():
            self._follow()
            served = self.served
            self._drop_cut(served)
            with served.scorer.putting_items(ids, features) as added:
                if ids:
                    served.journal.append({"ids": list(ids), "features": dict(features)})
            return added, served

    def reload(self, name: str | None = None) -> Served:
        """Serve another folded file, or the same one as it is now.

        Args:
            name: Of a file in the folder of the file that the service was started with; ``None``
                is the file that is served.

        Raises:
            InputError: If it cannot be served in place of the other; then that stays.
        """
        self.follow()
        path = self.served.path if name is None else self._inside(name)
        fresh = self._loaded(path)
        with self._turn:
            _require_same_inputs(self.served, fresh)
            if not self._state.writable:
                fresh.catch_up()
                self.served = fresh
                return fresh
            with self._state.locked():
                if fresh.digest == self.served.digest and path == self.served.path:
                    self._follow()
                    self._compact(self.served.journal)
                else:
                    self._adopt(fresh)
            return self.served

    def follow(self) -> None:
        """Make the changes that other processes have made.

        Raises:
            InputError: If what they left on disk is damaged.
        """
        with self._turn:
            self._follow()

    def _follow(self) -> None:
        current = self._state.current()
        if current is not None and current != self._seen:
            if current.digest != self.served.digest:
                fresh = self._loaded(self._folder / current.file)
                fresh.catch_up()
                self.served = fresh
                logger.info("Serving %s (%s)", fresh.path, fresh.digest)
            self._seen = current
        try:
            self.served.catch_up()
        except Rewritten:
            # Beside the served one, so that no answer sees a part of a change.
            fresh = self._loaded(self.served.path)
            if fresh.digest != self.served.digest:
                raise InputError(
                    f"{self.served.path}: has changed on disk, and so has its journal; reload it"
                ) from None
            fresh.catch_up()
            self.served = fresh

    def _adopt(self, fresh: Served) -> None:
        """Serve it, and say so to the other processes; the lock is held."""
        self._compact(fresh.journal)
        fresh.catch_up()
        self._drop_cut(fresh)
        current = Current(fresh.path.name, fresh.digest, self._started_with)
        if current != self._state.current():
            self._state.write_current(current)
        self.served, self._seen = fresh, current

    def _compact(self, journal: Journal) -> None:
        """The lock is held."""
        try:
            if journal.compact():
                size = journal.path.stat().st_size
                logger.info("%s: compacted, has %d bytes now", journal.path, size)
        except OSError as error:  # it is only longer than it needs to be
            logger.warning("%s: not compacted: %s", journal.path, error.strerror)

    def _drop_cut(self, served: Served) -> None:
        cut = served.journal.drop_cut()
        if cut:
            logger.warning(
                "%s: dropped %d bytes at its end: a change that was being written when its writer "
                "ended, and that nobody was told was made",
                served.journal.path,
                cut,
            )

    def _inside(self, name: str) -> Path:
        if Path(name).name != name or name in ("", "..") or "\0" in name:
            raise InputError(
                f"file: found {name!r}, expected the name of a file in the folder of the served one"
            )
        return self._folder / name

    def _loaded(self, path: Path) -> Served:
        """A file as it is at one moment, though it may be replaced meanwhile."""
        for _ in range(3):
            before = _identity(path)
            digest = _digest(path)
            file = load_folded(path, self._device)
            if _identity(path) == before:
                return Served(path, digest, file, self._state.journal(digest))
        raise InputError(f"{path}: is being replaced again and again; try later")


def _identity(path: Path) -> tuple[int, int, int]:
    """Changes when a file is replaced or written."""
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _digest(path: Path) -> str:
    try:
        return sha256([path])[:_DIGITS]
    except FileNotFoundError:
        raise InputError(f"{path}: no such folded model") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _require_same_inputs(old: Served, fresh: Served) -> None:
    """Requests that are on their way were written for the old one."""
    before, after = (
        {feature.name: feature.kind for feature in served.file.folded.row_features}
        for served in (old, fresh)
    )
    if before != after:
        raise InputError(
            f"{fresh.path.name}: its context is {after}, expected {before} as of {old.path.name}: "
            "start a service with it instead"
        )
