"""The figures as a file that grows and as a table."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.checks import Check
from model_zoo.core.files import write_aside


class Report:
    """Figures by part, written at once.

    Args:
        path: The JSON file; ``None`` writes none.
        device: What is measured.
        minutes: After which no further part begins.
    """

    def __init__(self, path: Path | None, device: torch.device, minutes: float) -> None:
        self._path, self._start, self._minutes = path, time.monotonic(), minutes
        cuda = device.type == "cuda"
        self.content: dict[str, Any] = {
            "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or "CPU",
            "torch": torch.__version__,
            "cuda": torch.version.cuda if cuda else None,
            "left out": [],
        }
        self.failed = 0

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

    def failure(self, part: str, error: Exception) -> None:
        """A part that ended with an error; the others go on."""
        self.failed += 1
        text = f"{type(error).__name__}: {error}"
        print(f"  FAIL {text}")
        self.content.setdefault("errors", {})[part] = text
        self._write()

    def figures(self, part: str, found: dict[str, Any]) -> None:
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
            f"| {name} | " + " | ".join(f"{value:,.3g}" for value in line.values()) + " |"
            for name, line in found.items()
        ]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items())
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
