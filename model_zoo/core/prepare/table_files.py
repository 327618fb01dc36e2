"""Tables as users keep them - csv, tsv, parquet - read strictly, with every problem reported.

A folder of parquet parts is one table. Text tables may be compressed, as their names say
(``log.csv.gz``). They are read as text, so ids such as ``007`` stay what they are; lines with too
few or too many fields are refused, blank lines passed over. A row's number counts from 0, the
header and blank lines not counted.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.csv as pc

from model_zoo.core.data.parquet import parquet_files, scan_file
from model_zoo.core.data.readable import READER_ERRORS, unreadable
from model_zoo.core.data.text_files import (
    COMPRESSIONS,
    open_text,
    require_utf8,
    table_suffix,
)
from model_zoo.core.errors import InputError
from model_zoo.core.prepare.parts import joined_parts
from model_zoo.core.prepare.tables import Table, row_text

FORMATS = ("auto", "csv", "tsv", "parquet", "pairs")
PAIRS = ("user", "items")  # the columns of a pairs file, which has no header

_SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".pq": "parquet"}
_SEPARATORS = {"csv": ",", "tsv": "\t", "pairs": "\t"}


def resolve(path: str, form: str, *, pairs: bool = True) -> str:
    """The format of a file that is there, or of a folder's parts."""
    if Path(path).is_dir():
        if form not in ("auto", "parquet") or not parquet_files(path):
            raise InputError(f"{path}: a folder; expected parquet parts in it, or a file")
        return "parquet"
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    if form != "auto":
        return form
    suffix = table_suffix(path)
    if suffix not in _SUFFIXES:
        known = f"{', '.join(_SUFFIXES)} (text also with {', '.join(COMPRESSIONS)} after it)"
        how = f"{known}, or its format given with --format" if pairs else known
        raise InputError(f"{path}: the suffix '{suffix}' tells no format; expected {how}")
    form = _SUFFIXES[suffix]
    if form == "tsv" and pairs:
        try:
            with (
                open_text(path) as stream,
                io.TextIOWrapper(stream, "utf-8-sig", "replace") as file,
            ):
                fields = file.readline().strip().split("\t")
        except OSError as error:
            raise unreadable(path, form, error) from None
        form = "pairs" if len(fields) == 2 and " " in fields[1].strip() else "tsv"
    return form


def load(path: str, form: str, required: Mapping[str, str], optional: Sequence[str]) -> Table:
    """The required columns (each with the option that names it), and optional ones if there."""
    parts = [str(part) for part in parquet_files(path)] if Path(path).is_dir() else [path]
    frames, problems = {}, []
    for part in parts:
        try:
            frames[part] = _read(part, form, required, optional)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    frame = frames[path] if path in frames else joined_parts(path, frames)
    if not len(frame):
        raise InputError(f"{path}: no rows; expected at least one")
    return Table(path, frame, parts={part: len(of_part) for part, of_part in frames.items()})


def _read(
    path: str, form: str, required: Mapping[str, str], optional: Sequence[str]
) -> pl.DataFrame:
    try:
        names = _column_names(path, form)
        _check_columns(path, form, required, names)
        wanted = list(dict.fromkeys([*required, *(n for n in optional if n in names)]))
        if form == "parquet":
            return scan_file(path).select(wanted).collect(engine="streaming")
        return _read_text(path, form, wanted)
    except READER_ERRORS as error:
        raise unreadable(path, form, error) from error


def _column_names(path: str, form: str) -> list[str]:
    if form == "parquet":
        return scan_file(path).collect_schema().names()
    if form == "pairs":
        return list(PAIRS)
    require_utf8(path)
    parse = pc.ParseOptions(
        delimiter=_SEPARATORS[form], newlines_in_values=True, invalid_row_handler=lambda row: "skip"
    )
    with open_text(path) as text, pc.open_csv(text, parse_options=parse) as reader:
        names: list[str] = reader.schema.names
    return names


def _check_columns(path: str, form: str, required: Mapping[str, str], names: list[str]) -> None:
    missing = [name for name in required if name not in names]
    others = [s for s in ",\t;|" if form in _SEPARATORS and len(names) == 1 and s in names[0]]
    if missing and others:
        raise InputError(
            f"{path}: the header '{names[0]}' is one column; expected columns separated by "
            f"{_SEPARATORS[form]!r} ({form}), found {others[0]!r}"
        )
    problems = [
        f"{path}: column '{name}' appears {names.count(name)} times; expected once"
        for name in required
        if names.count(name) > 1
    ]
    folded = {name.lower(): name for name in names}
    for name in missing:
        near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
        hint = f"; did you mean {required[name]} {folded[near[0]]}?" if near else ""
        problems.append(
            f"{path}: column '{name}' ({required[name]}) is missing; "
            f"found columns {', '.join(names)}{hint}"
        )
    if problems:
        raise InputError(problems)


def _read_text(path: str, form: str, wanted: list[str]) -> pl.DataFrame:
    """Columns of a separated text file, as text; pyarrow counts the fields of every line."""
    ragged: list[tuple[int, int, int]] = []

    def note(line: Any) -> str:
        ragged.append((line.number, line.actual_columns, line.expected_columns))
        return "skip"

    pairs = form == "pairs"
    # One thread: only then are lines numbered, from 1 and with the header.
    read = pc.ReadOptions(use_threads=False, column_names=PAIRS if pairs else None)
    parse = pc.ParseOptions(
        delimiter=_SEPARATORS[form],
        quote_char=False if pairs else '"',
        newlines_in_values=not pairs,
        invalid_row_handler=note,
    )
    as_text = dict.fromkeys(wanted, pa.string())
    convert = pc.ConvertOptions(include_columns=wanted, column_types=as_text)
    with open_text(path) as text:
        columns = pc.read_csv(text, read_options=read, parse_options=parse, convert_options=convert)
    if ragged:
        number, found, expected = ragged[0]
        others = f" ({len(ragged)} such rows)" if len(ragged) > 1 else ""
        raise InputError(
            f"{path}: {row_text(number - (1 if pairs else 2))}: found {found} fields, expected "
            f"{expected} separated by {_SEPARATORS[form]!r}{others}"
        )
    return pl.DataFrame(columns)
