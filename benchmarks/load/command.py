"""The command line of the load test."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.load.clients import client_process
from benchmarks.load.forms import FORMS
from benchmarks.load.made import write_folded
from benchmarks.load.measures import Run, overload, soak, table
from model_zoo.core.commands.config import load_experiment

MEASURES = {"table": table, "overload": overload, "soak": soak}


def main(argv: Sequence[str] | None = None) -> int:
    import benchmarks.load

    text = benchmarks.load.__doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=text)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--form", choices=FORMS, default="light", help="which service (light)")
    parser.add_argument("--config", type=Path, default=Path("config"))
    parser.add_argument(
        "--expid", default="QIN_MicroLens_50k_x1", help="whose sizes the made model has"
    )
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 100, 1_000])
    parser.add_argument(
        "--bodies", nargs="+", choices=["json", "binary"], default=["json", "binary"]
    )
    parser.add_argument("--seconds", type=float, default=5, help="of each line of the table (5)")
    parser.add_argument("--overload-seconds", type=float, default=60, help="at 3x capacity (60)")
    parser.add_argument("--minutes", type=float, default=10, help="of the soak (10)")
    parser.add_argument("--workers", type=int, default=1, help="processes or replicas (1)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)  # as the server's
    experiment = load_experiment(arguments.config, arguments.expid)
    with tempfile.TemporaryDirectory() as folder, client_process() as clients:
        path = write_folded(experiment, Path(folder) / "load.folded")
        run = Run(arguments, experiment, path, FORMS[arguments.form], clients)
        print(
            f"torch {torch.__version__}; {arguments.expid}'s sizes, random weights; "
            f"{arguments.form} form, {arguments.workers} process(es) of one thread\n"
        )
        for name in arguments.only:
            MEASURES[name](run)
            sys.stdout.flush()
    return 0
