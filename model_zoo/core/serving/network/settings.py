"""How a service runs: what it serves, where, and within which limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

FOLLOW_SECONDS = 0.2
"""How often a process looks for changes that another one has made."""


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may take.

    Args:
        batch_wait_ms: How long a request waits for others that are scored with it. While a batch
            is scored the next one gathers in any case.
        max_batch_rows: Rows (candidates) that are scored together; a larger request is a batch
            of its own.
        max_queue_rows: Rows that may wait; further requests are refused with 503.
        max_rows: Rows of one request.
        max_weights: Attention weights of one answer (rows times history items).
        max_body_bytes: Of one request.
        max_open_bytes: Of all bodies that are read or answered at a time; likewise of all answers
            of more than 64 KiB that wait for their clients.
        body_seconds: How long a client may take to send a body.
        deadline_ms: Until when a request wants its answer that does not say so; ``None`` is any
            time.
    """

    batch_wait_ms: float = 0.0
    max_batch_rows: int = 1_024
    max_queue_rows: int = 49_152
    max_rows: int = 10_000
    max_weights: int = 1_000_000
    max_body_bytes: int = 8 * 2**20
    max_open_bytes: int = 32 * 2**20
    body_seconds: float = 10.0
    deadline_ms: float | None = None


@dataclass(frozen=True)
class Settings:
    """Of one server.

    Args:
        folded: The folded file.
        token: What requests that change something have to show; ``None`` refuses them all.
        host: Address to listen on.
        port: 0 is any free one.
        workers: Processes.
        threads: Of each process, for its products.
        device: Where the model computes.
        limits: See there.
        titles: csv file with what the page calls items.
    """

    folded: Path
    token: str | None = field(default=None, repr=False)
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    threads: int = 1
    device: str = "cpu"
    limits: Limits = field(default_factory=Limits)
    titles: Path | None = None
