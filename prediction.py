"""Write a leaderboard submission, or score any file.

python prediction.py --expid QIN_default --gpu 0
python prediction.py --expid QIN_default --input new.parquet --output scores.parquet
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from model_zoo.core.commands.cli import experiment_parser, run_command
from model_zoo.core.commands.submission import TASKS, score_file, write_submission
from model_zoo.core.errors import InputError
from model_zoo.core.paths import path_argument


def _run(arguments: argparse.Namespace) -> None:
    experiment = (arguments.config, arguments.expid, arguments.gpu, arguments.overrides)
    if (arguments.input is None) != (arguments.output is None):
        raise InputError("--input and --output go together")
    if arguments.input is not None:
        score_file(
            *experiment,
            source=arguments.input,
            target=arguments.output,
            calibrated=arguments.calibrated,
            explain=arguments.explain,
            keep=arguments.keep,
        )
    elif arguments.explain or arguments.keep:
        option = "--explain" if arguments.explain else "--keep"
        raise InputError(f"{option} needs --input and --output")
    else:
        write_submission(*experiment, task=arguments.task, calibrated=arguments.calibrated)


def main(argv: Sequence[str] | None = None) -> int:
    config = Path(__file__).parent / "config"
    parser = experiment_parser("Score the test split into submission/<expid>.zip.", config)
    parser.add_argument("--task", default="Task2", choices=TASKS, help="name of the score column")
    parser.add_argument(
        "--input", type=path_argument, help="score this parquet, csv or tsv (.gz) file instead"
    )
    parser.add_argument("--output", type=path_argument, help="parquet or csv file for its scores")
    parser.add_argument(
        "--keep",
        nargs="+",
        action="extend",
        default=[],
        metavar="COLUMN",
        help="columns of the input, such as its row ids, to write beside the scores; other "
        "columns that the model does not need are ignored, a label too",
    )
    parser.add_argument("--explain", action="store_true", help="write attention weights too")
    parser.add_argument(
        "--calibrated", action="store_true", help="apply the map of run_expid.py --calibrate"
    )
    return run_command(_run, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
