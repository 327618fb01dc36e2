"""What ``python -m benchmarks.suite`` does, step by step."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from benchmarks.suite.baselines import PREDICTIONS
from benchmarks.suite.picture import draw
from benchmarks.suite.plan import Plan, Suite, load_suites, suite_names
from benchmarks.suite.report import report, results_of
from benchmarks.suite.run import ROOT, Runner, model_root
from benchmarks.suite.store import Line, Store, best_trial
from model_zoo.core.commands.cli import run_command
from model_zoo.core.commands.experiment import prepare_dataset
from model_zoo.core.commands.submission import write_submission
from model_zoo.core.errors import InputError
from model_zoo.core.files import write_aside
from model_zoo.core.locks import held


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run, or go on with, a suite of experiments.")
    parser.add_argument("--suite", required=True, choices=suite_names())
    parser.add_argument("--datasets", nargs="+", default=["MicroLens_demo"], metavar="DATASET")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--rows", nargs="+", default=[], help="only these rows of the suite")
    parser.add_argument("--out", type=Path, default=Path("results/suite"), help="folder to write")
    parser.add_argument("--config", default=str(ROOT / "config"), help="folder with the YAML files")
    parser.add_argument("--gpu", type=int, default=-1, help="CUDA device, -1 for CPU")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--search", action="store_true", help="search settings before the seeds")
    parser.add_argument("--retry", action="store_true", help="run again what failed")
    parser.add_argument("--report", action="store_true", help="only write the report again")
    parser.add_argument(
        "--predict", action="store_true", help="only score the test split with finished runs"
    )
    return run_command(_run, parser, argv)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.jobs < 1:
        raise InputError(f"--jobs {arguments.jobs}: expected at least 1")
    suite = load_suites()[arguments.suite]
    store = Store(arguments.out / f"{arguments.suite}.jsonl")
    if arguments.predict:
        for dataset in arguments.datasets:
            plan = Plan(arguments.suite, suite, dataset, arguments.config, arguments.rows)
            predict(plan, store, arguments.out)
        return
    if not arguments.report:
        signal.signal(signal.SIGTERM, _interrupt)  # ends the runs too
        with held(store.path.with_suffix(".lock"), str(store.path)):
            run_suite(arguments, suite, store)
    write_report(arguments.suite, suite, store, arguments.out)


def run_suite(arguments: argparse.Namespace, suite: Suite, store: Store) -> None:
    """Run what has not run yet, row by row, and write the report after each.

    Raises:
        InputError: If a setting of any run is wrong; nothing is run then.
    """
    runner = Runner(
        store,
        arguments.out / "runs",
        arguments.config,
        jobs=arguments.jobs,
        gpu=arguments.gpu,
        retry=arguments.retry,
    )
    plans = [
        Plan(arguments.suite, suite, dataset, arguments.config, arguments.rows)
        for dataset in arguments.datasets
    ]
    for plan in plans:
        for row in plan.rows:
            trials = plan.trials(row) if arguments.search else []
            for run in [*trials[:1], *trials[-1:], *plan.seeds(row, [0])]:
                run.experiment(arguments.config)  # complains about wrong settings
    for plan in plans:
        first = plan.seeds(plan.rows[0], [0])[0]
        prepare_dataset(first.experiment(arguments.config))  # once, not by several runs at once
        for row in plan.rows:
            chosen = None
            if arguments.search:
                runner.run(plan.trials(row))
                best = best_trial(store.lines(), plan.dataset, row)
                if best is None:
                    continue  # all have failed, as the report says
                chosen = best["settings"]
            runner.run(plan.seeds(row, list(dict.fromkeys(arguments.seeds)), chosen))
            write_report(arguments.suite, suite, store, arguments.out)


def write_report(name: str, suite: Suite, store: Store, out: Path) -> None:
    """Write ``<out>/<name>.md`` and ``<out>/<name>.png`` from the stored lines."""
    lines = store.lines()
    with write_aside(out / f"{name}.md") as partial:
        partial.write_text(report(name, suite, lines), encoding="utf-8")
    datasets = dict.fromkeys(str(line["dataset"]) for line in lines)
    results = {dataset: results_of(suite, lines, dataset) for dataset in datasets}
    draw(suite, results, out / f"{name}.png")


def predict(plan: Plan, store: Store, out: Path) -> None:
    """Write ``<out>/predictions/<data set>_<row>_<seed>.zip`` for each reported run.

    Raises:
        InputError: If no row of the plan has a finished run.
    """
    results = results_of(plan.suite, store.lines(), plan.dataset)
    lines = [line for r in results if r.name in plan.rows for line in r.runs.values()]
    if not lines:
        raise InputError(
            f"{store.path}: no finished run of {', '.join(plan.rows)} on {plan.dataset}"
        )
    for line in lines:
        stem = f"{plan.dataset}_{line['name']}_{line['seed']}".replace(" ", "_")
        target = out / "predictions" / f"{stem}.zip"
        _predict(plan, line, model_root(out / "runs", line["key"]), target)
        print(f"wrote {target}", flush=True)


def _predict(plan: Plan, line: Line, folder: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if plan.suite.rows[line["name"]].baseline is not None:
        shutil.copyfile(folder / PREDICTIONS, target)
        return
    settings = [*line["settings"], f"seed={line['seed']}", f"model_root={folder}", "verbose=0"]
    with tempfile.TemporaryDirectory(dir=target.parent) as aside:
        made = write_submission(plan.config, line["expid"], -1, settings, folder=aside)
        os.replace(made, target)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
