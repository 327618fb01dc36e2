"""Hyper-parameter search: ``python run_param_tuner.py --config config/QIN_tuner_config.yaml``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from model_zoo.core.commands.cli import run_command
from model_zoo.core.commands.tuning.search import Options, search


def _run(arguments: argparse.Namespace) -> None:
    search(
        arguments.config,
        Options(
            gpus=arguments.gpu,
            retries=arguments.retries,
            keep_best=arguments.keep_best,
        ),
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Train every combination of a tuner file's space and rank them. "
        "The same command goes on with a search that was interrupted."
    )
    parser.add_argument("--config", required=True, help="tuner YAML file")
    parser.add_argument(
        "--gpu",
        type=int,
        nargs="+",
        default=[-1],
        help="CUDA devices, one trial at a time on each; -1 for CPU; may be named twice",
    )
    parser.add_argument(
        "--retries", type=int, default=0, help="how often a failed trial is tried again"
    )
    parser.add_argument(
        "--keep-best",
        type=int,
        metavar="K",
        help="drop the checkpoints of all settings but the best K",
    )
    return run_command(_run, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
