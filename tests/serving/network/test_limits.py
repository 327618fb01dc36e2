"""What is refused for its size, its time, or because there is too much of it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from model_zoo.core.serving.network.app import build_app
from model_zoo.core.serving.network.models import Served
from model_zoo.core.serving.network.service import score_batch
from model_zoo.core.serving.network.settings import Limits
from tests.serving.network.conftest import REQUEST, client_of, make_service
from tests.serving.network.test_app import SMALL, ask


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(6_000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("in vain")


class Held(NamedTuple):
    """Scoring that says when it has begun, and waits until it may go on."""

    begun: threading.Event
    go: threading.Event


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    events = Held(threading.Event(), threading.Event())

    def blocked(served: Served, requests: Sequence[Any]) -> Sequence[Any]:
        events.begun.set()
        assert events.go.wait(60)
        return score_batch(served, requests)

    monkeypatch.setattr("model_zoo.core.serving.network.service.score_batch", blocked)
    return events


def test_a_full_queue_is_said_before_a_body_is_read(folded: Path, held: Held) -> None:
    """Three times what fits: the rest is refused at once, and afterwards all is as before."""
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read += 1
        yield json.dumps(REQUEST).encode()

    async def run() -> list[httpx.Response]:
        service = make_service(folded, Limits(max_queue_rows=12, max_batch_rows=3))
        async with client_of(service) as client:
            first = [asyncio.create_task(client.post("/score", json=REQUEST))]
            assert await asyncio.to_thread(held.begun.wait, 60)
            first += [asyncio.create_task(client.post("/score", json=REQUEST)) for _ in range(4)]
            await until(lambda: b"qin_waiting_rows 12.0" in service.metrics.text())
            late = await asyncio.gather(*(client.post("/score", content=body()) for _ in range(10)))
            busy = await client.get("/health")
            held.go.set()
            return [*late, *await asyncio.gather(*first), busy]

    *answers, busy = asyncio.run(run())
    late, first = answers[:10], answers[10:]
    assert {answer.status_code for answer in late} == {503} and read == 0
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in late)
    assert [answer.status_code for answer in (*first, busy)] == [200] * 6


def test_a_deadline_that_has_passed_is_said(folded: Path, held: Held) -> None:
    async def run() -> list[httpx.Response]:
        service = make_service(folded, Limits(deadline_ms=60_000))
        async with client_of(service) as client:
            first = asyncio.create_task(client.post("/score", json=REQUEST))
            assert await asyncio.to_thread(held.begun.wait, 60)
            asked = client.post("/score", json=REQUEST | {"deadline_ms": 20})
            hasty = asyncio.create_task(asked)
            await until(lambda: b"qin_waiting_rows 3.0" in service.metrics.text() or hasty.done())
            await asyncio.sleep(0.05)
            held.go.set()
            return list(await asyncio.gather(first, hasty))

    first, hasty = asyncio.run(run())
    assert (first.status_code, hasty.status_code) == (200, 503)
    assert "deadline" in hasty.json()["detail"]


# --- bodies


async def pieces(count: int, size: int, wait: float = 0) -> AsyncIterator[bytes]:
    for _ in range(count):
        await asyncio.sleep(wait)
        yield b" " * size


def test_bodies_are_refused_while_they_arrive(folded: Path) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 1_000

    large, announced, right = ask(
        folded,
        ("POST", "/score", {"content": endless()}),
        ("POST", "/score", {"content": b"", "headers": {"content-length": str(10**9)}}),
        ("POST", "/score", {"json": REQUEST}),
        limits=SMALL,
    )
    (slow,) = ask(
        folded,
        ("POST", "/score", {"content": pieces(50, 1, wait=0.05)}),
        limits=Limits(body_seconds=0.2),
    )
    assert [answer.status_code for answer in (large, announced, slow, right)] == [
        413,
        413,
        408,
        200,
    ]
    assert sent <= 22  # one more than fits, and what the client had ready
    for answer in (large, announced, slow):
        assert answer.headers["connection"] == "close"
        assert answer.headers["content-type"] == "application/problem+json"


def test_all_bodies_together_are_bounded(folded: Path) -> None:
    limits = Limits(max_body_bytes=20_000, max_open_bytes=25_000)

    async def run() -> list[httpx.Response]:
        async with client_of(make_service(folded, limits)) as client:
            slow = [
                asyncio.create_task(client.post("/score", content=pieces(9, 2_000, wait=0.02)))
                for _ in range(2)
            ]
            answers = await asyncio.gather(*slow)
            return [*answers, await client.post("/score", json=REQUEST)]

    *slow, right = asyncio.run(run())
    assert sorted(answer.status_code for answer in slow) == [400, 503]
    assert right.status_code == 200


def test_answers_that_are_not_read_are_bounded(folded: Path) -> None:
    """The server's ``send`` waits for the client; meanwhile large ones are refused, no others."""
    large = REQUEST | {"candidates": [1, 2, 7] * 1_000, "explain": True}

    async def run() -> list[int]:
        app = build_app(make_service(folded, Limits(max_open_bytes=200_000)), None)
        sent: list[dict[str, Any]] = []
        read = asyncio.Event()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": json.dumps(large).encode()}

        async def send(message: Any) -> None:
            if len(sent) == 2:
                await read.wait()
            sent.append(message)

        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as client,
        ):
            scope = {"type": "http", "method": "POST", "path": "/score", "headers": []}
            unread = asyncio.create_task(app(scope, receive, send))
            await until(lambda: len(sent) == 2)
            answers = [await client.post("/score", json=asked) for asked in (large, REQUEST)]
            assert "answers that were not read" in answers[0].json()["detail"]
            read.set()
            await unread
            whole = json.loads(b"".join(message.get("body", b"") for message in sent))
            assert len(whole["weight"]) == 3_000 and not sent[2]["more_body"]
            answers.append(await client.post("/score", json=large))
            assert answers[2].json() == whole
            return [answer.status_code for answer in answers]

    assert asyncio.run(run()) == [503, 200, 200]
