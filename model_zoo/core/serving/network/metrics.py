"""What a service counts, for Prometheus."""

from __future__ import annotations

import os
import re
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

SECONDS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2, 4, 8)
ROWS = (1, 4, 16, 64, 256, 1_024, 4_096, 16_384)
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable: where the processes of one server count together."""


class Metrics:
    """Counters of one process, or of all that share a folder."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "qin_requests", "Answered requests", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "qin_request_seconds",
            "From a request's first byte to its answer",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.waiting_rows = Gauge(
            "qin_waiting_rows",
            "Rows in the queue",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.items = Gauge(
            "qin_items",
            "Items that can be scored",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._batch_rows = Histogram(
            "qin_batch_rows", "Rows scored together", buckets=ROWS, registry=registry
        )
        self._batch_requests = Histogram(
            "qin_batch_requests", "Requests scored together", buckets=ROWS[:5], registry=registry
        )
        self._batch_seconds = Histogram(
            "qin_batch_seconds", "Scoring one batch", buckets=SECONDS, registry=registry
        )
        self.changes = Counter(
            "qin_changes", "Changes of items or of the model", ["kind"], registry=registry
        )

    def batch(self, rows: int, requests: int, seconds: float) -> None:
        """Count a batch."""
        self._batch_rows.observe(rows)
        self._batch_requests.observe(requests)
        self._batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        folder = os.environ.get(FOLDER)
        if folder is None:
            return generate_latest(self._registry)
        _forget_dead(Path(folder))
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together, folder)  # type: ignore[no-untyped-call]
        return generate_latest(together)


def _forget_dead(folder: Path) -> None:
    """Gauges of processes that have ended, killed ones too, no longer count."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = re.search(r"_(\d+)\.db$", file.name)
        if pid and not Path(f"/proc/{pid[1]}").exists() and Path("/proc/self").exists():
            multiprocess.mark_process_dead(pid[1], str(folder))  # type: ignore[no-untyped-call]
