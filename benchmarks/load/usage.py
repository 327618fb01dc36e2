"""What a server's processes take, and what the scorer takes in process."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from statistics import median
from typing import Any

import psutil

from model_zoo.core.errors import InputError
from model_zoo.core.serving.scorer import Scorer
from model_zoo.core.serving.users import UserRequest

MIB = 2**20
_MEAN = re.compile(r"^qin_batch_requests_(sum|count) (\S+)$", re.M)


def _of_each(pid: int, figure: Callable[[psutil.Process], Any]) -> list[Any]:
    """Of a process and all that it started, as far as they run."""
    first, found = psutil.Process(pid), []
    for process in [first, *first.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            found.append(figure(process))
    return found


def cpu_seconds(pid: int) -> float:
    """Of user and system, of all its processes that run now."""
    found = _of_each(pid, lambda process: process.cpu_times())
    return sum(times.user + times.system for times in found)


def resident(pid: int) -> float:
    """MiB, of all its processes together; pages that they share count for each."""
    return sum(_of_each(pid, lambda process: process.memory_info().rss)) / MIB


def batch_counts(metrics: str) -> tuple[float, float]:
    """Requests that have been scored, and batches, from ``GET /metrics``."""
    found = {name: float(value) for name, value in _MEAN.findall(metrics)}
    return found.get("sum", 0.0), found.get("count", 0.0)


def scorer_rate(
    scorer: Scorer, requests: Sequence[UserRequest], together: int, seconds: float
) -> float:
    """Rows per CPU second in this process, the median of five parts.

    Args:
        scorer: What scores.
        requests: As lists or as tensors.
        together: How many are scored at a time.
        seconds: In all.
    """
    batches = [
        [requests[(start + i) % len(requests)] for i in range(together)]
        for start in range(0, len(requests), together)
    ]
    rows = len(requests[0].candidates) * together
    _score(scorer, batches[0])
    rates = []
    for _ in range(5):
        stop = time.perf_counter() + seconds / 5
        done, cpu = 0, time.process_time()
        while time.perf_counter() < stop or done < 2:
            _score(scorer, batches[done % len(batches)])
            done += 1
        rates.append(done * rows / (time.process_time() - cpu))
    return median(rates)


def _score(scorer: Scorer, batch: list[UserRequest]) -> None:
    for answer in scorer.score_users(batch):
        if isinstance(answer, InputError):
            raise answer
