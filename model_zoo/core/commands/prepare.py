"""The command line ``qin-data``: from a click log to a data set that trains."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from model_zoo.core.commands import validate
from model_zoo.core.commands.cli import run_command
from model_zoo.core.prepare import convert, demo_command, embed, fetch, join

# Name -> module with add_arguments, run and EXAMPLE, and what it does.
COMMANDS = {
    "fetch": (fetch, "download the files of a public data set"),
    "demo": (demo_command, "generate a data set whose best reachable AUC is known"),
    "convert": (convert, "turn a click log into a data set"),
    "embed": (embed, "add a column of text or image vectors to item_info"),
    "join": (join, "add columns of a metadata file to item_info"),
    "validate": (validate, "check a data set and describe it"),
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qin-data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=module.EXAMPLE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(lambda arguments: arguments.run(arguments), build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
