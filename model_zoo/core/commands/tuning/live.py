"""A search while it runs: one table on a terminal, a line for each event elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model_zoo.core.commands.tuning.records import Record, evaluations, read_record
from model_zoo.core.commands.tuning.trial import Trial

ROWS = 30  # that a terminal has room for


class Progress:
    """Shows where the trials are.

    Args:
        folder: The configuration folder.
        total: How many trials there are.
        slots: How many run at a time.
    """

    def __init__(self, folder: Path, total: int, slots: int) -> None:
        self._folder, self._total, self._slots = folder, total, slots
        self._ended: set[str] = set()
        self._begun: dict[str, tuple[Trial, float, float]] = {}  # and the epoch it went on from
        self._seconds: list[float] = []
        self._live = _live_display()

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def skipped(self, trials: Sequence[Trial]) -> None:
        """Trials that ended before."""
        self._ended |= {trial.expid for trial in trials}

    def noted(self, trial: Trial, record: Record) -> None:
        """A trial began or ended."""
        if record.status == "started":
            seen = evaluations(trial)
            epoch = seen[-1]["epoch"] if seen and record.attempts == 0 else 0.0
            self._begun[trial.expid] = (trial, time.monotonic(), epoch)
            self._ended.discard(trial.expid)  # it is tried again
            return
        self._begun.pop(trial.expid, None)
        self._ended.add(trial.expid)
        self._seconds.append(record.seconds)
        if self._live is None:
            said = record.error[-1] if record.error else _metrics(record)
            place = f"{len(self._ended)}/{self._total}  {trial.expid}  {trial.text()}"
            print(f"{place}  {record.status} on {record.device}: {said}", flush=True)

    def look(self) -> None:
        """Show where the running trials are now."""
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def _table(self) -> Any:
        from rich.table import Table

        table = Table(title=f"{len(self._ended)} of {self._total} trials, {self._left()} left")
        for name in ("trial", "settings", "device", "epoch", "monitor", "time left"):
            table.add_column(name, overflow="fold")
        for trial, start, first in list(self._begun.values())[:ROWS]:
            record = read_record(self._folder, trial.expid)
            table.add_row(trial.expid, trial.text(), record.device, *_progress(trial, start, first))
        return table

    def _left(self) -> str:
        """As long as the trials took so far, for each that is to come."""
        if not self._seconds:
            return "?"
        mean = sum(self._seconds) / len(self._seconds)
        return _duration(mean * (self._total - len(self._ended)) / self._slots)


def _progress(trial: Trial, start: float, first: float) -> tuple[str, str, str]:
    """Epoch, best monitor so far and time left of a running trial."""
    seen, epochs = evaluations(trial), trial.experiment.run.epochs
    if not seen:
        return f"0/{epochs}", "", "?"
    epoch = seen[-1]["epoch"]
    values = [v for v in map(trial.monitor, seen) if not math.isnan(v)]
    best = (min if trial.monitor_mode == "min" else max)(values, default=math.nan)
    trained = epoch - first
    seconds = (time.monotonic() - start) / trained * (epochs - epoch) if trained > 0 else math.nan
    return f"{epoch:g}/{epochs}", f"{best:.6f}", _duration(seconds)


def _metrics(record: Record) -> str:
    metrics = record.metrics.get("valid", {})
    return " - ".join(f"{name}: {value:.6f}" for name, value in metrics.items())


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _live_display() -> Any:
    """Rich's display; ``None`` without a terminal, or without Rich."""
    if not sys.stdout.isatty():
        return None
    try:
        from rich.live import Live
    except ImportError:
        return None
    return Live(auto_refresh=False)
