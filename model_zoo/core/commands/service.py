"""Serve a folded model over HTTP: ``qin-serve --folded checkpoints/.../QIN_default.folded``."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from model_zoo.core.commands.cli import run_command
from model_zoo.core.errors import InputError
from model_zoo.core.paths import path_argument

NEEDED = ("fastapi", "uvicorn", "prometheus_client", "msgpack")


def add_service_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``qin-serve``."""
    from model_zoo.core.serving.network.settings import Limits

    default = Limits()
    parser.add_argument("--folded", type=path_argument, required=True, help="the folded file")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=_integer(0, 65_535), default=8000, help="0 is any free one")
    parser.add_argument("--workers", type=_integer(1, 1_024), default=1, help="processes (1)")
    parser.add_argument(
        "--threads", type=_integer(1, 1_024), help="of each process (cores / workers)"
    )
    parser.add_argument("--device", default="cpu", help="where the model computes (cpu)")
    parser.add_argument(
        "--token-file",
        type=path_argument,
        help="file with the token that POST /items and /reload need; without it they are refused",
    )
    parser.add_argument(
        "--titles",
        type=path_argument,
        help="csv file for the page at /: ids in the first column, and a column title",
    )
    limits = parser.add_argument_group("limits")
    for name, kind, text in (
        ("batch_wait_ms", _number, "how long a request waits for others to be scored with"),
        ("max_batch_rows", _integer(1), "rows (candidates) scored together"),
        ("max_queue_rows", _integer(1), "rows that may wait; then 503"),
        ("max_rows", _integer(1), "rows of one request"),
        ("max_weights", _integer(1), "weights of one explained answer: rows x history items"),
        ("max_body_bytes", _integer(1), "of one request"),
        (
            "max_open_bytes",
            _integer(1),
            "of all bodies at a time, and of all answers that wait for clients",
        ),
        ("body_seconds", _number, "how long a client may take to send a body"),
        ("deadline_ms", _number, "until when a request wants its answer that does not say so"),
    ):
        value = getattr(default, name)
        shown = "none" if value is None else f"{value:,}"
        limits.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=value, help=f"{text} ({shown})"
        )


def serve(arguments: argparse.Namespace) -> None:
    """Serve as the arguments say.

    Raises:
        InputError: If one is wrong, or the extra ``serve`` is missing.
    """
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise InputError(f"serving needs {', '.join(absent)}: pip install '.[serve]'")
    # Not at the top: --help needs none of it.
    from model_zoo.core.serving.network.server import LOGGED
    from model_zoo.core.serving.network.server import serve as run
    from model_zoo.core.serving.network.settings import Limits, Settings
    from model_zoo.core.serving.network.token import read_token

    logging.basicConfig(level=logging.INFO, format=LOGGED)
    threads = arguments.threads or max(1, (os.cpu_count() or 1) // arguments.workers)
    run(
        Settings(
            folded=Path(arguments.folded),
            token=None if arguments.token_file is None else read_token(Path(arguments.token_file)),
            host=arguments.host,
            port=arguments.port,
            workers=arguments.workers,
            threads=threads,
            device=arguments.device,
            titles=None if arguments.titles is None else Path(arguments.titles),
            limits=Limits(**{name: getattr(arguments, name) for name in Limits.__annotations__}),
        )
    )


def _number(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text}, expected a number from 0")
    return value


def _integer(low: int, high: int | None = None) -> object:
    def read(text: str) -> int:
        value = int(text)
        if value < low or (high is not None and value > high):
            up_to = "" if high is None else f" to {high}"
            raise argparse.ArgumentTypeError(f"found {text}, expected {low}{up_to}")
        return value

    read.__name__ = "integer"  # for argparse's message of what is none
    return read


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="qin-serve", description="Serve a folded model over HTTP."
    )
    add_service_arguments(parser)
    return run_command(serve, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
