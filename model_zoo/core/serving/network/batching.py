"""Requests that arrive together are scored together, in a thread beside the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from model_zoo.core.serving.network.metrics import Metrics
from model_zoo.core.serving.network.refusals import Refusal
from model_zoo.core.serving.network.settings import Limits

_MEMORY = 0.9  # of the time that a row takes: what an earlier batch weighs beside the next
_Work = TypeVar("_Work")
_Result = TypeVar("_Result")
_Work_contra = TypeVar("_Work_contra", contravariant=True)
_Result_co = TypeVar("_Result_co", covariant=True)


@dataclass(frozen=True, eq=False)
class _Waiting(Generic[_Work]):
    work: _Work
    rows: int
    arrived: float
    deadline: float | None
    answer: asyncio.Future[Any]


class Batches(Protocol[_Work_contra, _Result_co]):
    """What gathers work and does it together; see :class:`Batcher`."""

    def start(self) -> None: ...

    async def stop(self) -> None: ...

    def require_room(self) -> None: ...

    async def submit(self, work: _Work_contra, rows: int, deadline: float | None) -> _Result_co: ...


class Batcher(Generic[_Work, _Result]):
    """Gathers work from an event loop and does it in one thread, as much as fits at a time.

    The queue is bounded: what does not fit, or would be late, is refused at once.

    Args:
        score: Does a batch: a result for each, or an exception in its place.
        limits: Of a batch and of the queue.
        metrics: Where batches and waiting rows are counted.
    """

    def __init__(
        self,
        score: Callable[[Sequence[_Work]], Sequence[_Result | Exception]],
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self._score, self._limits, self._metrics = score, limits, metrics
        self._queue: deque[_Waiting[_Work]] = deque()
        self._changed = threading.Condition()
        self._waiting_rows = 0
        self._scoring_rows = 0
        self._seconds = self._rows = 0.0  # of recent batches, older ones weighing less
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)
        self._loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        """Begin; to be called in the event loop that submits work."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """End when what is waiting has been done."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    def require_room(self) -> None:
        """Refuse now what would be refused later, before any work on it.

        Raises:
            Refusal: If the queue is full.
        """
        if self._waiting_rows >= self._limits.max_queue_rows:
            raise self._busy("the queue is full")

    async def submit(self, work: _Work, rows: int, deadline: float | None) -> _Result:
        """The result of a piece of work.

        Args:
            work: What to do.
            rows: How much it is.
            deadline: Of ``time.monotonic``; until when the result is of use.

        Raises:
            Refusal: If the queue has no room, or the result would be late.
        """
        now = time.monotonic()
        answer: asyncio.Future[_Result] = self._loop.create_future()
        with self._changed:
            if self._waiting_rows and self._waiting_rows + rows > self._limits.max_queue_rows:
                raise self._busy("the queue is full")
            if deadline is not None and now + self._ahead() > deadline:
                raise self._busy("it would be answered after its deadline")
            self._queue.append(_Waiting(work, rows, now, deadline, answer))
            self._waiting_rows += rows
            self._changed.notify()
        self._metrics.waiting_rows.set(self._waiting_rows)
        return await answer

    def _ahead(self) -> float:
        """Seconds until the last of what waits now is done, by the pace of recent batches."""
        rows = self._waiting_rows + self._scoring_rows
        return rows * self._seconds / self._rows if self._rows else 0.0

    def _busy(self, why: str) -> Refusal:
        detail = f"too many requests at a time: {why}"
        return Refusal(503, detail, retry_after=self._ahead())

    def _run(self) -> None:
        while batch := self._next():
            started = time.perf_counter()
            try:
                results = self._score([one.work for one in batch])
            except Exception as error:  # no request may wait for ever
                results = [error] * len(batch)
            seconds = time.perf_counter() - started
            rows = sum(one.rows for one in batch)
            self._metrics.batch(rows, len(batch), seconds)
            with self._changed:
                self._scoring_rows = 0
                self._seconds = _MEMORY * self._seconds + seconds
                self._rows = _MEMORY * self._rows + rows
            self._loop.call_soon_threadsafe(_deliver, batch, results)

    def _next(self) -> list[_Waiting[_Work]]:
        """What is scored together next; nothing at the end."""
        wait = self._limits.batch_wait_ms / 1_000
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._queue or self._stopped)
                if not self._queue:
                    return []
                if wait and not self._stopped:
                    left = self._queue[0].arrived + wait - time.monotonic()
                    self._changed.wait_for(self._is_enough, timeout=max(left, 0))
                if batch := self._taken():
                    return batch

    def _is_enough(self) -> bool:
        return self._waiting_rows >= self._limits.max_batch_rows or self._stopped

    def _taken(self) -> list[_Waiting[_Work]]:
        batch: list[_Waiting[_Work]] = []
        rows, now = 0, time.monotonic()
        while self._queue:
            first = self._queue[0]
            if batch and rows + first.rows > self._limits.max_batch_rows:
                break
            self._queue.popleft()
            self._waiting_rows -= first.rows
            if first.deadline is not None and now > first.deadline:
                late = self._busy("its deadline passed while it waited")
                self._loop.call_soon_threadsafe(_deliver, [first], [late])
                continue
            batch.append(first)
            rows += first.rows
        self._scoring_rows = rows
        self._metrics.waiting_rows.set(self._waiting_rows)
        return batch


def _deliver(batch: Sequence[_Waiting[_Work]], results: Sequence[object]) -> None:
    for one, result in zip(batch, results, strict=True):
        if one.answer.done():  # whoever asked has gone
            continue
        if isinstance(result, Exception):
            one.answer.set_exception(result)
        else:
            one.answer.set_result(result)
