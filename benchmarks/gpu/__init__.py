"""Checks and measures a CUDA device: ``python -m benchmarks.gpu --help`` says how."""

from benchmarks.gpu.command import main

__all__ = ["main"]
