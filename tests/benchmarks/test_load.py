"""The load test counts what comes back, and its requests are those that the service takes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("psutil", reason="no psutil: pip install '.[dev]'")

from benchmarks.load.clients import Work, closed_loop, open_loop
from benchmarks.load.made import JSON, draw_requests, write_folded
from benchmarks.load.usage import batch_counts, scorer_rate
from model_zoo.core.commands.config import load_experiment
from model_zoo.core.serving.network.binary import MEDIA_TYPE
from model_zoo.core.serving.network.finding import Titles
from model_zoo.core.serving.network.messages import ScoreRequest
from model_zoo.core.serving.scorer import Scorer
from tests.conftest import ROOT
from tests.serving.network.browser import address
from tests.serving.network.conftest import client_of, make_service


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, Path]:
    experiment = load_experiment(ROOT / "config", "QIN_test")
    return experiment, write_folded(experiment, tmp_path_factory.mktemp("load") / "load.folded")


def test_both_bodies_are_answered_alike(demo: tuple[object, Path]) -> None:
    experiment, path = demo
    requests = draw_requests(experiment, 3)
    expected = Scorer.load(path).score(*requests.lists[0][:3]).tolist()

    async def run() -> None:
        async with client_of(make_service(path)) as client:
            for media_type in (JSON, MEDIA_TYPE):
                body, headers = requests.bodies(media_type)[0], {"content-type": media_type}
                answer = await client.post("/score", content=body, headers=headers)
                assert answer.status_code == 200, answer.text
                if media_type == JSON:
                    assert answer.json()["probability"] == pytest.approx(expected, abs=1e-6)
            text = (await client.get("/metrics")).text
        assert batch_counts(text) == (2, 2)

    asyncio.run(run())
    ScoreRequest.model_validate_json(requests.bodies(JSON)[0])
    assert scorer_rate(Scorer.load(path), requests.tensors, 4, 0.1) > 0


def test_answers_are_counted_by_what_they_are(demo: tuple[object, Path]) -> None:
    experiment, path = demo
    bodies = draw_requests(experiment, 3).bodies(JSON)[:5]
    with address(path, Titles()) as url:
        closed = closed_loop(Work(f"{url}score", bodies, JSON), 4, 0.3)
        assert len(closed.answered) > 4 and not closed.refused and not closed.failures
        assert closed.seconds >= 0.3 and closed.cpu > 0
        wrong = closed_loop(Work(f"{url}score", [b"{"], JSON), 1, 0.1)
        assert wrong.failures["400"] > 0 and not wrong.answered
        paced = open_loop(Work(f"{url}score", bodies, JSON), 50, 0.4)
        assert len(paced.answered) == 20 and paced.seconds >= 0.38
        late = bodies[0].replace(b"{", b'{"deadline_ms":0.001,', 1)
        refused = open_loop(Work(f"{url}score", [late], JSON), 50, 0.1)
        assert len(refused.refused) == 5 and not refused.failures
    gone = closed_loop(Work(f"{url}score", bodies, JSON), 1, 0.05)
    assert not gone.answered and gone.failures["ClientConnectorError"] > 0
