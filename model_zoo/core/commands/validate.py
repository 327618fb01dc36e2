"""``qin-data validate``: what is in a data set, and whether training on it would be sound."""

from __future__ import annotations

import argparse
from pathlib import Path

from model_zoo.core.data.schema import UNLABELLED, check_dataset
from model_zoo.core.errors import InputError
from model_zoo.core.files import require_writable, writing
from model_zoo.core.paths import path_argument
from model_zoo.core.prepare.facts import describe_dataset
from model_zoo.core.prepare.report import draw_report, format_report, unsound

EXAMPLE = "qin-data validate MicroLens_1M_x1 --out reports/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``qin-data validate``."""
    parser.add_argument("dataset_id", metavar="DATASET_ID", help="a name in dataset_config.yaml")
    parser.add_argument(
        "--config", type=path_argument, default="config", help="folder with the YAML files"
    )
    parser.add_argument(
        "--out",
        type=path_argument,
        default=".",
        metavar="DIR",
        help="where DATASET_ID.report.png goes",
    )


def run(arguments: argparse.Namespace) -> None:
    """Check the files, print the report and draw it.

    Raises:
        InputError: If a file is wrong, the picture cannot be written, or training would be
            unsound.
    """
    # Late: config needs torch and FuxiCTR, and reading data needs neither.
    from model_zoo.core.commands.config import load_dataset

    dataset = load_dataset(arguments.config, arguments.dataset_id)
    picture = Path(arguments.out) / f"{dataset.dataset_id}.report.png"
    require_writable([picture])
    summaries = check_dataset(dataset)
    report = describe_dataset(dataset)
    print(format_report(report))
    with writing(picture):
        draw_report(report, picture)
    print(f"Picture: {picture}")
    if "test" in summaries and summaries["test"].unlabelled:
        print(f"warning: {UNLABELLED % summaries['test'].unlabelled}")
    reasons = unsound(report)
    if reasons:
        raise InputError([f"{dataset.dataset_id}: {reason}" for reason in reasons])
