"""Ids and texts that look like a missing value written out: reported, never taken for one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import polars as pl

from model_zoo.core.prepare.clicks import Clicks, Metadata
from model_zoo.core.prepare.convert_options import ConvertOptions

# In lower case, as exports write them.
PLACEHOLDERS = frozenset(
    ["na", "n/a", "#n/a", "<na>", "nan", "nat", "null", "(null)", "none", "nil", "undefined", "\\n"]
)


def placeholders(
    options: ConvertOptions, clicks: Clicks, metadata: Metadata
) -> list[dict[str, Any]]:
    """Those of each column of ids and of kept text.

    Returns:
        For each: ``what`` (id or value), ``file``, ``column``, the text as ``value``, the
        ``rows`` that have it and their ``share``; frequent ones first within a column.
    """
    log, items = options.interactions, options.items or ""
    columns = [
        ("id", log, clicks.user.alias(options.user)),
        ("id", log, clicks.item.alias(options.item)),
        ("id", items, metadata.item.alias(options.items_id or options.item)),
        *(("value", log, column) for column in clicks.kept),
        *(("value", items, column) for column in metadata.kept),
    ]
    return [
        {"what": what, "file": file, "column": column.name}
        | {"value": value, "rows": rows, "share": rows / len(column)}
        for what, file, column in columns
        for value, rows in _counted(column)
    ]


def described(found: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each entry of :func:`placeholders`."""
    lines = []
    for entry in found:
        hint = "a value like others; leave the field empty where there is none"
        if entry["what"] == "id":
            hint = f"one id like others; if it means none: --drop-ids {shlex.quote(entry['value'])}"
        lines.append(
            f"{entry['file']}: column '{entry['column']}': {entry['rows']:,} rows "
            f"({entry['share']:.2%}) have {entry['value']!r}, {hint}"
        )
    return lines


def _counted(column: pl.Series) -> list[tuple[str, int]]:
    if column.dtype != pl.String:
        return []
    found = column.filter(column.str.to_lowercase().is_in(list(PLACEHOLDERS)).fill_null(False))
    counts = found.alias("value").value_counts(name="rows")
    return counts.sort("rows", "value", descending=[True, False]).rows()
