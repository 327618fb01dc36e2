"""Requests that are scored together get what each would get alone; the queue is bounded."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from model_zoo.core.serving.network.batching import Batcher
from model_zoo.core.serving.network.messages import RowsRequest, ScoreRequest
from model_zoo.core.serving.network.metrics import Metrics
from model_zoo.core.serving.network.refusals import Refusal
from model_zoo.core.serving.network.settings import Limits
from model_zoo.core.serving.scorer import Scorer
from tests.QIN.test_model import ITEMS
from tests.serving.network.conftest import CONTEXT, make_service, write_folded

WAIT = Limits(batch_wait_ms=50, max_batch_rows=100_000, max_queue_rows=100_000)


def items(random: random.Random, count: int, low: int = 1) -> list[int]:
    return [random.randrange(low, ITEMS) for _ in range(count)]


def draw_context(random: random.Random, rows: int) -> dict[str, Any]:
    """Some features with one value for all, others with one for each row; lists of any length."""
    each = {
        "level": lambda: random.randrange(4),
        "hour": lambda: random.randrange(3),
        "age": lambda: random.gauss(0, 1),
        "likes": lambda: [random.randrange(9) for _ in range(random.randrange(1, 5))],
        "seen": lambda: [random.randrange(6) for _ in range(random.randrange(1, 4))],
        "profile": lambda: [random.gauss(0, 1) for _ in range(5)],
    }
    return {
        name: CONTEXT[name] if random.random() < 0.5 else [draw() for _ in range(rows)]
        for name, draw in each.items()
    }


def draw_request(random: random.Random) -> ScoreRequest | RowsRequest:
    rows = random.choice([0, 1, 1, 2, 3, 20, 70])
    given = {
        "candidates": items(random, rows),
        "context": draw_context(random, rows),
        "explain": random.random() < 0.5,
    }
    if random.random() < 0.3:
        histories = [items(random, random.randrange(6), low=0) for _ in range(rows)]
        return RowsRequest(histories=histories, **given)
    top_k = random.choice([None, None, 1, 5])
    return ScoreRequest(history=items(random, random.randrange(9), low=0), top_k=top_k, **given)


async def all_scores(service: Any, requests: Sequence[Any]) -> list[Any]:
    await service.start()
    try:
        answers = (service.score(request) for request in requests)
        return await asyncio.gather(*answers, return_exceptions=True)
    finally:
        await service.stop()


@pytest.mark.parametrize("model", ["QIN", "QIN+"])
@pytest.mark.parametrize("few", [True, False], ids=["few candidates", "any number"])
def test_any_mix_is_scored_as_each_alone(tmp_path: Path, model: str, few: bool) -> None:
    path = write_folded(tmp_path / "model.folded", model=model)
    scorer, draw = Scorer.load(path), random.Random(5)
    requests = [draw_request(draw) for _ in range(120)]
    if few:
        requests = [request for request in requests if len(request.candidates) <= 3]
    service = make_service(path, WAIT)
    answers = asyncio.run(all_scores(service, requests))
    for request, answer in zip(requests, answers, strict=True):
        users = isinstance(request, ScoreRequest)
        alone = (scorer.score if users else scorer.score_batch)(
            request.history if users else request.histories,
            request.candidates,
            request.context,
            explain=True,
        )
        assert answer.model == service.models.served.digest
        if users and request.top_k is not None:
            likeliest = torch.sort(alone.probability, descending=True).values[: request.top_k]
            torch.testing.assert_close(answer.probability, likeliest, atol=1e-6, rtol=0)
            for item, found in zip(answer.candidates, answer.probability, strict=True):
                own = torch.tensor([other == item for other in request.candidates])
                assert (alone.probability[own] - found).abs().min() <= 1e-6
            continue
        torch.testing.assert_close(answer.probability, alone.probability, atol=1e-6, rtol=0)
        assert (answer.weight is not None) == request.explain
        if request.explain:
            for one, other in zip(answer.weight, alone.weight, strict=True):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert b"qin_batch_requests_count 1.0" in service.metrics.text()


def test_a_wrong_request_does_not_touch_the_others(folded: Path) -> None:
    right = ScoreRequest(history=[3], candidates=[1, 2], context=CONTEXT)
    wrong = ScoreRequest(history=[3], candidates=[1, 99], context=CONTEXT)
    answers = asyncio.run(all_scores(make_service(folded, WAIT), [right, wrong, right]))
    assert isinstance(answers[1], Refusal) and answers[1].errors[0][0] == "#/candidates/1"
    expected = Scorer.load(folded).score([3], [1, 2], CONTEXT)
    for answer in (answers[0], answers[2]):
        torch.testing.assert_close(answer.probability, expected, atol=1e-6, rtol=0)


# --- the queue


class Work:
    """Batches that a test lets through one by one."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, works: Sequence[str]) -> list[str | Exception]:
        self.batches.append(list(works))
        self.begun.release()
        assert self.go.acquire(timeout=60)
        return [KeyError(work) if work == "wrong" else work.upper() for work in works]


def batcher(work: Work, **limits: Any) -> Batcher[str, str]:
    made: Batcher[str, str] = Batcher(work, Limits(**limits), Metrics())
    made.start()
    return made


async def begun(work: Work) -> None:
    assert await asyncio.to_thread(work.begun.acquire, timeout=60)


def test_what_arrives_while_a_batch_is_scored_is_the_next_batch() -> None:
    async def run() -> list[Any]:
        work = Work()
        queue = batcher(work, max_batch_rows=10)
        tasks = [asyncio.create_task(queue.submit("a", 1, None))]
        await begun(work)
        for name, rows in (("b", 4), ("wrong", 4), ("c", 4), ("large", 50), ("d", 1)):
            tasks.append(asyncio.create_task(queue.submit(name, rows, None)))
        await asyncio.sleep(0)
        for _ in range(5):
            work.go.release()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await queue.stop()
        assert work.batches == [["a"], ["b", "wrong"], ["c"], ["large"], ["d"]]
        return answers

    answers = asyncio.run(run())
    assert isinstance(answers.pop(2), KeyError)
    assert answers == ["A", "B", "C", "LARGE", "D"]


def test_a_request_waits_for_others_as_long_as_it_is_told() -> None:
    async def run() -> None:
        work = Work()
        work.go.release(10)
        queue = batcher(work, batch_wait_ms=500, max_batch_rows=3)
        start = time.monotonic()
        await asyncio.gather(queue.submit("a", 1, None), queue.submit("b", 1, None))
        assert time.monotonic() - start > 0.45
        await queue.stop()
        queue = batcher(work, batch_wait_ms=600_000, max_batch_rows=3)
        both = asyncio.gather(queue.submit("c", 1, None), queue.submit("d", 2, None))
        await asyncio.wait_for(both, 60)  # enough rows for a batch
        await queue.stop()
        assert work.batches == [["a", "b"], ["c", "d"]]

    asyncio.run(run())


def test_a_full_queue_refuses_at_once() -> None:
    async def run() -> None:
        work = Work()
        queue = batcher(work, max_queue_rows=10)
        tasks = [asyncio.create_task(queue.submit("a", 1, None))]
        await begun(work)
        tasks += [asyncio.create_task(queue.submit(name, 5, None)) for name in "bc"]
        await asyncio.sleep(0)
        with pytest.raises(Refusal, match="the queue is full") as refused:
            await queue.submit("d", 1, None)
        assert refused.value.status == 503
        assert int(refused.value.headers()["retry-after"]) >= 1
        with pytest.raises(Refusal, match="the queue is full"):
            queue.require_room()
        work.go.release(10)
        assert await asyncio.gather(*tasks) == ["A", "B", "C"]
        queue.require_room()
        assert await queue.submit("e", 11, None) == "E"  # more than fits, but nothing waits
        await queue.stop()

    asyncio.run(run())


def test_a_request_that_would_be_late_is_refused() -> None:
    async def run() -> None:
        work = Work()
        queue = batcher(work)
        late = [asyncio.create_task(queue.submit("a", 1, None))]
        await begun(work)
        expired = asyncio.create_task(queue.submit("b", 1, time.monotonic() + 0.3))
        await asyncio.sleep(0.35)
        work.go.release()
        with pytest.raises(Refusal, match="its deadline passed while it waited"):
            await expired
        assert await late[0] == "A" and work.batches == [["a"]]
        # A row takes a third of a second by now: of three, one is too many for the deadline.
        waiting = [asyncio.create_task(queue.submit("c", 1, None))]
        await begun(work)
        waiting.append(asyncio.create_task(queue.submit("d", 2, time.monotonic() + 60)))
        await asyncio.sleep(0)
        with pytest.raises(Refusal, match="answered after its deadline"):
            await queue.submit("e", 1, time.monotonic() + 0.2)
        work.go.release(10)
        assert await asyncio.gather(*waiting) == ["C", "D"]
        assert all("e" not in batch for batch in work.batches)
        await queue.stop()

    asyncio.run(run())


def test_a_failure_of_a_whole_batch_reaches_every_request() -> None:
    async def run() -> list[Any]:
        def fail(works: Sequence[str]) -> list[str | Exception]:
            raise MemoryError(len(works))

        queue: Batcher[str, str] = Batcher(fail, Limits(), Metrics())
        queue.start()
        tasks = [queue.submit(name, 1, None) for name in "abc"]
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await queue.stop()
        return answers

    assert [type(answer) for answer in asyncio.run(run())] == [MemoryError] * 3
