"""Batches are sent to a device before the one in front of them is used."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from model_zoo.core.data import ahead as module
from model_zoo.core.data.ahead import ahead
from tests.data.test_loader import load

CPU = torch.device("cpu")


class Noting:
    """A lane that copies, and notes its calls by the first number of a batch's items."""

    def __init__(self, device: torch.device) -> None:
        self.notes: list[str] = []

    def send(self, batch: dict[str, torch.Tensor]) -> Any:
        assert "lengths" not in batch
        self.notes.append(f"send {int(batch['items'][0])}")
        return {name: tensor.clone() for name, tensor in batch.items()}

    def receive(self, sent: Any) -> dict[str, torch.Tensor]:
        self.notes.append(f"receive {int(sent['items'][0])}")
        received: dict[str, torch.Tensor] = sent
        return received


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_one_batch_is_on_its_way(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    lane = Noting(CPU)
    monkeypatch.setitem(module.LANES, "cpu", lambda device: lane)
    batches = [
        {"items": torch.arange(i, i + 3), "lengths": torch.full((2,), i)} for i in range(count)
    ]
    for i, batch in enumerate(ahead(iter(batches), CPU, ["lengths", "batch_rows"])):
        lane.notes.append(f"use {i}")
        assert batch["lengths"] is batches[i]["lengths"]
        assert torch.equal(batch["items"], batches[i]["items"])
    steps = [[f"receive {i}", f"use {i}", f"send {i + 2}"] for i in range(count)]
    expected = ["send 0", "send 1", *(note for step in steps for note in step)]
    assert lane.notes == [note for note in expected if not _beyond(note, count)]


def _beyond(note: str, count: int) -> bool:
    return int(note.split()[1]) >= count


@pytest.mark.parametrize("folder", [False, True])
def test_a_loader_with_a_lane_gives_the_same_batches(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, folder: bool
) -> None:
    settings = {"folder": folder, "batch_size": 100, "shuffle": True, "seed": 3}
    plain = list(load(**settings)[0])
    sent: list[set[str]] = []

    class Copying(Noting):
        def send(self, batch: dict[str, torch.Tensor]) -> Any:
            sent.append(set(batch))
            return batch

        def receive(self, sent: Any) -> Any:
            return sent

    monkeypatch.setitem(module.LANES, "cpu", Copying)
    loader = load(**settings)[0]
    loader.start_at(epoch=0, batch=0)
    for one, other in zip(plain, loader, strict=True):
        assert set(one) == set(other)
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(sent) == len(plain)
    assert all(names == set(plain[0]) - {"item_seq_length"} for names in sent)


def test_the_lane_for_cuda_calls_torch_as_it_is() -> None:
    """Without a device: pinned, copied on the lane's stream, and waited for by the other one."""
    cuda = torch.cuda
    lane_stream = mock.create_autospec(cuda.Stream)
    current = mock.create_autospec(cuda.Stream, instance=True)
    tensor = mock.create_autospec(torch.Tensor, instance=True)
    copy = tensor.pin_memory.return_value.to.return_value
    with mock.patch.multiple(
        cuda,
        Stream=lane_stream,
        stream=mock.create_autospec(cuda.stream, side_effect=lambda stream: nullcontext()),
        current_stream=mock.create_autospec(cuda.current_stream, return_value=current),
    ):
        lane = module.CudaLane(torch.device("cuda", 0))
        sent = lane.send({"items": tensor})
        assert lane.receive(sent) == {"items": copy}
    tensor.pin_memory.return_value.to.assert_called_once_with(
        torch.device("cuda", 0), non_blocking=True
    )
    event = lane_stream.return_value.record_event.return_value
    current.wait_event.assert_called_once_with(event)
    copy.record_stream.assert_called_once_with(current)
