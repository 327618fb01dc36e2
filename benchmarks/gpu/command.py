"""Everything about a CUDA device in one command: first whether it computes right, then how fast.

    python -m benchmarks.gpu --output gpu.json
    python -m benchmarks.gpu --device cpu --quick

It needs torch 2.9, FuxiCTR and polars with what they bring; where Ray is missing, which FuxiCTR
imports and nothing here uses, a stand-in takes its place. Every figure goes to the JSON file as
soon as it is there, and those that compare variants to a table at the end. Exit code 0: all checks
hold; 1: one
does not; 2: there is no CUDA device. ``--quick`` does everything once on small sizes, also on the
CPU, where its times mean nothing.

METHOD

Data is random and fresh: MicroLens_1M's sizes (91,718 items, histories with the quartiles of the
challenge's lengths), other rows in each of the batches that take turns.

Checks compare with the plain formulas of ``tests/oracles.py`` in float64 on the CPU, with the
same weights and without dropout: probabilities, losses and gradients (the distance of all
gradients together relative to their length) in each precision, for packed and padded histories,
dense and lazy tables; the losses of steps; recorded steps against plain ones; a resumed training
bit for bit against an uninterrupted one, with dropout, under torch's deterministic algorithms;
batches sent ahead on another stream, and rows kept on the device, against the loader's on the CPU;
steps under torch's refusal to synchronise.

A time is taken between two CUDA events around several steps, after warm-up steps (in which torch
compiles, chooses and records), so that queued work overlaps as in a training; the median over the
rounds is reported. Every variant is measured twice, in turn, and the distance of the two medians
is the noise: a smaller difference between variants is none. One request of the scorer is timed
alone, from ids in main memory to probabilities in main memory.

The floor of a step is what this device would need at the rates that it has for large products and
copies, measured in the same run: the quadratic layers' products (6 N R F² B operations), ten
passes over (B, F) activations of each layer and over the history's (T, D) vectors in bfloat16,
seven passes of dense Adam over the weights in float32.

A part that would begin after ``--minutes`` is left out and named.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.ray_standin import stand_in_for_ray


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="once, on small sizes")
    parser.add_argument("--checks", action="store_true", help="the checks only")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--minutes", type=float, default=7.0, help="after which no part begins")
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(
            "error: there is no CUDA device here; --device cpu --quick tries the checks on the CPU",
            file=sys.stderr,
        )
        return 2
    if arguments.device == "cpu" and not arguments.quick:
        print("error: --device cpu needs --quick: it has no time to measure", file=sys.stderr)
        return 2
    # Before the first product: deterministic ones need it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if stand_in_for_ray():
        print("Ray is not installed: a stand-in takes its place")
    return measure(arguments)


def measure(arguments: argparse.Namespace) -> int:
    # FuxiCTR is imported when the stand-in for Ray is there.
    from benchmarks.gpu import checks, loops, measures
    from benchmarks.gpu.made import QUICK, Size
    from benchmarks.gpu.report import Report, table

    device = torch.device("cuda", 0) if arguments.device == "cuda" else torch.device("cpu")
    size = QUICK if arguments.quick else Size()
    report = Report(arguments.output, device, arguments.minutes)
    parts = {**checks.CHECKS, "resume": loops.resume, "loading": loops.loading}
    with tempfile.TemporaryDirectory() as folder:

        def tried(part: str, run: Callable[[], Any], note: Callable[[str, Any], None]) -> Any:
            if not report.begins(part):
                return None
            try:
                found = run()
            except Exception as error:  # a card is rare: the other parts are to be measured
                report.failure(part, error)
                return None
            note(part, found)
            return found

        for name, check in parts.items():
            tried(name, lambda check=check: check(folder, size, device), report.checks)
        if not arguments.checks:
            figures = report.figures
            rate = tried("rates", lambda: measures.rates(size, device), figures)
            if rate is not None:
                settings = measures.variants(device)
                part = f"steps of {size.rows} rows"
                found = tried(
                    part,
                    lambda: measures.steps(folder, size, device, rate, size.rows, settings),
                    figures,
                )
                names = [name for name in found or {} if name != "fp32"]
                best = min(names, key=lambda name: found[name]["ms"]) if names else "bf16"
                for name in dict.fromkeys(["bf16", best]):
                    tried(
                        f"profile, {name}",
                        lambda name=name: measures.slowest(folder, size, device, settings[name]),
                        figures,
                    )
                tried("requests", lambda: measures.requests(folder, size, device), figures)
                of_epochs = best if device.type == "cuda" else "bf16"  # a CPU records nothing
                tried(
                    f"epochs, {of_epochs}",
                    lambda: loops.epochs(folder, size, device, settings[of_epochs]),
                    figures,
                )
                for rows in size.larger:
                    tried(
                        f"steps of {rows} rows",
                        lambda rows=rows: measures.steps(
                            folder, size, device, rate, rows, {best: settings[best]}
                        ),
                        figures,
                    )
        print(table(report.content))
    return 1 if report.failed else 0
