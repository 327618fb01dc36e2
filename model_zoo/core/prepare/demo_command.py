"""``qin-data demo``: the generated data set of :mod:`model_zoo.core.prepare.demo` at any size."""

from __future__ import annotations

import argparse
import inspect

from model_zoo.core.paths import path_argument
from model_zoo.core.prepare.demo import generate_demo

EXAMPLE = """examples:
  qin-data demo --out data/MicroLens_demo
  qin-data demo --out data/Official_size --rows 3600000 --items 91718 --users 1000000

To train on another number of items than the default, set item_id's vocab_size in the data
set's entry to --items."""

_ARGUMENTS = {
    "rows": ("train_rows", "rows of train"),
    "valid-rows": ("valid_rows", "rows of valid"),
    "test-rows": ("test_rows", "rows of test"),
    "items": ("num_items", "rows of item_info, padding included"),
    "users": ("num_users", "users"),
    "seed": ("seed", "of everything random"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = inspect.signature(generate_demo).parameters
    parser.add_argument(
        "--out", type=path_argument, required=True, metavar="FOLDER", help="folder of the data set"
    )
    for flag, (name, meaning) in _ARGUMENTS.items():
        default = defaults[name].default
        parser.add_argument(
            f"--{flag}",
            dest=name,
            type=int,
            default=default,
            metavar="N",
            help=f"{meaning} (default {default:,})",
        )


def run(arguments: argparse.Namespace) -> None:
    """Generate the data set that the arguments describe."""
    sizes = {name: getattr(arguments, name) for name, _ in _ARGUMENTS.values()}
    generate_demo(arguments.out, **sizes)
    print(f"{arguments.out}: {sizes['train_rows']:,} train rows, {sizes['num_items']:,} items")
