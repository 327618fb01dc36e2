"""What the service says over HTTP, to right and to wrong requests."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from model_zoo.core.serving.calibration import Calibration
from model_zoo.core.serving.network.app import build_app
from model_zoo.core.serving.network.settings import Limits
from model_zoo.core.serving.scorer import Scorer
from tests.serving.network.conftest import (
    CONTEXT,
    OWNER,
    REQUEST,
    client_of,
    make_service,
    write_folded,
)

SMALL = Limits(max_rows=50, max_weights=60, max_body_bytes=20_000)


def ask(
    path: Path,
    *requests: tuple[str, str, dict[str, Any]],
    limits: Limits | None = None,
    **settings: Any,
) -> list[httpx.Response]:
    """Answers to requests (method, address, arguments), one after the other."""

    async def run() -> list[httpx.Response]:
        async with client_of(make_service(path, limits), **settings) as client:
            return [await client.request(m, where, **given) for m, where, given in requests]

    return asyncio.run(run())


def test_scores_of_one_user(folded: Path) -> None:
    scorer = Scorer.load(folded)
    expected = scorer.score(REQUEST["history"], REQUEST["candidates"], CONTEXT, explain=True)
    plain, explained, best = ask(
        folded,
        ("POST", "/score", {"json": REQUEST}),
        ("POST", "/score", {"json": REQUEST | {"explain": True}}),
        ("POST", "/score", {"json": REQUEST | {"explain": True, "top_k": 2, "deadline_ms": 1e4}}),
    )
    assert plain.status_code == 200 and plain.headers["content-type"] == "application/json"
    assert plain.json().keys() == {"probability", "model"}
    assert plain.json()["probability"] == pytest.approx(expected.probability.tolist(), abs=1e-6)
    for got, one in zip(explained.json()["weight"], expected.weight, strict=True):
        assert got == pytest.approx(one.tolist(), abs=1e-5)
    order = sorted(range(3), key=lambda place: -expected.probability[place])[:2]
    assert best.json()["candidates"] == [REQUEST["candidates"][place] for place in order]
    ranked = [float(expected.probability[place]) for place in order]
    assert best.json()["probability"] == pytest.approx(ranked, abs=1e-6)
    assert len(best.json()["weight"]) == 2


def test_scores_of_rows(folded: Path) -> None:
    rows = {"histories": [[3], [], [5, 0, 9]], "candidates": [1, 2, 7], "context": CONTEXT}
    expected = Scorer.load(folded).score_batch(*rows.values(), explain=True)
    (answer,) = ask(folded, ("POST", "/score_batch", {"json": rows | {"explain": True}}))
    assert answer.json()["probability"] == pytest.approx(expected.probability.tolist(), abs=1e-6)
    assert [len(weight) for weight in answer.json()["weight"]] == [1, 0, 3]


def test_a_calibrated_answer(tmp_path: Path, folded: Path) -> None:
    double = Calibration("platt", torch.empty(0), torch.tensor([2.0, -1.0]))
    path = write_folded(tmp_path / "calibrated.folded", calibration=double)
    asked = ("POST", "/score", {"json": REQUEST | {"calibrated": True}})
    (answer,), (refused,) = ask(path, asked), ask(folded, asked)
    expected = Scorer.load(path).score([3, 8, 5, 9], [1, 2, 7], CONTEXT, calibrated=True)
    assert answer.json()["probability"] == pytest.approx(expected.tolist(), abs=1e-6)
    assert refused.json()["errors"][0]["pointer"] == "#/calibrated"


def test_what_is_served(folded: Path) -> None:
    model, health, ready, metrics, description = ask(
        folded,
        *(("GET", path, {}) for path in ("/model", "/health", "/ready", "/metrics")),
        ("GET", "/openapi.json", {}),
    )
    content = model.json()
    assert content["name"] == "QIN" and content["items"] == 11 and content["max_len"] == 100
    assert [feature["name"] for feature in content["context"]] == list(CONTEXT)
    assert {"name": "profile", "kind": "embedding", "width": 5, "ids": None} in content["context"]
    assert (health.json(), ready.json()) == ({"status": "alive"}, {"status": "ready"})
    assert 'qin_requests_total{route="/model",status="200"} 1.0' in metrics.text
    assert description.json()["paths"].keys() == {
        *("/score", "/score_batch", "/items", "/reload"),
        *("/model", "/health", "/ready", "/metrics"),
    }


def test_items_and_models_are_changed_by_who_has_the_token(folded: Path) -> None:
    write_folded(folded.with_name("b.folded"), seed=1)
    items = {"ids": [12, 3], "features": {"price": [1.0, 2.0]}}
    score = ("POST", "/score", {"json": REQUEST | {"candidates": [12, 3]}})
    refused, changed, scored, reloaded, gone = ask(
        folded,
        score,
        ("POST", "/items", {"json": items, "headers": OWNER}),
        score,
        ("POST", "/reload", {"json": {"file": "b.folded"}, "headers": OWNER}),
        score,
    )
    assert refused.json()["errors"][0]["pointer"] == "#/candidates/0"
    assert changed.json()["added"] == changed.json()["updated"] == 1
    assert scored.json()["model"] == changed.json()["model"]
    assert reloaded.json()["file"] == "b.folded" and gone.status_code == 422


@pytest.mark.parametrize("path", ["/items", "/reload"])
@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer wrong", f"Basic {OWNER['authorization'][7:]}", "Bearer é"]
)
def test_a_wrong_token_changes_nothing(folded: Path, path: str, header: str) -> None:
    asked = {"json": {"ids": [3]}, "headers": {"authorization": header.encode()}}
    (answer,) = ask(folded, ("POST", path, asked))
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"


def test_without_a_token_nothing_can_be_changed(folded: Path) -> None:
    for path in ("/items", "/reload"):
        (answer,) = ask(folded, ("POST", path, {"json": {}, "headers": OWNER}), token=None)
        assert answer.status_code == 403 and "--token-file" in answer.json()["detail"]


def context(**changed: Any) -> dict[str, Any]:
    return REQUEST | {"context": CONTEXT | changed}


WRONG = [
    ("/score", "{", 400, "#"),
    ("/score", b"\xff\xfe", 400, "#"),
    ("/score", "[" * 10_000, 400, "#"),
    ("/score", "[]", 422, "#"),
    ("/score", "7", 422, "#"),
    ("/score", {}, 422, "#/history"),
    ("/score", REQUEST | {"histroy": []}, 422, "#/histroy"),
    ("/score", REQUEST | {"history": 3}, 422, "#/history"),
    ("/score", REQUEST | {"history": [3, 99]}, 422, "#/history/1"),
    ("/score", REQUEST | {"history": [3, -1]}, 422, "#/history/1"),
    ("/score", REQUEST | {"history": "38"}, 422, "#/history"),
    ("/score", REQUEST | {"history": [3.5]}, 422, "#/history"),
    ("/score", REQUEST | {"history": [{}]}, 422, "#/history"),
    ("/score", REQUEST | {"history": [[3]]}, 422, "#/history"),
    ("/score", REQUEST | {"history": [None]}, 422, "#/history"),
    ("/score", REQUEST | {"history": [True]}, 422, "#/history"),
    ("/score", REQUEST | {"candidates": [1, 99]}, 422, "#/candidates/1"),
    ("/score", REQUEST | {"candidates": [1, 0]}, 422, "#/candidates/1"),
    ("/score", REQUEST | {"candidates": ["1"]}, 422, "#/candidates"),
    ("/score", REQUEST | {"candidates": [10**30]}, 422, "#/candidates"),
    ("/score", REQUEST | {"candidates": [1] * 51}, 422, "#/candidates"),
    ("/score", REQUEST | {"candidates": [1] * 20, "explain": True}, 422, "#/explain"),
    ("/score", REQUEST | {"calibrated": True}, 422, "#/calibrated"),
    ("/score", REQUEST | {"calibrated": "yes"}, 422, "#/calibrated"),
    ("/score", REQUEST | {"top_k": 0}, 422, "#/top_k"),
    ("/score", REQUEST | {"top_k": 1.5}, 422, "#/top_k"),
    ("/score", REQUEST | {"deadline_ms": -1}, 422, "#/deadline_ms"),
    ("/score", json.dumps(REQUEST | {"deadline_ms": float("nan")}), 422, "#/deadline_ms"),
    ("/score", REQUEST | {"context": {}}, 422, "#/context/age"),
    ("/score", REQUEST | {"context": []}, 422, "#/context"),
    ("/score", context(other=1), 422, "#/context/other"),
    ("/score", context(age="old"), 422, "#/context/age"),
    ("/score", context(age=None), 422, "#/context/age"),
    ("/score", json.dumps(context(age=[0.0, float("nan"), 1.0])), 422, "#/context/age/1"),
    ("/score", json.dumps(context(age=float("inf"))), 422, "#/context/age"),
    ("/score", context(age=[1.0, 2.0]), 422, "#/context/age"),
    ("/score", context(level=4), 422, "#/context/level"),
    ("/score", context(level=[0, 1, 4]), 422, "#/context/level/2"),
    ("/score", context(likes=[[3, 9]]), 422, "#/context/likes/0/1"),
    ("/score", context(likes={"a": 1}), 422, "#/context/likes"),
    ("/score", context(profile=[[1.0]]), 422, "#/context/profile"),
    ("/score_batch", {"histories": [[3]], "candidates": [1, 2]}, 422, "#/histories"),
    (
        "/score_batch",
        {"histories": [[3], [4, 99]], "candidates": [1, 2], "context": CONTEXT},
        422,
        "#/histories/1/1",
    ),
    ("/items", {"ids": [14]}, 422, "#/ids"),
    ("/items", {"ids": [3, 3]}, 422, "#/ids"),
    ("/items", {"ids": [3], "features": {"prize": [1]}}, 422, "#/features/prize"),
    ("/items", {"ids": [3], "features": {"tags": [[1, 7]]}}, 422, "#/features/tags/0/1"),
    ("/items", {"ids": [3], "features": {"price": 1}}, 200, None),
    ("/items", {"ids": {}}, 422, "#/ids"),
    ("/reload", {"file": "../model.folded"}, 422, "#/file"),
    ("/reload", {"file": 3}, 422, "#/file"),
]


def test_wrong_requests_are_refused_with_their_place(folded: Path) -> None:
    requests: list[tuple[str, str, dict[str, Any]]] = []
    for path, body, _, _ in WRONG:
        given = {"content": body} if isinstance(body, (str, bytes)) else {"json": body}
        requests.append(("POST", path, {**given, "headers": OWNER}))
    answers = ask(folded, *requests, limits=SMALL)
    for (path, body, status, pointer), answer in zip(WRONG, answers, strict=True):
        said = path, body, answer.text
        assert answer.status_code == status, said
        if pointer is None:
            continue
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["status"] == status and problem["detail"] and problem["title"], said
        assert pointer in [error["pointer"] for error in problem["errors"]], said


def test_wrong_addresses_are_problems_too(folded: Path) -> None:
    none, method = ask(folded, ("GET", "/none", {}), ("GET", "/score", {}))
    assert (none.status_code, method.status_code) == (404, 405)
    assert method.headers["allow"] == "POST"
    for answer in (none, method):
        assert answer.headers["content-type"] == "application/problem+json"


def test_below_a_root_path_all_is_the_same(folded: Path) -> None:
    """As behind a prefix of Ray's or a proxy's."""

    async def run() -> list[httpx.Response]:
        app = build_app(make_service(folded), None)
        transport = httpx.ASGITransport(app=app, root_path="/below")
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as client,
        ):
            right = await client.post("/below/score", json=REQUEST)
            wrong = await client.post("/below/score", json={})
            return [right, wrong, await client.post("/below/none", json=REQUEST)]

    answers = asyncio.run(run())
    assert [answer.status_code for answer in answers] == [200, 422, 404]
    (plain,) = ask(folded, ("POST", "/score", {"json": REQUEST}))
    assert answers[0].json() == plain.json()


def test_an_error_of_the_server_shows_no_traceback(
    folded: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("model_zoo.core.serving.network.service.score_batch", broken)
    (answer,) = ask(folded, ("POST", "/score", {"json": REQUEST}))
    assert answer.status_code == 500 and "secret" not in answer.text
    assert "secret" in caplog.text
