"""The options of ``qin-data convert``: one field each, for Python and for the command line."""

from __future__ import annotations

import argparse
import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from model_zoo.core.data.list_columns import separator_problem
from model_zoo.core.errors import InputError
from model_zoo.core.paths import path_argument
from model_zoo.core.prepare.table_files import FORMATS

EXAMPLE = """example:
  qin-data convert --interactions MicroLens-50k_pairs.tsv --titles MicroLens-50k_titles.csv \\
      --out data/MicroLens_50k
  qin-data convert --interactions log.csv --timestamp time --split time \\
      --valid-from 2024-05-01 --test-from 2024-05-08 --out data/MyData
"""

# Columns that every data set has.
ROW_COLUMNS = ("user_id", "item_seq", "item_id", "label")
ITEM_COLUMNS = ("item_id", "item_tags")

_FILE: dict[str, Any] = {"metavar": "FILE", "type": path_argument}
_COLUMN: dict[str, Any] = {"metavar": "COLUMN"}
_COLUMNS: dict[str, Any] = {"metavar": "COLUMN", "nargs": "+"}
_COUNT: dict[str, Any] = {"metavar": "N", "type": int}


def _option(help: str, default: Any = None, *flags: str, **parser: Any) -> Any:
    """A field that is a command line option too."""
    return field(default=default, metadata={"help": help, "flags": flags, "parser": parser})


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What to convert and how; every field is an option of the command line, and its help."""

    interactions: str = field(
        metadata={
            "help": "the log: csv, tsv (also .gz, .bz2, .zst, .lz4), parquet (a file or folder of "
            "parts) or pairs",
            "parser": _FILE,
        }
    )
    out: str = field(
        metadata={
            "help": "folder of the data set; created if needed",
            "parser": {"metavar": "FOLDER", "type": path_argument},
        }
    )
    items: str | None = _option(
        "metadata: csv, tsv or parquet, a row per item", None, "--titles", **_FILE
    )
    format: str = _option("of the log; auto: by its suffix", "auto", choices=FORMATS)
    user: str = _option("user ids of the log", "user", **_COLUMN)
    item: str = _option("item ids of the log", "item", **_COLUMN)
    timestamp: str = _option("numbers of one unit, or ISO dates", "timestamp", **_COLUMN)
    label: str | None = _option("0 and 1 (default: label, if it exists)", **_COLUMN)
    label_threshold: float | None = _option(
        "the label is a rating: from N on it is a click", None, metavar="N", type=float
    )
    drop_ids: tuple[str, ...] = _option(
        "that mean no user or item (NA null; '' for none): their rows are left out, of log and "
        "metadata",
        (),
        metavar="ID",
        nargs="+",
    )
    keep: tuple[str, ...] = _option("of the log, to keep as row features", (), **_COLUMNS)
    items_id: str | None = _option("item ids of the metadata (default: as --item)", **_COLUMN)
    title: str | None = _option("titles with #hashtags (default: title, if it exists)", **_COLUMN)
    max_tags: int = _option("tags kept per item", 5, **_COUNT)
    keep_items: tuple[str, ...] = _option("of the metadata, to keep in item_info", (), **_COLUMNS)
    list_separator: str | None = _option(
        "of lists written as text in kept columns, such as a|b; [..] is a list as well",
        metavar="MARK",
    )
    lists: tuple[str, ...] | None = _option(
        "kept columns with such lists (default: text with the separator in it, or all in [..])",
        **_COLUMNS,
    )
    levels: tuple[str, ...] | None = _option(
        "counters of the metadata (default: likes and views, those that exist)", **_COLUMNS
    )
    split: str = _option(
        "by the last clicks of each user, or by time",
        "leave-last-out",
        choices=("leave-last-out", "time"),
    )
    valid_from: str | None = _option("start of valid, written as in the log", metavar="TIME")
    test_from: str | None = _option("start of test, written as in the log", metavar="TIME")
    max_history: int = _option("items kept of a longer history, the latest", 100, **_COUNT)
    min_history: int = _option("skip rows with fewer history items", 1, **_COUNT)
    negatives: int = _option("per click, if the log has no label 0", 1, **_COUNT)
    negative_sampling: str = _option(
        "mix: half uniform, half by popularity",
        "mix",
        choices=("uniform", "popularity", "mix"),
    )
    alpha: float = _option("popularity is clicks to this power", 0.75, type=float, metavar="A")
    seed: int = _option("equal seeds give equal files", 2025, **_COUNT)
    withhold_test_labels: bool = _option(
        "leave label out of test.parquet", False, action="store_true"
    )

    def check(self) -> None:
        """Raise InputError with every option that is wrong by itself or beside another."""
        minimum = {
            "max_tags": 1,
            "max_history": 1,
            "min_history": 0,
            "negatives": 0,
            "alpha": 0,
            "seed": 0,
        }
        problems = [
            f"{_flag(name)} is {getattr(self, name)}, expected at least {low}"
            for name, low in minimum.items()
            if not getattr(self, name) >= low
        ]
        if self.min_history > self.max_history:
            problems.append(
                f"--min-history is {self.min_history}, expected at most "
                f"--max-history, {self.max_history}"
            )
        if self.label_threshold is not None and not math.isfinite(self.label_threshold):
            problems.append(f"--label-threshold is {self.label_threshold}, expected a number")
        wrong = self.list_separator is not None and separator_problem(self.list_separator)
        problems += [f"--list-separator: {wrong}"] if wrong else []
        problems += [
            f"--lists {name}: no such column in --keep or --keep-items"
            for name in self.lists or ()
            if name not in (*self.keep, *self.keep_items)
        ]
        roles = [self.user, self.item, self.timestamp, *([self.label] if self.label else [])]
        if len(set(roles)) < len(roles):
            problems.append(f"user, item, timestamp and label name a column twice: {roles}")
        for name in ("valid_from", "test_from"):
            if (getattr(self, name) is None) == (self.split == "time"):
                problems.append(
                    f"{_flag(name)} is {getattr(self, name)}, but --split is {self.split}; "
                    "expected it with --split time, and only there"
                )
        needs_items = ("items_id", "title", "levels", "keep_items")
        problems += [
            f"{_flag(name)} needs the metadata file of --items"
            for name in needs_items
            if self.items is None and getattr(self, name)
        ]
        reserved = {"keep": ROW_COLUMNS, "keep_items": ITEM_COLUMNS, "levels": ()}
        for option, taken in reserved.items():
            names = getattr(self, option) or ()
            problems += [
                f"{_flag(option)} {name}: the data set has a column of this name already"
                for place, name in enumerate(names)
                if name in taken or name in names[:place]
            ]
        if problems:
            raise InputError(problems)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one option for each field of :class:`ConvertOptions`."""
    for option in dataclasses.fields(ConvertOptions):
        required = option.default is dataclasses.MISSING
        settings = dict(option.metadata.get("parser", {}))
        given = () if required or settings.get("action") else option.default
        settings |= {"required": True} if required else {"default": option.default}
        note = f" (default: {given})" if given not in (None, ()) else ""
        flags = [_flag(option.name), *option.metadata.get("flags", ())]
        parser.add_argument(
            *flags, dest=option.name, help=option.metadata["help"] + note, **settings
        )


def from_arguments(arguments: argparse.Namespace) -> ConvertOptions:
    """The options in a namespace that a parser with :func:`add_arguments` made."""
    values: dict[str, Any] = {}
    for option in dataclasses.fields(ConvertOptions):
        value = getattr(arguments, option.name)
        values[option.name] = tuple(value) if isinstance(value, list) else value
    return ConvertOptions(**values)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
