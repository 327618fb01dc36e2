"""How fast a device is, and what it does with that."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.checks import MODELS
from benchmarks.gpu.made import (
    Size,
    Turns,
    batches_of,
    catalogue,
    in_turn,
    model_of,
    seconds,
)
from benchmarks.official import MAX_LEN, NUM_LAYERS, NUM_LEVELS, NUM_ROW, Batch
from model_zoo.core.serving.file import FoldedFile
from model_zoo.core.serving.ids import Ids
from model_zoo.core.serving.scorer import Scorer
from model_zoo.core.training.captured import WARM_UP, CudaRecorder
from model_zoo.core.training.extras import can_compile
from model_zoo.QIN.fold import fold

PASSES, ADAM_PASSES = 10, 7
WAITING = (
    "StreamSynchronize",
    "EventSynchronize",
    "_local_scalar_dense",
    "aten::nonzero",
    "aten::_unique2",
)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def machine(device: torch.device) -> dict[str, Any]:
    """What is measured."""
    if device.type != "cuda":
        return {"device": platform.processor() or "CPU"}
    card = torch.cuda.get_device_properties(device)
    triton = importlib.util.find_spec("triton")
    return {
        "device": card.name,
        "cuda": torch.version.cuda,
        "capability": f"{card.major}.{card.minor}",
        "memory GiB": round(card.total_memory / 2**30, 1),
        "multiprocessors": card.multi_processor_count,
        "triton": None if triton is None else importlib.metadata.version("triton"),
    }


def rates(size: Size, device: torch.device) -> dict[str, float]:
    """FLOP/s of a large product in each precision, and bytes/s read and written by a copy."""
    found = {}
    n = size.product
    for name, dtype in DTYPES.items():
        left, right = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        found[f"FLOP/s {name}"] = 2 * n**3 / _median(lambda a=left, b=right: a @ b, size, device)
    source = torch.randn(8 * n * n, device=device)
    target = torch.empty_like(source)
    copied = _median(lambda: target.copy_(source), size, device)
    found["bytes/s"] = 2 * source.nbytes / copied
    return found


def _median(run: Callable[[], object], size: Size, device: torch.device) -> float:
    run()
    return float(np.median([seconds(run, size.steps, device) for _ in range(size.rounds)]))


def compiler(device: torch.device) -> dict[str, bool]:
    """Whether ``torch.compile`` works on the device; on a CPU it is not compared."""
    return {"works": device.type == "cuda" and can_compile(device)}


def variants(compiles: bool) -> dict[str, dict[str, Any]]:
    """Settings of the steps that are compared."""
    found: dict[str, dict[str, Any]] = {
        "fp32": {},
        "bf16": {"precision": "bf16"},
        "bf16, cuda_graph": {"precision": "bf16", "cuda_graph": True},
    }
    if compiles:
        found["bf16, compile"] = {"precision": "bf16", "compile": True}
        found["bf16, compile, cuda_graph"] = found["bf16, compile"] | {"cuda_graph": True}
    return found


def floor(model: Any, rows: int, items: int, rate: dict[str, float]) -> float:
    """Seconds of a bf16 step at the rates of large products and copies."""
    width, weights = model.qnn.layers[0].dim, sum(p.numel() for p in model.parameters())
    flop = 6 * NUM_LAYERS * NUM_ROW * width**2 * rows
    activations = PASSES * 2 * (NUM_LAYERS * rows * width + items * model.item_dim)
    return flop / rate["FLOP/s bf16"] + (activations + 4 * ADAM_PASSES * weights) / rate["bytes/s"]


class Timed(NamedTuple):
    """Steps of one variant: seconds of one, its noise, and bytes at the peak."""

    seconds: float
    noise: float
    peak: int
    model: Any


def _timed(
    folder: str,
    size: Size,
    device: torch.device,
    drawn: list[Batch],
    settings: dict[str, dict[str, Any]],
) -> dict[str, Timed]:
    """Whole optimizer steps of every variant, two measurements of each in turn."""
    columns, runs, models, peaks = catalogue(size), {}, {}, {}
    for name, values in settings.items():
        before = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)  # of the variants before
        models[name] = model_of(folder, size, columns, device, **values)
        runs[name] = Turns(models[name].train_step, drawn)
        for _ in range((WARM_UP + 2) * len(drawn)):
            runs[name]()
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        peaks[name] = peak - before
    return {
        name: Timed((one + other) / 2, 2 * abs(one - other) / (one + other), peaks[name], model)
        for (name, model), (one, other) in zip(
            models.items(), in_turn(runs, size, device).values(), strict=True
        )
    }


def steps(
    folder: str,
    size: Size,
    device: torch.device,
    rate: dict[str, float],
    rows: int,
    settings: dict[str, dict[str, Any]],
) -> dict[str, dict[str, float]]:
    """Of QIN, beside what the device could do."""
    drawn = batches_of(size, rows, device)
    items = sum(len(batch["item_seq"]) for batch in drawn) / len(drawn)
    found = {}
    for name, timed in _timed(folder, size, device, drawn, settings).items():
        flop = 6 * NUM_LAYERS * NUM_ROW * timed.model.qnn.layers[0].dim ** 2 * rows
        found[name] = _common(timed, rows) | {
            "TFLOP/s of the products": flop / timed.seconds / 1e12,
            "share of the floor": floor(timed.model, rows, round(items), rate) / timed.seconds,
        }
    return found


def others(folder: str, size: Size, device: torch.device) -> dict[str, dict[str, float]]:
    """Of the models besides QIN."""
    settings = {
        f"{model}, bf16{', cuda_graph' * recorded}": values
        | {"model": model, "precision": "bf16", "cuda_graph": recorded}
        for model, values in MODELS.items()
        if model != "QIN"
        for recorded in (False, True)
    }
    drawn = batches_of(size, size.rows, device)
    timed = _timed(folder, size, device, drawn, settings)
    return {name: _common(one, size.rows) for name, one in timed.items()}


def _common(timed: Timed, rows: int) -> dict[str, float]:
    return {
        "ms": 1e3 * timed.seconds,
        "noise": timed.noise,
        "rows/s": rows / timed.seconds,
        "peak MiB": timed.peak / 2**20,
    }


def slowest(
    folder: str, size: Size, device: torch.device, settings: dict[str, Any]
) -> dict[str, Any]:
    """The ten kernels that take longest in a step, launches, and where the CPU waits."""
    model = model_of(folder, size, catalogue(size), device, **settings)
    run = Turns(model.train_step, batches_of(size, size.rows, device, 1))
    for _ in range(WARM_UP + 2):
        run()
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    count = 5
    with profile(activities=activities) as record:
        for _ in range(count):
            run()
        if cuda:
            torch.cuda.synchronize(device)
    events = record.key_averages()

    def own(event: Any) -> float:
        return float(event.self_device_time_total if cuda else event.self_cpu_time_total)

    kernels = [e for e in events if not cuda or e.device_type == DeviceType.CUDA]
    kernels = sorted((e for e in kernels if not e.is_user_annotation), key=own, reverse=True)
    waiting = {e.key: e.count for e in events if any(word in e.key for word in WAITING)}
    launches = sum(e.count for e in events if "Launch" in e.key)
    return {
        "kernels, us a step": {e.key[:80]: own(e) / count for e in kernels[:10]},
        "launches a step": launches / count,
        "waits a step": {key: number / count for key, number in waiting.items()},
    }


def requests(
    folder: str, size: Size, device: torch.device, *, recorded: bool = False
) -> dict[str, dict[str, float]]:
    """One user with many candidates, from ids in main memory to probabilities there."""
    cpu = torch.device("cpu")  # a model folds there
    model = model_of(folder, size, catalogue(size), cpu, net_dropout=0.0).eval()
    found = {}
    for name, dtype in DTYPES.items():
        folded = fold(model, dtype=dtype).to(device)
        way, score = f"scorer, {name}", Scorer(FoldedFile(folded, Ids("item_id"), MAX_LEN)).score
        if recorded:
            way, score = f"CUDA graph, {name}", RecordedScorer(folded, size, device)
        times = []
        for number in range(size.requests + 10):
            history = torch.randint(1, size.items, (MAX_LEN,))
            ids = torch.randint(1, size.items, (size.candidates,))
            context = {
                n: torch.randint(1, NUM_LEVELS, (size.candidates,)) for n in model.row_features
            }
            start = time.perf_counter()
            score(history, ids, context).cpu()
            if number >= 10:
                times.append(time.perf_counter() - start)
        p50, p99 = np.percentile(times, [50, 99])
        found[way] = {"p50 ms": 1e3 * p50, "p99 ms": 1e3 * p99}
    return found


class RecordedScorer:
    """A folded model's forward pass for requests of one size, as one CUDA graph."""

    def __init__(self, folded: Any, size: Size, device: torch.device) -> None:
        self._inputs = {
            "history": torch.ones(MAX_LEN, dtype=torch.long, device=device),
            "candidates": torch.ones(size.candidates, dtype=torch.long, device=device),
            "context": {
                f.name: torch.ones(size.candidates, dtype=torch.long, device=device)
                for f in folded.row_features
            },
        }
        recorder = CudaRecorder(device)

        @torch.inference_mode()
        def run() -> tuple[Tensor, ...]:
            return (torch.sigmoid(folded(*self._inputs.values())[0]),)

        for _ in range(WARM_UP):
            recorder.warm_up(run)
        self._replay, (self._probability,) = recorder.record(run)

    def __call__(self, history: Tensor, candidates: Tensor, context: dict[str, Tensor]) -> Tensor:
        self._inputs["history"].copy_(history.pin_memory(), non_blocking=True)
        self._inputs["candidates"].copy_(candidates.pin_memory(), non_blocking=True)
        for name, values in context.items():
            self._inputs["context"][name].copy_(values.pin_memory(), non_blocking=True)
        self._replay()
        return self._probability
