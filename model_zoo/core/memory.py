"""What a training step or a batch of requests frees is kept for the next one."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_DEFAULT_MMAP_MAX, _LARGEST_MMAP_THRESHOLD = 65_536, 32 * 2**20


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Let the C library keep freed memory while the block runs, where that is glibc.

    glibc returns large tensors to the system as soon as they are freed, so at every step of a
    training on the CPU the system clears all their pages again, which takes a fifth of the
    time. Torch's CUDA allocator keeps memory by itself.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_MAX, _DEFAULT_MMAP_MAX)
        keep_freed_pieces()
        libc.malloc_trim(0)


def keep_freed_pieces() -> None:
    """Let the C library keep freed tensors of up to 32 MiB from now on, where that is glibc.

    That is where its own adjustment ends up, if a process happens to free tensors of all sizes
    below. Larger ones, such as tables of items, go back to the system.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_MMAP_THRESHOLD)


def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
        return libc if libc.mallopt and libc.malloc_trim else None
    except (AttributeError, OSError, TypeError):  # another C library
        return None
