"""What runs left: one line of JSON each, in the order in which they ended."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model_zoo.core.errors import InputError

Line = Mapping[str, Any]


class Store:
    """The file with a suite's lines; several threads may add to it.

    A line that was cut off, because the suite was killed while it wrote, does not count.

    Args:
        path: The file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)

    def lines(self) -> list[dict[str, Any]]:
        """All lines; of several with one key the last.

        Raises:
            InputError: If a line other than the last is no JSON.
        """
        if not self.path.is_file():
            return []
        found: dict[str, dict[str, Any]] = {}
        texts = self.path.read_text(encoding="utf-8").splitlines()
        for number, text in enumerate(texts, 1):
            try:
                line = json.loads(text)
            except ValueError:
                if number < len(texts):
                    raise InputError(f"{self.path}: line {number}: not JSON") from None
                continue
            found.pop(line["key"], None)  # so that it moves to the end
            found[line["key"]] = line
        return list(found.values())

    def add(self, line: Line) -> None:
        """Append a line, in place of one that was cut off."""
        with self._lock, self.path.open("ab+") as file:
            size = file.seek(0, 2)
            file.seek(0)
            content = file.read(size)
            if not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def best_trial(lines: Sequence[Line], dataset: str, name: str) -> Line | None:
    """The search's trial with the best valid AUC; ``None`` if none has finished."""
    trials = [
        line
        for line in lines
        if (line["dataset"], line["name"], line["phase"]) == (dataset, name, "search")
        and line["status"] == "finished"
    ]
    return max(trials, key=lambda line: float(line["metrics"]["AUC"]), default=None)
