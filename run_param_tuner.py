"""Grid search: ``python run_param_tuner.py --config config/QIN_tuner_config.yaml --gpu 0 1``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from model_zoo.core.commands.cli import run_command
from model_zoo.core.commands.tuning import report, run_grid
from model_zoo.core.errors import InputError
from model_zoo.core.paths import path_argument


def _run(arguments: argparse.Namespace) -> None:
    trials = run_grid(arguments.config, arguments.gpu, Path(__file__).parent / "run_expid.py")
    print(report(trials))
    failed = [trial for trial in trials if trial.error]
    if failed:
        raise InputError(f"{len(failed)} of {len(trials)} trials failed")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run a grid search and rank its trials.")
    parser.add_argument("--config", required=True, type=path_argument, help="tuner YAML file")
    parser.add_argument(
        "--gpu",
        type=int,
        nargs="+",
        default=[-1],
        help="CUDA devices, one trial at a time on each; -1 for CPU",
    )
    return run_command(_run, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
