"""Forms of a scoring request's body: reading one of 1,000 candidates, writing its answer.

    python -m benchmarks.bodies

One user with 64 history items, and two context features with a value for each candidate. JSON and
MessagePack are as the service reads and writes them; Arrow IPC is what it could have taken. Reading
ends with tensors. The fastest of five rounds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa
import torch
from pydantic_core import to_json
from torch import Tensor

from model_zoo.core.serving.network.binary import MEDIA_TYPE, packed, unpacked
from model_zoo.core.serving.network.messages import ScoreRequest
from model_zoo.core.serving.tensors import integers

ITEMS, HISTORY = 90_000, 64


def request(candidates: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        "history": random.integers(1, ITEMS, HISTORY).tolist(),
        "candidates": random.integers(1, ITEMS, candidates).tolist(),
        "context": {name: random.integers(0, 11, candidates).tolist() for name in ("a", "b")},
    }


def with_arrays(content: dict[str, Any]) -> dict[str, Any]:
    def array(values: list[int], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype)

    context = {name: array(values, torch.int8) for name, values in content["context"].items()}
    candidates = array(content["candidates"], torch.int32)
    return {"history": content["history"], "candidates": candidates, "context": context}


def arrow_request(content: dict[str, Any]) -> bytes:
    columns = {"candidates": pa.array(content["candidates"], pa.int32())}
    columns |= {name: pa.array(v, pa.int8()) for name, v in content["context"].items()}
    history = {"history": json.dumps(content["history"])}
    return arrow_bytes(pa.record_batch(columns).replace_schema_metadata(history))


def arrow_bytes(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def tensors(asked: ScoreRequest) -> list[Tensor]:
    values = [asked.history, asked.candidates, *asked.context.values()]
    return [integers(value, "value", dim=1) for value in values]


def read_json(body: bytes) -> list[Tensor]:
    return tensors(ScoreRequest.model_validate_json(body))


def read_msgpack(body: bytes) -> list[Tensor]:
    return tensors(ScoreRequest.model_validate(unpacked(body)))


def read_arrow(body: bytes) -> list[Tensor]:
    with pa.ipc.open_stream(body) as reader:
        table = reader.read_all()
    table.validate(full=True)  # offsets of a stranger may point anywhere
    values = {name: torch.tensor(table[name].to_numpy()) for name in ("candidates", "a", "b")}
    history = json.loads(table.schema.metadata[b"history"])
    return tensors(
        ScoreRequest(history=history, candidates=values.pop("candidates"), context=values)
    )


def write_json(probability: Tensor) -> bytes:
    return to_json({"probability": probability.tolist(), "model": "0123456789abcdef"})


def write_msgpack(probability: Tensor) -> bytes:
    return packed({"probability": probability, "model": "0123456789abcdef"})


def write_arrow(probability: Tensor) -> bytes:
    batch = pa.record_batch({"probability": pa.array(probability.numpy())})
    return arrow_bytes(batch.replace_schema_metadata({"model": "0123456789abcdef"}))


def microseconds(step: Callable[[], object], calls: int = 1_000) -> float:
    rounds = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(calls):
            step()
        rounds.append((time.perf_counter() - start) / calls)
    return min(rounds) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bodies", description=__doc__)
    parser.add_argument("--candidates", type=int, default=1_000)
    arguments = parser.parse_args()
    content = request(arguments.candidates)
    probability = torch.rand(arguments.candidates)
    expected = read_json(json.dumps(content).encode())
    for name, body, read, write in (
        ("application/json", json.dumps(content).encode(), read_json, write_json),
        (f"{MEDIA_TYPE}, lists", msgpack.packb(content), read_msgpack, write_msgpack),
        (f"{MEDIA_TYPE}, arrays", packed(with_arrays(content)), read_msgpack, write_msgpack),
        ("Arrow IPC", arrow_request(content), read_arrow, write_arrow),
    ):
        found = read(body)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), name
        took = microseconds(lambda body=body, read=read: read(body))  # type: ignore[misc]
        wrote = microseconds(lambda write=write: write(probability))  # type: ignore[misc]
        answer = write(probability)
        print(
            f"{name:<28} request {len(body):>7,} bytes, read in {took:5.0f} µs; "
            f"answer {len(answer):>7,} bytes, written in {wrote:4.0f} µs"
        )


if __name__ == "__main__":
    main()
