"""Hyper-parameter search: ``python run_param_tuner.py --config config/QIN_tuner_config.yaml``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from model_zoo.core.commands.cli import run_command
from model_zoo.core.commands.tuning.forks import processes
from model_zoo.core.paths import path_argument


def _run(arguments: argparse.Namespace) -> None:
    if __name__ == "__main__" and not arguments.report and arguments.ray is None:
        processes()  # they import what trials need, while this one imports what it needs itself
    from model_zoo.core.commands.tuning.search import Options, report, search

    if arguments.report:
        report(arguments.config)
        return
    search(
        arguments.config,
        Options(
            gpus=arguments.gpu,
            retries=arguments.retries,
            keep_best=arguments.keep_best,
            sampler=arguments.sampler,
            trials=arguments.trials,
            prune=arguments.prune,
            ray=arguments.ray,
            trial_cpus=arguments.trial_cpus,
            trial_gpus=arguments.trial_gpus,
        ),
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Train every combination of a tuner file's space and rank them. "
        "The same command goes on with a search that was interrupted."
    )
    parser.add_argument("--config", required=True, type=path_argument, help="tuner YAML file")
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
    parser.add_argument(
        "--sampler",
        choices=["grid", "random", "tpe"],
        default="grid",
        help="every combination; or points drawn at random, or by Optuna's TPE (extra: tune)",
    )
    parser.add_argument("--trials", type=int, metavar="N", help="how many points to draw")
    parser.add_argument(
        "--prune", action="store_true", help="stop weak trials early, by ASHA (extra: tune)"
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run the trials on a Ray cluster: HOST:PORT, or auto (extra: tune)",
    )
    parser.add_argument(
        "--trial-cpus", type=int, metavar="N", help="CPUs of each trial on Ray; one if not said"
    )
    parser.add_argument(
        "--trial-gpus", type=float, metavar="F", help="GPUs of each trial on Ray, also 0.5"
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="rank what is finished so far and write the report; run nothing",
    )
    return run_command(_run, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
