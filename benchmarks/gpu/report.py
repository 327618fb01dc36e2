"""The figures as a file that grows and as a table."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.checks import Check
from benchmarks.gpu.worker import PartError
from model_zoo.core.files import write_aside

MINUTES_TO_END = 0.75


class Report:
    """Figures by part, written at once.

    Args:
        path: The JSON file; ``None`` writes none.
        minutes: After which no further part begins; one that is still at work
            ``MINUTES_TO_END`` later is ended.
    """

    def __init__(self, path: Path | None, minutes: float) -> None:
        self._path, self._start, self._minutes = path, time.monotonic(), minutes
        self.content: dict[str, Any] = {
            "device": "unknown",
            "torch": torch.__version__,
            "left out": [],
        }
        self.failed = 0

    @property
    def seconds_left(self) -> float:
        """Until a part is ended."""
        return 60 * (self._minutes + MINUTES_TO_END) - (time.monotonic() - self._start)

    def machine(self, part: str, found: dict[str, Any]) -> None:
        """What is measured, at the head of the file."""
        print("  " + ", ".join(f"{name} {value}" for name, value in found.items()))
        self.content.update(found)
        self._write()

    def begins(self, part: str) -> bool:
        """Whether there is time for a part; if not, it is named in the file."""
        if time.monotonic() - self._start < 60 * self._minutes:
            print(f"[{time.monotonic() - self._start:5.0f} s] {part}", flush=True)
            return True
        self.content["left out"].append(part)
        self._write()
        return False

    def checks(self, part: str, found: list[Check]) -> None:
        for check in found:
            self.failed += not check.holds
            mark = "ok  " if check.holds else "FAIL"
            print(f"  {mark} {check.name}: {check.found:.3g}, at most {check.allowed:.3g}")
        self.content.setdefault("checks", {})[part] = [
            check._asdict() | {"holds": check.holds} for check in found
        ]
        self._write()

    def failure(self, part: str, error: PartError) -> None:
        """A part that has no result; the others go on."""
        self.failed += 1
        print(f"  FAIL {error}", flush=True)
        self.content.setdefault("errors", {})[part] = str(error)
        self._write()

    def figures(self, part: str, found: dict[str, Any]) -> None:
        """Figures of a part."""
        self.content[part] = found
        for name, value in found.items():
            print(f"  {name}: {_shown(value)}")
        self._write()

    def _write(self) -> None:
        self.content["seconds"] = time.monotonic() - self._start
        if self._path is not None:
            with write_aside(self._path) as partial:
                partial.write_text(json.dumps(self.content, indent=1), encoding="utf-8")


def table(content: dict[str, Any]) -> str:
    """Parts that have a line of the same figures for each variant, as Markdown."""
    lines = [f"{content['device']}, torch {content['torch']}"]
    for part, found in content.items():
        figures = list(found.values()) if isinstance(found, dict) else []
        if not figures or not all(isinstance(line, dict) for line in figures):
            continue
        columns = list(figures[0])
        if any(list(line) != columns for line in figures):
            continue
        lines += ["", f"| {part} | " + " | ".join(columns) + " |"]
        lines.append("|---" * (len(columns) + 1) + "|")
        lines += [
            f"| {name} | " + " | ".join(map(_rounded, line.values())) + " |"
            for name, line in found.items()
        ]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items())
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
