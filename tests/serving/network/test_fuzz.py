"""Whatever fits the description of the service, and much that does not, gets a proper answer."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, assume, given, seed, settings
from hypothesis import strategies as st

from model_zoo.core.serving.network.app import build_app
from model_zoo.core.serving.network.binary import MEDIA_TYPE, packed
from model_zoo.core.serving.network.finding import Titles
from model_zoo.core.serving.network.settings import Limits
from tests.serving.network.conftest import CONTEXT, OWNER, REQUEST, TOKEN, client_of, make_service

schemathesis = pytest.importorskip("schemathesis", reason="no schemathesis: pip install '.[dev]'")
EXAMPLES = 40  # of each operation, with right and with wrong values
NEAR = 500  # requests that are right but for one value
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
PLACES = [[name] for name in [*REQUEST, "explain", "calibrated", "top_k", "deadline_ms"]]
PLACES += [["context", name] for name in CONTEXT] + [["history", 1], ["candidates", 2]]
PROBLEM = "application/problem+json"


def require_proper(answer: Any, media_type: str, seen: Counter[str], what: str) -> None:
    """No error of the server, and problem details where it refuses."""
    said = f"{what}: {answer.status_code} {answer.content[:500]!r}"
    seen[f"{what} {answer.status_code}"] += 1
    assert answer.status_code < 500 or answer.status_code == 503, said
    if answer.status_code >= 400:
        assert media_type == PROBLEM, said
        problem = json.loads(answer.content)
        assert problem["status"] == answer.status_code and problem["detail"], said


@pytest.mark.slow
def test_no_request_makes_the_server_fail(folded: Path) -> None:
    limits = Limits(max_rows=200, max_body_bytes=100_000)
    service = make_service(folded, limits)
    app = build_app(service, TOKEN, titles=Titles({"3": "A title"}))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    checks = [
        schemathesis.checks.CHECKS.get_one(name)
        for name in ("status_code_conformance", "response_schema_conformance")
    ]
    modes = schemathesis.GenerationMode
    seen: Counter[str] = Counter()

    def fuzz(operation: Any, mode: Any) -> None:
        @seed(0)
        @settings(
            max_examples=EXAMPLES,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            answer = case.call(headers=dict(OWNER))
            (media_type,) = answer.headers["content-type"]
            require_proper(answer, media_type, seen, operation.label)
            case.validate_response(answer, checks=checks)

        ask()

    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 9
    for operation in operations:
        fuzz(operation, modes.POSITIVE)
        if operation.body or operation.query:
            fuzz(operation, modes.NEGATIVE)
    for label in ("POST /score", "POST /score_batch", "POST /items", "POST /reload"):
        assert any(key.startswith(f"{label} 4") for key in seen), seen
    assert seen["GET /items 200"] and seen["GET /model 200"], seen


@pytest.mark.slow
def test_one_wrong_value_is_refused_or_right(folded: Path) -> None:
    seen: Counter[str] = Counter()

    @seed(0)
    @settings(max_examples=NEAR, database=None, deadline=None)
    @given(place=st.sampled_from(PLACES), value=JSON | st.integers(0, 12), compact=st.booleans())
    def change(place: list[Any], value: Any, compact: bool) -> None:
        body = json.loads(json.dumps(REQUEST))
        inside = body if len(place) == 1 else body[place[0]]
        inside[place[-1]] = value
        try:
            content = packed(body) if compact else json.dumps(body)
        except TypeError:  # an integer that MessagePack has not
            assume(False)
        media_type = MEDIA_TYPE if compact else "application/json"
        post = partial(client.post, content=content, headers={"content-type": media_type})
        answer = portal.call(post, "/score")
        require_proper(answer, answer.headers["content-type"], seen, "POST /score, changed")

    opened = client_of(make_service(folded))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(opened) as client:
        change()
    assert seen["POST /score, changed 200"] and seen["POST /score, changed 422"], seen
