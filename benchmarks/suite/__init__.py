"""Suites of experiments: many models or variants, data sets and seeds, in one resumable command.

    python -m benchmarks.suite --suite peers --datasets CoLLM_ML1M --seeds 1 2 3 --search

``suites.yaml`` says what each suite runs; ``docs/results.md`` how to run one.
"""

from benchmarks.suite.command import main

__all__ = ["main"]
