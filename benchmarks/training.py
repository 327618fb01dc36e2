"""Training on CPU: rows per second of the formulas as printed, QIN in float32, QIN in bfloat16.

    python -m benchmarks.training --history full challenge
    python -m benchmarks.training --overhead

The paper's set-up on data of MicroLens_1M's sizes: whole optimizer steps (forward, backward,
L2 penalty, clipping, Adam), the three in turn in one process, medians over the rounds. Items are
drawn uniformly, which is the hardest case for encoding each distinct item once. The plain
baseline computes its step in pieces of ``--plain-rows`` rows, as a batch of 8,192 padded
histories does not fit into every memory; its optimizer still steps once for the whole batch.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from fuxictr.pytorch.layers import FeatureEmbeddingDict
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.official import (
    DIM,
    LEARNING_RATE,
    MAX_NORM,
    NUM_LAYERS,
    NUM_ROW,
    REGULARIZER,
    Batch,
    build,
    draw_batch,
    item_columns,
)
from model_zoo.core.kernels import linear, outer
from model_zoo.core.memory import keep_freed_memory
from model_zoo.QIN.model import QIN
from tests.oracles import PlainQIN


class PlainTraining:
    """The baseline's optimizer step, its batch in pieces so that it fits into memory."""

    def __init__(self, model: QIN, rows: int) -> None:
        self.plain = PlainQIN(model).train()
        self.rows = rows
        self.optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        self.tables = [
            parameter
            for module in model.modules()
            if isinstance(module, FeatureEmbeddingDict)
            for parameter in module.parameters()
        ]

    def __call__(self, batch: Batch) -> None:
        total = len(batch["label"])
        for start in range(0, total, self.rows):
            piece = {name: column[start : start + self.rows] for name, column in batch.items()}
            y_pred = torch.sigmoid(self.plain(piece))
            loss = nn.functional.binary_cross_entropy(y_pred, piece["label"].unsqueeze(1))
            (loss * (len(y_pred) / total)).backward()
        penalty = sum(torch.norm(table) ** 2 for table in self.tables)
        (REGULARIZER / 2 * penalty).backward()
        nn.utils.clip_grad_norm_(self.plain.parameters(), MAX_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def products(rows: int, dtype: torch.dtype, *, plain: bool) -> Callable[[], None]:
    """The QNN's matrix products of one step and nothing else: output, both gradients, N times."""
    x = torch.randn(rows, DIM).to(dtype)
    weight = torch.randn(NUM_ROW * DIM, DIM).to(dtype)
    grad = torch.randn(rows, NUM_ROW * DIM).to(dtype)

    def run() -> None:
        for _ in range(NUM_LAYERS):
            if plain:
                torch.mm(x, weight.t())
                torch.mm(grad, weight)
                torch.mm(grad.t(), x)
            else:
                linear(x, weight)
                linear(grad, weight.t())
                outer(grad, x)

    return run


def compare(history: str, arguments: argparse.Namespace, folder: str) -> None:
    torch.manual_seed(0)
    rows = arguments.batch_size
    padded, packed = draw_batch(rows, history)
    columns = item_columns()
    models = {name: build(folder, name, columns) for name in ("fp32", "bf16")}
    plain = PlainTraining(build(folder, "fp32", columns), arguments.plain_rows)
    steps: dict[str, Callable[[], object]] = {
        "plain fp32": lambda: plain(padded),
        "QIN fp32": lambda: models["fp32"].train_step(packed),
        "QIN bf16": lambda: models["bf16"].train_step(packed),
    }
    if arguments.only:
        steps = {name: step for name, step in steps.items() if arguments.only in name}
    took: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            gc.collect()
            # As in fit; a plain program leaves the C library's memory as it is.
            with nullcontext() if name.startswith("plain") else keep_freed_memory():
                step()
                took[name].append(seconds(step))
    step = {name: statistics.median(times) for name, times in took.items()}
    mean = packed["item_seq_length"].double().mean()
    print(f"{history} histories, {mean:.1f} items a row on average; batches of {rows:,} rows")
    first = next(iter(step))
    for name, s in step.items():
        low, high = min(took[name]), max(took[name])
        print(
            f"  {name:<12}{rows / s:>8,.0f} rows/s   x {step[first] / s:5.2f}   "
            f"step {s:6.2f} s ({low:.2f} to {high:.2f})"
        )
    if arguments.profile:
        for name, run in steps.items():
            show_operators(name, run)
    flop = 6 * NUM_LAYERS * NUM_ROW * DIM * DIM * rows
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        alone = {}
        for kind in ("torch.mm", "QIN's"):
            run = products(rows, dtype, plain=kind == "torch.mm")
            alone[kind] = statistics.median(seconds(run) for _ in range(arguments.rounds))
        report = ", ".join(f"{kind} {flop / s / 1e9:,.0f}" for kind, s in alone.items())
        print(f"  {name}: GFLOP/s of the QNN's products alone: {report}", end="")
        if f"QIN {name}" in step:
            s = step[f"QIN {name}"]
            share = alone["QIN's"] / s
            print(f"; in the whole step {flop / s / 1e9:,.0f}; share of the step {share:.0%}")
        else:
            print()


def show_operators(name: str, step: Callable[[], object]) -> None:
    """The operators that take most of a step, and which part of it each takes."""
    with profile(activities=[ProfilerActivity.CPU]) as record:
        step()
    events = record.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    print(f"  {name}, shares of the step:")
    for event in sorted(events, key=lambda event: -event.self_cpu_time_total)[:10]:
        print(f"    {event.key[:60]:<60}{event.self_cpu_time_total / total:6.1%}")


class Repeated:
    """A loader that yields one batch again and again."""

    def __init__(self, batch: Batch, times: int) -> None:
        self.batch, self.times = batch, times
        self.num_samples = times * len(batch["label"])

    def __len__(self) -> int:
        return self.times

    def __iter__(self) -> Iterator[Batch]:
        return iter([self.batch] * self.times)


def overhead(arguments: argparse.Namespace, folder: str) -> None:
    """What ``fit`` takes besides the steps and the evaluation, with states and progress bar."""
    torch.manual_seed(0)
    _, packed = draw_batch(arguments.batch_size, "challenge")
    model = build(folder, "bf16", item_columns())
    model._shows_progress = True  # also where no terminal is
    Path(model.checkpoint).parent.mkdir(parents=True)
    model.keep_states({})
    inside = {"step": 0.0, "evaluation": 0.0, "states and weights": 0.0}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                inside[name] += time.perf_counter() - start

        return run

    model.train_step(packed)  # warms up
    model.train_step = timed("step", model.train_step)
    model.evaluate = timed("evaluation", model.evaluate)
    model._save = timed("states and weights", model._save)
    model.save_weights = timed("states and weights", model.save_weights)
    steps = 8 * arguments.rounds
    total = seconds(
        lambda: model.fit(Repeated(packed, steps), epochs=1, validation_data=Repeated(packed, 1))
    )
    rest = total - sum(inside.values())
    print(f"fit over {steps} batches of {arguments.batch_size:,} rows, bf16, {total:.1f} s:")
    for name, s in (*inside.items(), ("the loop itself", rest)):
        print(f"  {name:<20}{s:8.2f} s   {s / inside['step']:7.2%} of the steps")
    saved = inside["states and weights"]
    # An epoch of the official data is 440 batches, with one state and one set of weights.
    epoch = 440 * inside["step"] / steps
    print(f"  in an epoch of 440 batches: {(saved + rest * 440 / steps) / epoch:.2%} of the steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=8192)
    parser.add_argument("--plain-rows", type=int, default=1024, help="rows of a baseline's piece")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--history", nargs="+", choices=["full", "challenge"])
    parser.add_argument("--only", help="part of the name of what to measure, such as bf16")
    parser.add_argument("--profile", action="store_true", help="show the operators of a step too")
    parser.add_argument("--overhead", action="store_true", help="measure the loop instead")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.overhead:
            overhead(arguments, folder)
            return
        for history in arguments.history or ["full", "challenge"]:
            compare(history, arguments, folder)


if __name__ == "__main__":
    main()
