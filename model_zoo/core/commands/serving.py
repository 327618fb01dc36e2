"""Fold, export, serve: ``python -m model_zoo.core.commands.serving fold --expid QIN_default``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from model_zoo.core.commands.cli import add_experiment_arguments, run_command
from model_zoo.core.commands.service import add_service_arguments, serve

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def _run(arguments: argparse.Namespace) -> None:
    if arguments.command == "serve":
        serve(arguments)
        return
    # Not at the top: --help needs no FuxiCTR.
    from model_zoo.core.commands.deployment import export_experiment, write_folded

    experiment = (arguments.config, arguments.expid, arguments.overrides)
    settings: dict[str, Any] = {
        "dtype": DTYPES[arguments.precision],
        "tabulate_first_layer": not arguments.small,
    }
    if arguments.command == "fold":
        path = write_folded(*experiment, **settings)
        print(f"Wrote {path}: {path.stat().st_size / 2**20:,.1f} MiB")
    else:
        path, difference = export_experiment(*experiment, kind=arguments.format, **settings)
        print(f"Wrote {path}: max |Δp| {difference:.1e} against the folded model")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m model_zoo.core.commands.serving",
        description="Fold, export or serve a trained model.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("fold", "write <expid>.folded, which the scorer loads with torch alone"),
        ("export", "write a program for torch.export, AOTInductor or ONNX"),
    ):
        own = commands.add_parser(name, help=text, description=text)
        add_experiment_arguments(own, Path("config"))
        own.add_argument("--precision", choices=list(DTYPES), default="fp32")
        own.add_argument(
            "--small", action="store_true", help="do not tabulate the first layer for each item"
        )
    own.add_argument("--format", choices=["torch", "aoti", "onnx"], required=True)
    text = "serve a folded model over HTTP, as qin-serve"
    add_service_arguments(commands.add_parser("serve", help=text, description=text))
    return run_command(_run, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
