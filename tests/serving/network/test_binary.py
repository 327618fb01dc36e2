"""The compact form says the same as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch

from model_zoo.core.serving.network.binary import MEDIA_TYPE, packed, unpacked
from model_zoo.core.serving.network.refusals import Refusal
from model_zoo.core.serving.scorer import Scorer
from tests.serving.network.conftest import CONTEXT, REQUEST
from tests.serving.network.test_app import ask

COMPACT = {"content-type": MEDIA_TYPE}


def array(values: Any, dtype: str) -> dict[str, Any]:
    """As the page of the service says."""
    made = np.asarray(values, dtype)
    return {"dtype": dtype, "shape": list(made.shape), "data": made.tobytes()}


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "float32"])
def test_arrays_are_read_as_they_are(dtype: str) -> None:
    content = {"a": {"b": [array([[1, 2], [3, 4]], dtype)]}, "c": array([], dtype)}
    read = unpacked(msgpack.packb(content))
    expected = torch.tensor([[1, 2], [3, 4]]).to(getattr(torch, dtype))
    assert torch.equal(read["a"]["b"][0], expected) and read["c"].shape == (0,)
    assert torch.equal(unpacked(packed({"a": expected}))["a"], expected)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\xc1", "no MessagePack"),
        (b"", "no MessagePack"),
        (b"\x81\xa1a", "no MessagePack"),
        (b"\x91" * 5_000, "no MessagePack"),
        (msgpack.packb(1) * 2, "no MessagePack"),
        (
            msgpack.packb({"a": array([1], "int8") | {"dtype": "object"}}),
            "dtype 'object', expected",
        ),
        (msgpack.packb({"a": array([1], "int8") | {"dtype": [1]}}), r"dtype \[1\], expected"),
        (msgpack.packb({"a": array([1], "int8") | {"shape": [-1]}}), r"shape \[-1\], expected"),
        (msgpack.packb({"a": array([1], "int8") | {"shape": 1}}), "shape 1, expected"),
        (msgpack.packb({"a": array([1], "int8") | {"shape": [9]}}), "1 bytes .* expected 9"),
        (msgpack.packb({"a": array([1], "int8") | {"shape": [2**62, 0]}}), "expected up to 3"),
    ],
)
def test_what_is_no_body_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(Refusal, match=message) as refused:
        unpacked(body)
    assert refused.value.status == 400


def test_arrays_and_lists_are_scored_as_json_is(folded: Path) -> None:
    context = {**CONTEXT, "level": array([1, 1, 1], "int8"), "age": array([-0.5] * 3, "float64")}
    context["profile"] = array(CONTEXT["profile"], "float64")
    arrays = {"history": array([3, 8, 5, 9], "int32"), "candidates": array([1, 2, 7], "int32")}
    asked = [REQUEST, {**arrays, "context": context}]
    asked.append({**arrays, "context": CONTEXT, "explain": True, "top_k": 2})
    requests = [{"content": msgpack.packb(one), "headers": COMPACT} for one in asked]
    rows = {"histories": array([[3, 8], [5, 0]], "int64"), "candidates": [1, 2]}
    rows |= {"context": CONTEXT, "explain": True}
    *users, of_rows = ask(
        folded,
        *(("POST", "/score", request) for request in requests),
        ("POST", "/score_batch", {"content": msgpack.packb(rows), "headers": COMPACT}),
    )
    scorer = Scorer.load(folded)
    expected = scorer.score([3, 8, 5, 9], [1, 2, 7], CONTEXT, explain=True)
    for answer in users[:2]:
        assert answer.headers["content-type"] == MEDIA_TYPE
        found = unpacked(answer.content)
        torch.testing.assert_close(found["probability"], expected.probability, atol=1e-6, rtol=0)
    best = unpacked(users[2].content)
    order = expected.probability.argsort(descending=True)[:2]
    assert best["candidates"] == torch.tensor([1, 2, 7])[order].tolist()
    torch.testing.assert_close(best["weight"], expected.weight[order], atol=1e-5, rtol=1e-5)
    expected = scorer.score_batch([[3, 8], [5, 0]], [1, 2], CONTEXT, explain=True)
    found = unpacked(of_rows.content)
    torch.testing.assert_close(found["probability"], expected.probability, atol=1e-6, rtol=0)
    assert [len(weight) for weight in found["weight"]] == [2, 2]


@pytest.mark.parametrize(
    ("changed", "pointer"),
    [
        ({"candidates": array([1, 99], "int8")}, "#/candidates/1"),
        ({"candidates": array(1, "int8")}, "#/candidates"),
        ({"candidates": array([1.5], "float32")}, "#/candidates"),
        ({"history": array([[1]], "int8")}, "#/history"),
        ({"context": CONTEXT | {"age": array([0, np.nan, 0], "float32")}}, "#/context/age/1"),
        ({"context": CONTEXT | {"likes": array([[3, 9]], "int8")}}, "#/context/likes/0/1"),
        ({"context": CONTEXT | {"age": b"bytes"}}, "#/context/age"),
    ],
)
def test_wrong_arrays_are_refused_with_their_place(
    folded: Path, changed: dict[str, Any], pointer: str
) -> None:
    body = msgpack.packb(REQUEST | changed)
    (answer,) = ask(folded, ("POST", "/score", {"content": body, "headers": COMPACT}))
    assert answer.status_code == 422, answer.text
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
