"""Freed memory is kept while a training or a service runs, instead of being cleared anew."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import threading

import pytest
import torch

from model_zoo.core.memory import (
    KERNEL_CACHES,
    keep_few_kernels,
    keep_freed_memory,
    keep_freed_pieces,
)

M_MMAP_THRESHOLD = -3
LARGE = 2**24  # 64 MiB as float32, above every threshold of glibc's
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def new_pages(steps: int = 20, size: int = LARGE) -> int:
    """Pages that the system cleared for tensors made and freed one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        torch.ones(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@glibc
def test_pages_are_used_again() -> None:
    returned = new_pages()
    with keep_freed_memory():
        new_pages(steps=1)
        assert 5 * new_pages() < returned


@glibc
def test_pages_of_batches_are_used_again_and_those_of_tables_returned() -> None:
    found: list[int] = []

    def count(size: int) -> None:
        new_pages(steps=12, size=size)  # until the small pieces between are kept
        found.append(new_pages(size=size))

    def pages(size: int) -> int:
        # Other threads have other memory than the first one, in which earlier tests left room.
        thread = threading.Thread(target=count, args=(size,))
        thread.start()
        thread.join()
        return found.pop()

    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**17)  # as a process begins
    returned = pages(LARGE // 4)
    keep_freed_pieces()
    assert 5 * pages(LARGE // 4) < returned
    assert pages(LARGE) > returned


def test_who_says_how_many_kernels_are_kept_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = KERNEL_CACHES
    monkeypatch.setenv(first, "7")
    monkeypatch.delenv(second, raising=False)
    keep_few_kernels()
    assert (os.environ[first], os.environ[second]) == ("7", "64")


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with keep_freed_memory():
        keep_freed_pieces()
        assert float(torch.ones(3).sum()) == 3
