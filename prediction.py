"""Write a leaderboard submission: ``python prediction.py --expid QIN_default --gpu 0``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from model_zoo.QIN.cli import experiment_parser, run_command
from model_zoo.QIN.submission import TASKS, write_submission


def _run(arguments: argparse.Namespace) -> None:
    write_submission(
        arguments.config,
        arguments.expid,
        arguments.gpu,
        arguments.overrides,
        task=arguments.task,
    )


def main(argv: Sequence[str] | None = None) -> int:
    config = Path(__file__).parent / "config"
    parser = experiment_parser("Score the test split into submission/<expid>.zip.", config)
    parser.add_argument("--task", default="Task2", choices=TASKS, help="name of the score column")
    return run_command(_run, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
