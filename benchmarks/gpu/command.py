"""Everything about a CUDA device in one command: first whether it computes right, then how fast.

    python -m benchmarks.gpu --output gpu.json
    python -m benchmarks.gpu --device cpu --quick

It needs torch 2.9, FuxiCTR, polars and pydantic with what they bring; where Ray is missing, which
FuxiCTR imports and nothing here uses, a stand-in takes its place. Every figure goes to the JSON
file as soon as it is there, and those that compare variants to a table at the end. Exit code 0:
all checks hold; 1: one does not, or a part failed; 2: there is no CUDA device. ``--quick`` does
everything once on small sizes, also on the CPU, where its times mean nothing.

METHOD

Data is random and fresh: MicroLens_1M's sizes (91,718 items, histories with the quartiles of the
challenge's lengths), other rows in each of the batches that take turns.

Checks compare with the plain formulas of ``tests/oracles.py`` in float64 on the CPU, with the
same weights and without dropout: probabilities (their root mean square distance), losses and
gradients (the distance of all together relative to their length) in each precision, for packed
and padded histories, dense and lazy tables; the losses of steps of QIN and QIN+; recorded steps
against plain ones; a resumed training bit for bit against an uninterrupted one, with dropout,
under torch's deterministic algorithms; batches sent ahead on another stream, and rows kept on the
device, against the loader's on the CPU; steps under torch's refusal to synchronise.

A time is taken between two CUDA events around several steps, after warm-up steps (in which torch
compiles, chooses and records), so that queued work overlaps as in a training; the median over the
rounds is reported. Every variant is measured twice, in turn, and the distance of the two medians
is the noise: a smaller difference between variants is none. One request of the scorer is timed
alone, from ids in main memory to probabilities in main memory.

The floor of a step is what this device would need at the rates that it has for large products and
copies, measured in the same run: the quadratic layers' products (6 N R F² B operations), ten
passes over (B, F) activations of each layer and over the history's (T, D) vectors in bfloat16,
seven passes of dense Adam over the weights in float32.

A part that would begin after ``--minutes`` is left out and named; one that takes longer than 150
seconds, or is still at work 45 seconds after ``--minutes``, is ended. On CUDA the parts run in a
process of their own, and one that fails, dies or is ended costs its own figures only.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.ray_standin import stand_in_for_ray
from benchmarks.gpu.worker import Here, PartError, Worker

LONGEST = 150.0  # seconds of a part
Note = Callable[[str, Any], None]


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

    cuda = arguments.device == "cuda"
    device = torch.device("cuda", 0) if cuda else torch.device("cpu")
    size = QUICK if arguments.quick else Size()
    report = Report(arguments.output, arguments.minutes)
    runner: Here | Worker = Worker() if cuda else Here()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:

        def tried(part: str, note: Note, run: Callable[..., Any], *values: Any) -> Any:
            if not report.begins(part):
                return None
            try:
                found = runner.run(run, values, min(LONGEST, report.seconds_left))
            except PartError as error:  # a card is rare: the other parts are to be measured
                report.failure(part, error)
                return None
            note(part, found)
            return found

        def check(parts: dict[str, Callable[..., Any]]) -> None:
            for name, run in parts.items():
                tried(name, report.checks, run, folder, size, device)

        def measured(part: str, run: Callable[..., Any], *values: Any) -> Any:
            return tried(part, report.figures, run, folder, size, device, *values)

        whole = {"resume": loops.resume, "loading": loops.loading}
        if cuda:
            whole["resume, recorded"] = partial(loops.resume, recorded=True)
        try:
            tried("machine", report.machine, measures.machine, device)
            check(checks.CHECKS)
            if not arguments.checks:
                best, settings = _steps(tried, measured, report, size, device)
                for name in dict.fromkeys(["bf16", best]):
                    measured(f"profile, {name}", measures.slowest, settings[name])
                measured("requests", measures.requests)
                if cuda:
                    recorded = partial(measures.requests, recorded=True)
                    measured("recorded requests", recorded)
            check(whole)
            if not arguments.checks:
                of_epochs = best if cuda else "bf16"  # a CPU records nothing
                measured(f"epochs, {of_epochs}", loops.epochs, settings[of_epochs])
                rate = report.content.get("rates")
                for rows in size.larger if rate is not None else ():
                    part, variant = f"steps of {rows} rows", {best: settings[best]}
                    measured(part, measures.steps, rate, rows, variant)
        finally:
            runner.stop()
            print(table(report.content), flush=True)
    return 1 if report.failed else 0


def _steps(
    tried: Callable[..., Any], measured: Callable[..., Any], report: Any, size: Any, device: Any
) -> tuple[str, dict[str, dict[str, Any]]]:
    """Measure the steps of all variants; the fastest in bf16, and the settings of each."""
    from benchmarks.gpu import measures

    rate = tried("rates", report.figures, measures.rates, size, device)
    compiler = tried("compiler", report.figures, measures.compiler, device)
    settings = measures.variants(compiler is not None and compiler["works"])
    part = f"steps of {size.rows} rows"
    found: dict[str, Any] = {}
    if rate is not None:
        found = measured(part, measures.steps, rate, size.rows, settings) or {}
        if not found and part in report.content.get("errors", {}):
            for name, values in settings.items():  # all but the one that cannot
                variant = {name: values}
                alone = measured(f"{part}, {name}", measures.steps, rate, size.rows, variant)
                found |= alone or {}
    measured("steps of other models", measures.others)
    names = [name for name in found if name != "fp32"]
    return min(names, key=lambda name: found[name]["ms"]) if names else "bf16", settings
