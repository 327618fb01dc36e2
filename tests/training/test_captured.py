"""Steps of fixed shapes: padded batches change nothing, and what has no such steps is refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import run_expid
from model_zoo.core.commands.config import load_experiment
from model_zoo.core.commands.experiment import build_feature_map
from model_zoo.core.commands.rehearsal import rehearse
from model_zoo.core.errors import InputError
from model_zoo.core.training import captured, items
from model_zoo.core.training.captured import CapturedStep, TensorRates, padded, padded_size
from model_zoo.core.training.state import load_state, save_state
from tests.conftest import ROOT
from tests.gpu.models import FIXED, build, rows

CPU = torch.device("cpu")


def step(model: Any, batch: dict[str, Tensor], number: int = 1) -> float:
    model._steps_per_epoch, model._max_gradient_norm = 9, 1.0  # such that it clips
    model._batch_index, model._total_steps = number - 1, number
    return float(model.train_step(batch).item())


def test_sizes_are_few_and_near() -> None:
    sizes = {padded_size(items) for items in range(70_000)}
    assert all(padded_size(size) == size for size in sizes)
    assert all(0 <= padded_size(n) - n <= max(256, n / 8) for n in range(1, 70_000, 7))
    assert len({size for size in sizes if 2**15 < size <= 2**16}) == 8


@pytest.mark.parametrize("extra", [{}, {"precision": "bf16"}, {"weight_average": 0.9}])
@pytest.mark.parametrize("name", FIXED)
def test_a_padded_step_is_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, extra: dict[str, Any]
) -> None:
    """Losses and weights of three steps, with rates that change."""
    monkeypatch.setattr(captured, "SMALLEST", 32)
    plain, fixed = (build(name, tmp_path, gpu=-1, cuda_graph=on, **extra) for on in (False, True))
    for model in (plain, fixed):
        model.train()
    for number in range(1, 4):
        batch = rows(24).batch() if number < 3 else rows(17).batch()
        losses = [step(model, batch, number) for model in (plain, fixed)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        plain.lr_decay()
        assert plain.lr_decay() == fixed.lr_decay(0.25)
    for (key, one), other in zip(
        plain.state_dict().items(), fixed.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", FIXED)
def test_padding_changes_no_logit_and_no_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, whole: bool
) -> None:
    """``whole``: the catalogue is encoded; else each id on its own, and not the distinct ones."""
    monkeypatch.setattr(items, "WHOLE_TABLE", {False: 9.0 if whole else 0.0})
    plain, fixed = (build(name, tmp_path, gpu=-1, cuda_graph=on) for on in (False, True))
    batch = rows(24).batch()
    found = []
    for model, given in ((plain, batch), (fixed, padded(batch, "item_seq"))):
        output = model.train()(given)
        model.add_loss(output, model.get_labels(given)).backward()
        found.append((output["logit"], {n: p.grad for n, p in model.named_parameters()}))
    (logit, gradients), (other_logit, other_gradients) = found
    torch.testing.assert_close(logit, other_logit)
    torch.testing.assert_close(gradients, other_gradients)


def test_padding_that_belonged_to_a_row_would_show(tmp_path: Path) -> None:
    """The item of the padding has a vector, so the test above can fail."""
    model = build("QIN", tmp_path, gpu=-1, cuda_graph=True).eval()
    batch = rows(24).batch()
    wrong = padded(batch, "item_seq")
    lengths = wrong["item_seq_length"]
    wrong["item_seq_length"] = torch.cat([lengths[:-2], lengths[-2:].sum()[None]])
    assert (model(batch)["logit"] - model(wrong)["logit"])[-1].abs() > 1e-3


class Recorded:
    """A recorder that replays by computing again; it notes what it was asked for."""

    def __init__(self, device: torch.device) -> None:
        self.asked: list[str] = []

    def warm_up(self, run: Any) -> Any:
        self.asked.append("warm up")
        return run()

    def record(self, run: Any) -> Any:
        self.asked.append("record")
        outputs = tuple(torch.zeros_like(output) for output in run())

        def replay() -> None:
            self.asked.append("replay")
            for output, value in zip(outputs, run(), strict=True):
                output.copy_(value)

        return replay, outputs


def summing(batch: Any, optimize: Any) -> tuple[Tensor, ...]:
    return (batch["item_seq"].sum() + batch["label"].sum(),)


def lists(lengths: list[int], first: int) -> dict[str, Tensor]:
    return {
        "item_seq": torch.arange(first, first + sum(lengths)),
        "item_seq_length": torch.tensor(lengths),
        "label": torch.tensor(lengths) * 1000,
    }


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.Adam([torch.nn.Parameter(torch.ones(2))], lr=0.1)


def test_a_shape_is_recorded_after_its_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorded(CPU)
    monkeypatch.setitem(captured.RECORDERS, "cpu", lambda device: recorder)
    monkeypatch.setattr(captured, "MOST", 2)
    step = CapturedStep(summing, optimizer(), CPU, "item_seq")
    kept = []
    for first in range(5):
        batch = lists([3, 0, 2], first)
        (value,) = step(batch)
        kept.append((value, batch["item_seq"].sum() + 5000))
    assert recorder.asked == ["warm up"] * 3 + ["record", "replay", "replay"]
    for number in range(2 * 5):  # two more shapes, of which one finds a place
        step(lists([1] * (2 + number % 2), first=7))
    assert step.recordings == 2
    assert recorder.asked.count("record") == 2
    for value, expected in kept:  # also those of earlier replays
        assert value == expected


def _refused() -> None:
    raise RuntimeError("operation not permitted\nwhen stream is capturing")


def _out_of_memory() -> None:
    try:
        raise RuntimeError("CUDA out of memory")
    finally:  # as torch.cuda.graph ends a recording
        raise RuntimeError("operation failed due to a previous error during capture")


@pytest.mark.parametrize(
    ("fail", "reason"),
    [(_refused, "operation not permitted"), (_out_of_memory, "CUDA out of memory")],
)
def test_a_step_that_cannot_be_recorded_says_what_broke_it(
    fail: Callable[[], None], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Recorded):
        def record(self, run: Any) -> Any:
            fail()

    monkeypatch.setitem(captured.RECORDERS, "cpu", Failing)
    step = CapturedStep(summing, optimizer(), CPU, "item_seq")
    with pytest.raises(InputError, match=rf"cuda_graph=False \({reason}\)$"):
        for first in range(4):
            step(lists([2], first))


def test_padded_histories_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs packed histories.*shape \(2, 3\)"):
        padded({"item_seq": torch.zeros(2, 3)}, "item_seq")


def test_rates_are_tensors_in_a_step_only() -> None:
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    weight.grad = torch.ones_like(weight)
    seen, capturable = [], []

    class Watched(torch.optim.Adam):
        def step(self) -> None:
            seen.append(self.param_groups[0]["lr"])
            capturable.append(self.param_groups[0]["capturable"])
            super().step()

    watched = Watched([weight], lr=0.1, fused=True)
    rates = TensorRates(watched, CPU)
    for rate, recorded in ((0.1, False), (0.025, True)):
        watched.param_groups[0]["lr"] = rate
        before = weight.detach().clone()
        rates.refresh()
        rates.step(recorded=recorded)
        assert capturable[-1] is recorded  # torch refuses the one and warns of the other
        assert watched.param_groups[0]["capturable"] is False  # nor does a state have it
        assert isinstance(seen[-1], Tensor)
        assert watched.param_groups[0]["lr"] == rate
        moved = torch.full_like(before, rate)  # Adam moves by the rate where all gradients are one
        torch.testing.assert_close(before - weight, moved, rtol=1e-6, atol=0)


def test_the_recorder_for_cuda_calls_torch_as_it_is() -> None:
    """Without a device: torch's own signatures, and the order of what is called."""
    calls: list[str] = []

    def noting(name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            calls.append(name)
            return nullcontext()

        return call

    cuda = torch.cuda
    stream, graph = (mock.create_autospec(kind) for kind in (cuda.Stream, cuda.CUDAGraph))
    recording = mock.create_autospec(cuda.graph, side_effect=noting("record"))
    stream.return_value.wait_stream.side_effect = noting("side waits")
    current = mock.create_autospec(cuda.Stream, instance=True)
    current.wait_stream.side_effect = noting("main waits")
    graph.return_value.replay.side_effect = noting("replay")
    with mock.patch.multiple(
        cuda,
        Stream=stream,
        CUDAGraph=graph,
        graph=recording,
        stream=mock.create_autospec(cuda.stream, side_effect=noting("on the side")),
        current_stream=mock.create_autospec(cuda.current_stream, return_value=current),
        graph_pool_handle=mock.create_autospec(cuda.graph_pool_handle, return_value=(0, 1)),
    ):
        recorder = captured.CudaRecorder(torch.device("cuda", 0))
        run = lambda: calls.append("run") or (torch.ones(1),)  # noqa: E731
        assert recorder.warm_up(run) == (torch.ones(1),)
        replay, outputs = recorder.record(run)
        replay()
    assert outputs == (torch.ones(1),)
    assert calls == [
        *("side waits", "on the side", "run", "main waits"),
        *("record", "run", "replay"),
    ]
    named = recording.call_args.kwargs
    assert named["pool"] == (0, 1)
    assert named["stream"] is stream.return_value


@pytest.mark.parametrize(
    ("model", "overrides", "expected"),
    [
        ("QIN_test", ["embedding_update=lazy"], "embedding_update is lazy, expected dense"),
        ("QIN_test", ["accumulation_steps=2"], "accumulation_steps is 2, expected 1"),
        ("QIN_test", ["optimizer=SGD"], "optimizer is SGD, expected adam or AdamW"),
        ("QIN_test", ["net_regularizer=l1(0.1)"], "a regularizer is l1(0.1), expected an L2 norm"),
        ("TransformerDCN_default", [], "TransformerDCN has no steps of fixed shapes"),
    ],
)
def test_settings_without_fixed_shapes_are_refused(
    model: str, overrides: list[str], expected: str
) -> None:
    experiment = load_experiment(ROOT / "config", model, ["cuda_graph=True", *overrides])
    with pytest.raises(InputError) as error:
        rehearse(experiment, build_feature_map)
    assert f"experiment '{model}': cuda_graph: True: {expected}" in str(error.value)


def test_without_a_device_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--config", str(ROOT / "config"), "--expid", "QIN_test", "--gpu", "-1"]
    assert run_expid.main([*arguments, "--set", "cuda_graph=True"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: experiment 'QIN_test': cuda_graph: True needs a CUDA device")
    assert list(tmp_path.iterdir()) == []


def test_fit_refuses_too(tmp_path: Path) -> None:
    model = build("QIN", tmp_path, gpu=-1, cuda_graph=True)
    with pytest.raises(InputError, match=r"needs a CUDA device"):
        model.fit([])


@pytest.mark.parametrize(("before", "now"), [({}, False), ({"cuda_graph": False}, True)])
def test_a_training_may_go_on_with_recorded_steps_or_without(
    tmp_path: Path, before: dict[str, bool], now: bool
) -> None:
    """They compute the same; a state of an earlier version does not know the setting."""
    path = tmp_path / "it.state"
    save_state(path, {"settings": {"seed": 1, **before}})
    assert load_state(path, {"seed": 1, "cuda_graph": now}) is not None
