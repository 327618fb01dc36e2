"""Clients in a process of their own: closed loops, or requests at a fixed rate."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import aiohttp

TIMEOUT_SECONDS = 30
MOST_OPEN = 1_000  # connections at a fixed rate; beyond them a request counts as not sent


@dataclass(frozen=True)
class Work:
    """What is sent, over and over.

    Attributes:
        url: Where to.
        bodies: Sent in random order.
        media_type: Theirs.
    """

    url: str
    bodies: Sequence[bytes]
    media_type: str


@dataclass
class Outcome:
    """What came back.

    Attributes:
        answered: Seconds of each request that was answered with 200.
        refused: Seconds of each that was answered with 503.
        failures: All else, counted by what it was.
        seconds: How long all of it took.
        cpu: Seconds of CPU that the clients took.
    """

    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    cpu: float = 0.0


@contextmanager
def client_process() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        yield process


def closed_loop(work: Work, concurrency: int, seconds: float) -> Outcome:
    """So many clients, each of which sends its next request when it has an answer."""

    async def client(outcome: Outcome, session: aiohttp.ClientSession, stop: float) -> None:
        while time.perf_counter() < stop:
            await _send(outcome, session, work)

    async def run(outcome: Outcome) -> None:
        async with _session() as session:
            stop = time.perf_counter() + seconds
            await asyncio.gather(*(client(outcome, session, stop) for _ in range(concurrency)))

    return _measured(run)


def open_loop(work: Work, rate: float, seconds: float) -> Outcome:
    """So many requests a second, whether those before have been answered or not."""

    async def run(outcome: Outcome) -> None:
        sending: set[asyncio.Task[None]] = set()
        async with _session() as session:
            start = time.perf_counter()
            for number in range(int(rate * seconds)):
                wait = start + number / rate - time.perf_counter()
                if wait > 0:
                    await asyncio.sleep(wait)
                if len(sending) >= MOST_OPEN:
                    outcome.failures["not sent"] += 1
                    await asyncio.sleep(0)
                    continue
                task = asyncio.create_task(_send(outcome, session, work))
                sending.add(task)
                task.add_done_callback(sending.discard)
            await asyncio.gather(*sending)

    return _measured(run)


def _measured(run: Callable[[Outcome], Coroutine[Any, Any, None]]) -> Outcome:
    outcome = Outcome()
    began, cpu = time.perf_counter(), time.process_time()
    asyncio.run(run(outcome))
    outcome.seconds, outcome.cpu = time.perf_counter() - began, time.process_time() - cpu
    return outcome


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
    )


async def _send(outcome: Outcome, session: aiohttp.ClientSession, work: Work) -> None:
    body = random.choice(work.bodies)
    began = time.perf_counter()
    try:
        headers = {"content-type": work.media_type}
        async with session.post(work.url, data=body, headers=headers) as answer:
            await answer.read()
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        outcome.failures[type(error).__name__] += 1
        return
    took = time.perf_counter() - began
    if answer.status == 200:
        outcome.answered.append(took)
    elif answer.status == 503:
        outcome.refused.append(took)
    else:
        outcome.failures[str(answer.status)] += 1
