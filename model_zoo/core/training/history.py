"""The evaluations of a training, as ``<expid>.history.csv`` has them."""

from __future__ import annotations

import csv
from pathlib import Path


def read_evaluations(path: Path) -> list[dict[str, float]]:
    """The evaluations so far, each with its ``epoch``; none where no file is."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return [
            {name: float(value) if value else float("nan") for name, value in row.items()}
            for row in csv.DictReader(file)
        ]
