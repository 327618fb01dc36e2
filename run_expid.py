"""Train and evaluate an experiment: ``python run_expid.py --expid QIN_default --gpu 0``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from model_zoo.core.commands.cli import experiment_parser, run_command
from model_zoo.core.commands.experiment import run_experiment


def _run(arguments: argparse.Namespace) -> None:
    run_experiment(
        arguments.config,
        arguments.expid,
        arguments.gpu,
        arguments.overrides,
        resume=arguments.resume,
        calibrate=arguments.calibrate,
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = experiment_parser(
        "Train and evaluate an experiment.", Path(__file__).parent / "config"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last saved state")
    parser.add_argument(
        "--calibrate",
        choices=["platt", "isotonic"],
        help="fit a map from logit to click probability on valid, into <expid>.folded",
    )
    return run_command(_run, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
