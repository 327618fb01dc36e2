"""One writer at a time: a lock of the kernel's, which is gone when its process is."""

from __future__ import annotations

import functools
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_zoo.core.errors import InputError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)


@contextmanager
def held(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Hold the lock file ``path`` for this process, or refuse at once.

    The file has the process id and the host of its holder, and is removed at the end. One that
    a killed process left does not lock anything. Where the platform or the file system has no
    such locks, a warning says so once, and the block runs without one.

    Args:
        path: The lock file; its folder exists.
        what: What is being written, for the message.

    Raises:
        InputError: Another process holds it, or the file cannot be written.
    """
    lock = Path(path)
    if fcntl is None:
        _say_unlocked("this platform has no file locks")
        yield
        return
    handle = _open_locked(lock, what)
    try:
        yield
    finally:
        if handle is not None:
            # While it is still locked: whoever waits for this file then finds another, or none.
            lock.unlink(missing_ok=True)
            os.close(handle)


def _open_locked(lock: Path, what: str) -> int | None:
    """The locked file, or ``None`` where the file system has no locks."""
    while True:
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(f"{lock}: cannot be written: {error.strerror}") from None
        kept = False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its holder may have removed it between the two calls above.
            kept = _is_at(handle, lock)
            if kept:
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"{os.getpid()} {socket.gethostname()}".encode(), 0)
                return handle
        except BlockingIOError:
            owner = os.pread(handle, 1000, 0).decode(errors="replace").partition(" ")
            holder = f"process {owner[0]} on {owner[2]}" if owner[2] else "another process"
            raise InputError(
                f"{what} is being written by {holder}; wait for it, or end it ({lock})"
            ) from None
        except OSError as error:
            _say_unlocked(f"{lock}: {error.strerror}")
            return None
        finally:
            if not kept:
                os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@functools.cache
def _say_unlocked(reason: str) -> None:
    logger.warning("No lock is held (%s): do not run one experiment twice at once", reason)
