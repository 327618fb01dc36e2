"""What the front doors share: common arguments, and errors as messages."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from model_zoo.core.errors import InputError, Interrupted, first_line
from model_zoo.core.paths import path_argument


def experiment_parser(description: str, config: Path) -> argparse.ArgumentParser:
    """Arguments of every front door that works on one experiment.

    Args:
        description: For ``--help``.
        config: The default configuration folder.
    """
    parser = argparse.ArgumentParser(description=description)
    add_experiment_arguments(parser, config)
    parser.add_argument("--gpu", type=int, default=-1, help="CUDA device, -1 for CPU")
    return parser


def add_experiment_arguments(parser: argparse.ArgumentParser, config: Path) -> None:
    """The arguments that name an experiment and its settings."""
    parser.add_argument("--expid", required=True, help="experiment id in model_config.yaml")
    parser.add_argument(
        "--config", type=path_argument, default=str(config), help="folder with the YAML files"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="replace settings of the experiment or its data set",
    )


def run_command(
    command: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse, run, and turn a user's mistake into a message and exit code 2."""
    arguments = parser.parse_args(argv)
    try:
        command(arguments)
    except InputError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except Interrupted as interruption:
        print(interruption, file=sys.stderr)
        return 128 + interruption.number
    except BrokenPipeError:
        # Whoever read the output has had enough of it; what Python still holds goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        # What no check before the work can know: a disk that fills, a drive that goes away.
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or first_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
