"""What a training step frees is kept for the next one."""

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
    try:
        libc = ctypes.CDLL(None)
        tune, trim = libc.mallopt, libc.malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library
        yield
        return
    tune(_M_MMAP_MAX, 0)
    tune(_M_TRIM_THRESHOLD, -1)  # never
    try:
        yield
    finally:
        # glibc's defaults; the threshold is where its own adjustment ends up.
        tune(_M_MMAP_MAX, _DEFAULT_MMAP_MAX)
        tune(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        tune(_M_TRIM_THRESHOLD, 2 * _LARGEST_MMAP_THRESHOLD)
        trim(0)
