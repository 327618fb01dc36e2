"""Freed memory is kept while a training runs, instead of being cleared anew."""

from __future__ import annotations

import ctypes
import platform
import resource

import pytest
import torch

from model_zoo.core.training.memory import keep_freed_memory


def new_pages(steps: int = 20) -> int:
    """Pages that the system cleared for tensors made and freed one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        torch.ones(2**24)  # 64 MiB, above every threshold of glibc's
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_pages_are_used_again() -> None:
    returned = new_pages()
    with keep_freed_memory():
        new_pages(steps=1)
        assert 5 * new_pages() < returned


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with keep_freed_memory():
        assert float(torch.ones(3).sum()) == 3
