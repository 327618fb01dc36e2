"""What a training step or a batch of requests frees is kept for the next one, within limits."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_DEFAULT_MMAP_MAX, _LARGEST_MMAP_THRESHOLD = 65_536, 32 * 2**20

# Of oneDNN, and of torch's layer over it; each keeps 1,024 shapes by default.
KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_KEPT_KERNELS = 64  # more than the products of a step have shapes


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


def keep_few_kernels() -> None:
    """Let oneDNN keep the kernels of 64 shapes, unless the environment says how many.

    It keeps each with memory of the shape's size. Packed histories have another length in every
    batch, so the kernels of most shapes are never used again: with the default of 1,024 shapes
    a training in bf16 on a CPU grows by gigabytes an epoch. It has to be said before the first
    product of a process.
    """
    for name in KERNEL_CACHES:
        os.environ.setdefault(name, str(_KEPT_KERNELS))


def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
        return libc if libc.mallopt and libc.malloc_trim else None
    except (AttributeError, OSError, TypeError):  # another C library
        return None
