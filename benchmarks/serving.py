"""Scoring: the unfolded formulas against the folded model, its exports, and prediction.py.

    python -m benchmarks.serving --rows
    python -m benchmarks.serving --user
    python -m benchmarks.serving --prediction QIN_MicroLens_50k_x1

The paper's set-up on data of MicroLens_1M's sizes with random weights, medians, everything of a
table in one process and one run. The last one runs whole commands on an experiment that has been
trained in the working directory.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.official import (
    MAX_LEN,
    NUM_ITEMS,
    NUM_LAYERS,
    NUM_LEVELS,
    Batch,
    build,
    draw_batch,
    item_columns,
)
from benchmarks.training import seconds
from model_zoo.core.data.spec import LENGTH_SUFFIX
from model_zoo.core.serving.export import SUFFIX, export_folded, load_program
from model_zoo.core.serving.file import FoldedFile
from model_zoo.core.serving.ids import Ids
from model_zoo.core.serving.scorer import Scorer
from model_zoo.QIN.fold import fold
from model_zoo.QIN.folded import FoldedQIN
from tests.oracles import PlainQIN

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Steps = dict[str, Callable[[], object]]


def trained_like(folder: str) -> Any:
    """The paper's model with weights of a trained model's size, in evaluation."""
    torch.manual_seed(0)
    model = build(folder, "fp32", item_columns())
    for parameter in model.embedding_layer.parameters():
        nn.init.normal_(parameter, std=0.05)
    for module in model.embedding_layer.modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            module.weight.data[module.padding_idx] = 0
    with torch.no_grad():  # moves the statistics of the batch normalisation
        model(draw_batch(2048, "challenge")[1])
    return model.eval()


def flop(model: FoldedQIN, rows: int, items: int) -> int:
    """Of ``rows`` rows with ``items`` history items in all."""
    width, dim = model.width, model.dim
    return 2 * (rows * ((width + dim) * dim + (NUM_LAYERS - 1) * width**2) + 2 * items * dim)


def matrix_rate(rows: int, width: int, dtype: torch.dtype, rounds: int) -> float:
    """FLOP/s of torch.mm alone on the shapes of a layer."""
    x, w = torch.randn(rows, width).to(dtype), torch.randn(width, width).to(dtype)
    torch.mm(x, w)
    took = median(seconds(lambda: torch.mm(x, w)) for _ in range(5 * rounds))
    return 2 * rows * width**2 / took


def in_turn(steps: Steps, rounds: int) -> dict[str, float]:
    """Median seconds of each: in every round each warms up and is then measured."""
    took: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            step()
            took[name] += [seconds(step), seconds(step)]
    return {name: median(times) for name, times in took.items()}


def differences(model: Any, folded: dict[str, FoldedQIN], padded: Batch, packed: Batch) -> None:
    exact = PlainQIN(copy.deepcopy(model).double()).eval()
    some = slice(0, 1024)
    expected = exact({n: v[some] for n, v in padded.items()}).squeeze(1).sigmoid()
    for name, one in folded.items():
        logit = one.rows(*row_arguments(model, packed))[0][some]
        print(f"  {name}: max |Δp| against float64 {(logit.sigmoid() - expected).abs().max():.1e}")


def row_arguments(model: Any, packed: Batch) -> tuple[Any, ...]:
    context = {name: packed[name] for name in model.row_features}
    length = packed["item_seq" + LENGTH_SUFFIX]
    return packed["item_id"], packed["item_seq"].long(), length, context


def compare_rows(arguments: argparse.Namespace, folder: str) -> None:
    model = trained_like(folder)
    folded = {name: fold(model, dtype=dtype) for name, dtype in DTYPES.items()}
    plain = PlainQIN(model).eval()
    rows = arguments.batch_size
    for name, one in folded.items():
        size = sum(table.nbytes for table in one.item_tables.values())
        print(f"{name}: item tables {size / 2**20:,.0f} MiB, {size / one.num_items:,.0f} B an item")
    for history in ("full", "challenge"):
        padded, packed = draw_batch(rows, history)
        items = len(packed["item_seq"])
        print(f"{history} histories, {items / rows:.1f} items a row; batches of {rows:,} rows")
        differences(model, folded, padded, packed)
        given = row_arguments(model, packed)
        steps: Steps = {"plain fp32": lambda padded=padded: plain(padded)}
        for name, one in folded.items():
            steps[f"folded {name}"] = lambda one=one, given=given: one.rows(*given)
        took = in_turn(steps, arguments.rounds)
        for name, s in took.items():
            line = f"  {name:<12}{rows / s:>9,.0f} rows/s   x {took['plain fp32'] / s:5.1f}"
            if name.startswith("folded"):
                kind = name.split()[1]
                rate = matrix_rate(rows, folded[kind].width, DTYPES[kind], arguments.rounds)
                limit = flop(folded[kind], rows, items) / rate
                line += (
                    f"   torch.mm {rate / 1e9:,.0f} GFLOP/s allows {limit * 1e3:.1f} ms, "
                    f"takes {s * 1e3:.1f} ms: {limit / s:.0%}"
                )
            print(line)


def compare_user(arguments: argparse.Namespace, folder: str) -> None:
    model = trained_like(folder)
    plain = PlainQIN(model).eval()
    models = {name: fold(model, dtype=dtype) for name, dtype in DTYPES.items()}
    scorers = {
        f"scorer {name}": Scorer(FoldedFile(one, Ids("item_id"), MAX_LEN))
        for name, one in models.items()
    }
    programs = {}
    for kind, dtype in (("torch", "fp32"), ("onnx", "fp32"), ("aoti", "fp32"), ("aoti", "bf16")):
        if kind not in arguments.formats:
            continue
        path = Path(folder) / f"{dtype}{SUFFIX[kind]}"
        start = time.perf_counter()
        difference = export_folded(models[dtype], path, kind)
        print(
            f"{kind} {dtype}: exported in {time.perf_counter() - start:.0f} s, "
            f"{path.stat().st_size / 2**20:,.0f} MiB, max |Δp| {difference:.1e}"
        )
        programs[f"{kind} {dtype}"] = load_program(path, kind)
    for candidates in (1, 100, 1000):
        requests = arguments.requests if candidates == 1000 else arguments.requests // 5
        print(f"one user, {candidates:,} candidates, history {MAX_LEN}; {requests:,} requests")
        first = None
        for name, score in {"plain fp32": plain, **scorers, **programs}.items():
            count = 5 if name.startswith("plain") else requests
            times = [seconds(request(name, score, model, candidates)) for _ in range(count + 3)][3:]
            p50, p99 = np.percentile(times, [50, 99])
            first = first or p50
            print(
                f"  {name:<12} p50 {p50 * 1e3:8.2f} ms   p99 {p99 * 1e3:8.2f} ms   "
                f"x {first / p50:5.1f}"
            )


def request(name: str, score: Any, model: Any, candidates: int) -> Callable[[], object]:
    """One request with its own random user and candidates."""
    history = torch.randint(1, NUM_ITEMS, (MAX_LEN,))
    ids = torch.randint(1, NUM_ITEMS, (candidates,))
    context = {n: torch.randint(1, NUM_LEVELS, (candidates,)) for n in model.row_features}
    if name.startswith("plain"):
        batch = {"item_id": ids, "item_seq": history.repeat(candidates, 1), **context}
        return lambda: torch.sigmoid(score(batch))
    if name.startswith("scorer"):
        return lambda: score.score(history, ids, context)
    return lambda: score([history, ids, *context.values()])


def compare_prediction(arguments: argparse.Namespace) -> None:
    """Whole commands: prediction.py, and the unfolded model through FuxiCTR's predict."""
    script = Path(__file__).resolve().parent.parent / "prediction.py"
    common = ["--expid", arguments.prediction, "--config", str(script.parent / "config")]
    common += ["--set", *arguments.set] if arguments.set else []
    commands = {
        "unfolded, FuxiCTR's predict": [sys.executable, "-m", "benchmarks.unfolded", *common],
        "prediction.py": [sys.executable, str(script), *common],
    }
    steps: Steps = {
        name: lambda command=command: subprocess.run(command, check=True, capture_output=True)
        for name, command in commands.items()
    }
    took = in_turn(steps, arguments.rounds)
    first = next(iter(took.values()))
    for name, s in took.items():
        print(f"  {name:<28}{s:7.1f} s   x {first / s:5.1f}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", action="store_true", help="batches of rows")
    parser.add_argument("--user", action="store_true", help="one user, many candidates")
    parser.add_argument("--prediction", metavar="EXPID", help="prediction.py, end to end")
    parser.add_argument("--set", nargs="+", metavar="KEY=VALUE", help="settings of EXPID")
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--formats", nargs="*", default=["torch", "onnx", "aoti"])
    arguments = parser.parse_args(argv)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False), torch.no_grad():
        if arguments.rows:
            compare_rows(arguments, folder)
        if arguments.user:
            compare_user(arguments, folder)
    if arguments.prediction:
        compare_prediction(arguments)


if __name__ == "__main__":
    main()
