"""The service on Ray Serve answers as that of one machine does."""

from __future__ import annotations

import asyncio
import random
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import yaml

from model_zoo.core.serving.network.binary import packed, unpacked
from model_zoo.core.serving.scorer import Scorer
from tests.conftest import ROOT
from tests.serving.network.conftest import CONTEXT, OWNER, REQUEST, make_service
from tests.serving.network.ray_server import ray_serving

pytest.importorskip("ray.serve", reason="no Ray Serve: pip install '.[serve]'")


def draw_request(draw: random.Random) -> dict[str, Any]:
    """One user; now and then more candidates than a batch has rows."""
    count = draw.choice([0, 1, 3, 20, 90])
    return {
        "history": [draw.randint(1, 11) for _ in range(draw.randint(0, 8))],
        "candidates": [draw.randint(1, 11) for _ in range(count)],
        "context": CONTEXT | {"age": draw.uniform(-1, 1)},
    }


@pytest.mark.slow
def test_replicas_answer_as_the_scorer_does(folded: Path) -> None:
    draw = random.Random(0)
    requests = [draw_request(draw) for _ in range(60)]
    scorer = Scorer.load(folded)

    async def run(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            answers = await asyncio.gather(*(client.post("/score", json=r) for r in requests))
            for request, answer in zip(requests, answers, strict=True):
                assert answer.status_code == 200, answer.text
                expected = scorer.score(**request).tolist()
                assert answer.json()["probability"] == pytest.approx(expected, abs=1e-6)
            # Which of the two answers is chance.
            texts = [(await client.get("/metrics")).text for _ in range(20)]
            counts = [
                [float(n) for n in re.findall(r"qin_batch_requests_(?:sum|count) (\S+)", text)]
                for text in texts
            ]
            assert max(scored - batches for batches, scored in map(sorted, counts)) > 0
            changed = await client.post(
                "/items", headers=OWNER, json={"ids": [12], "features": {"price": [1.0]}}
            )
            assert changed.json()["added"] == 1
            stop, agreed = time.monotonic() + 60, 0
            while agreed < 20 and time.monotonic() < stop:  # 2 replicas, and 0.2 s to follow
                items = (await client.get("/model")).json()["items"]
                agreed = agreed + 1 if items == 12 else 0
            assert agreed == 20
            wrong = await client.post("/score", json=REQUEST | {"candidates": [1, 99]})
            assert wrong.status_code == 422
            assert wrong.headers["content-type"] == "application/problem+json"
            assert wrong.json()["errors"][0]["pointer"] == "#/candidates/1"
            late = await client.post("/score", json=REQUEST | {"deadline_ms": 0.001})
            assert late.status_code == 503 and late.headers["retry-after"] == "1"
            assert "<!doctype html>" in (await client.get("/")).text

    limits = {"max_batch_rows": 64, "batch_wait_ms": 5}
    with ray_serving(folded, {"num_replicas": 2}, limits=limits) as (url, _):
        asyncio.run(run(url))


def test_grpc_takes_the_compact_form(folded: Path) -> None:
    """Its service, on a server of the loopback: Ray's own listens on all interfaces."""
    import grpc
    from google.protobuf.wrappers_pb2 import BytesValue

    from model_zoo.core.serving.network.ray_app import add_scores_to_server, grpc_score

    request = REQUEST | {"candidates": torch.tensor([1, 2, 7])}
    expected = Scorer.load(folded).score([3, 8, 5, 9], [1, 2, 7], CONTEXT)

    async def run() -> None:
        service = make_service(folded)
        await service.start()

        class Servicer:
            async def Score(self, message: Any, context: Any) -> Any:
                return await grpc_score(service, message, context)

        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        add_scores_to_server(Servicer(), server)
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            score = channel.unary_unary(
                "/qin.Scores/Score",
                request_serializer=BytesValue.SerializeToString,
                response_deserializer=BytesValue.FromString,
            )
            answer = await score(BytesValue(value=packed(request)))
            assert unpacked(answer.value)["probability"].tolist() == pytest.approx(
                expected.tolist(), abs=1e-6
            )
            for wrong, said in (
                (packed(REQUEST | {"candidates": [99]}), "candidates: position 0: found 99"),
                (packed({}), "#/history: Field required"),
                (b"\xc1", "no MessagePack"),
            ):
                with pytest.raises(grpc.aio.AioRpcError, match=re.escape(said)) as caught:
                    await score(BytesValue(value=wrong))
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await server.stop(None)
        await service.stop()

    asyncio.run(run())


def test_the_shipped_file_is_what_ray_takes() -> None:
    from ray.serve.schema import ServeDeploySchema

    from model_zoo.core.serving.network.ray_app import Arguments, Replica, application

    content = yaml.safe_load((ROOT / "config" / "service_ray.yaml").read_text())
    schema = ServeDeploySchema.model_validate(content)
    assert schema.http_options.host == "127.0.0.1"
    assert schema.grpc_options.port == 0  # nothing listens on all interfaces
    (one,) = schema.applications
    where, _, name = one.import_path.partition(":")
    assert (where, name) == (application.__module__, application.__name__)
    assert Arguments.model_validate(one.args).folded.suffix == ".folded"
    assert [deployment.name for deployment in one.deployments] == [Replica.name]
    with pytest.raises(ValueError, match="histroy"):
        Arguments.model_validate({**one.args, "histroy": 1})
