"""Tables as users keep them - csv, tsv, parquet - read strictly, with every problem reported.

Text tables are read as text, so ids such as ``007`` stay what they are; lines with too few or
too many fields are refused, blank lines passed over. A row's number counts from 0, the header
and blank lines not counted.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pc

from model_zoo.core.errors import InputError
from model_zoo.core.prepare.id_columns import id_text

FORMATS = ("auto", "csv", "tsv", "parquet", "pairs")
PAIRS = ("user", "items")  # the columns of a pairs file, which has no header

_SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".pq": "parquet"}
_SEPARATORS = {"csv": ",", "tsv": "\t", "pairs": "\t"}
_UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
_UNIT_BOUNDS = (1e11, 1e14, 1e17)  # each is the year 5138 in the unit below it
_DATES = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f")
_ZONED = "%Y-%m-%d %H:%M:%S%.f%#z"


@dataclass(frozen=True)
class Table:
    """Columns as they are in the file, and the problems found in them so far.

    Rows with ``dropped`` set have none.
    """

    path: str
    frame: pl.DataFrame
    problems: list[str] = field(default_factory=list)
    dropped: pl.Series | None = None

    def dropping(self, ids: Sequence[str], names: Sequence[str]) -> Table:
        """The table with those rows dropped that have one of ``ids`` in a column of ids.

        Raises:
            InputError: If no row is left.
        """
        texts = (id_text(self.frame[name]) for name in dict.fromkeys(names))
        hits = [text.fill_null("").is_in(list(ids)) for text in texts if text is not None]
        dropped = pl.Series(np.any(hits, axis=0)) if hits else None
        if dropped is not None and dropped.all():
            raise InputError(f"{self.path}: --drop-ids drops all {len(dropped)} rows")
        return replace(self, dropped=dropped)

    def kept(self) -> pl.Series:
        """The rows that are not dropped, Boolean."""
        if self.dropped is None:
            return pl.repeat(True, len(self.frame), eager=True)
        return ~self.dropped

    def close(self) -> None:
        if self.problems:
            raise InputError(self.problems)

    def expect(self, good: pl.Series, name: str, what: str) -> None:
        """Report the first row where ``good`` is not true, and how many there are."""
        bad = (~good.fill_null(False) & self.kept()).arg_true()
        if len(bad):
            others = f" ({len(bad)} such rows)" if len(bad) > 1 else ""
            self.problems.append(
                f"{self.path}: column '{name}', {_row(bad[0])}: "
                f"found {_shown(self.frame[name][bad[0]])}, expected {what}{others}"
            )

    def text(self, name: str) -> pl.Series:
        """Text or integers, as text without white space at the ends."""
        values = self.frame[name]
        known = (pl.String, pl.Categorical, pl.Enum)
        if not (values.dtype.is_integer() or values.dtype in known):
            return self._refuse(name, "text or integers", pl.String)
        return values.cast(pl.String).str.strip_chars()

    def ids(self, name: str) -> pl.Series:
        """Text that is never empty."""
        values = id_text(self.frame[name])
        if values is None:
            return self._refuse(name, "text or integers", pl.String)
        self.expect(values != "", name, "an id")
        return values

    def clicks(self, name: str) -> pl.Series:
        numbers = self._numbers(name)
        if numbers is None:
            return self._refuse(name, "0 and 1", pl.Boolean)
        self.expect(numbers.is_in([0, 1]), name, "0 or 1")
        return numbers == 1

    def counter(self, name: str) -> pl.Series:
        numbers = self._numbers(name)
        if numbers is None:
            return self._refuse(name, "numbers", pl.Float64)
        unknown = self.frame[name].is_null() | (self.frame[name].cast(pl.String) == "")
        self.expect(unknown | (numbers.is_finite() & (numbers >= 0)), name, "a number >= 0")
        return numbers

    def feature(self, name: str) -> pl.Series:
        values = self.frame[name]
        if values.dtype.is_numeric():
            return values
        if values.dtype == pl.Boolean:
            return values.cast(pl.Int64)
        if values.dtype not in (pl.String, pl.Categorical, pl.Enum):
            return self._refuse(name, "numbers or text", pl.String)
        text = values.cast(pl.String).str.strip_chars().replace("", None)
        for dtype in (pl.Int64, pl.Float64):
            numbers = text.cast(dtype, strict=False)
            # Text such as nan and inf is a number to polars, but none that was measured.
            if numbers.is_finite().sum() == text.len() - text.null_count():
                return numbers
        return text

    def times(self, name: str) -> tuple[pl.Series, bool]:
        values = self.frame[name]
        dated = values.dtype in (pl.Date, pl.Datetime)
        if values.dtype == pl.String:
            times, dated = parse_times(values)
        elif dated:
            times = values.cast(pl.Datetime("us")).cast(pl.Int64)
        elif values.dtype.is_integer():
            times = values.cast(pl.Int64, strict=False)
        elif values.dtype.is_float():
            times = values.cast(pl.Float64).replace([np.inf, -np.inf, np.nan], None)
        else:
            return self._refuse(name, "numbers or dates", pl.Int64), False
        if dated:
            self.expect(times.is_not_null(), name, "an ISO date, as in most rows")
        else:
            self.expect(times >= 0, name, "a number >= 0, or ISO dates in every row")
            self._one_unit(name, times)
        return times, dated

    def _one_unit(self, name: str, times: pl.Series) -> None:
        """Seconds and milliseconds of one moment differ by a thousand: so do their sizes."""
        there = ((times >= 0).fill_null(False) & self.kept()).arg_true()
        unit = np.digitize(times.gather(there).to_numpy(), _UNIT_BOUNDS)
        kinds, first = np.unique(unit, return_index=True)
        if len(kinds) > 1:
            examples = ", ".join(
                f"{_row(there[int(k)])} holds {_shown(self.frame[name][there[int(k)]])} "
                f"({_UNITS[unit[k]]}, {int((unit == unit[k]).sum())} such rows)"
                for k in first
            )
            self.problems.append(
                f"{self.path}: column '{name}' mixes units: {examples}; expected one unit"
            )

    def _numbers(self, name: str) -> pl.Series | None:
        values = self.frame[name]
        if values.dtype.is_numeric() or values.dtype in (pl.String, pl.Boolean):
            return values.cast(pl.Float64, strict=False)
        return None

    def _refuse(self, name: str, expected: str, dtype: type[pl.DataType]) -> pl.Series:
        """Report a column's type; the nulls in its place let the other checks go on."""
        self.problems.append(
            f"{self.path}: column '{name}' has type {self.frame.schema[name]}; expected {expected}"
        )
        return pl.Series(name, [None] * len(self.frame), dtype=dtype)


def parse_times(values: pl.Series) -> tuple[pl.Series, bool]:
    """Text as numbers, or as dates in microseconds since 1970, whichever reads more of it.

    Returns:
        The times, null where they cannot be read, and whether they are dates.
    """
    text = values.str.strip_chars()
    whole = text.cast(pl.Int64, strict=False)
    if whole.null_count() == 0:
        return whole, False
    numbers = text.cast(pl.Float64, strict=False)
    numbers = numbers.replace([np.inf, -np.inf, np.nan], None)
    text = text.str.replace(r"^(\d{4}-\d\d-\d\d)T", "$1 ")
    dates = [text.str.to_datetime(f, time_unit="us", strict=False) for f in _DATES]
    zoned = text.str.to_datetime(_ZONED, time_unit="us", strict=False)
    read = pl.select(pl.coalesce(*dates, zoned.dt.replace_time_zone(None))).to_series()
    if read.null_count() < numbers.null_count():
        return read.cast(pl.Int64), True
    return numbers, False


def resolve(path: str, form: str, *, pairs: bool = True) -> str:
    """The format of a file that is there."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    if form != "auto":
        return form
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        known = ", ".join(_SUFFIXES)
        how = f"{known}, or its format given with --format" if pairs else known
        raise InputError(f"{path}: the suffix '{suffix}' tells no format; expected {how}")
    form = _SUFFIXES[suffix]
    if form == "tsv" and pairs:
        with open(path, encoding="utf-8", errors="replace") as file:
            fields = file.readline().strip().split("\t")
        form = "pairs" if len(fields) == 2 and " " in fields[1].strip() else "tsv"
    return form


def load(path: str, form: str, required: Mapping[str, str], optional: Sequence[str]) -> Table:
    """The required columns (each with the option that names it), and optional ones if there."""
    try:
        names = _column_names(path, form)
        _check_columns(path, form, required, names)
        wanted = list(dict.fromkeys([*required, *(n for n in optional if n in names)]))
        if form == "parquet":
            scan = pl.scan_parquet(path, glob=False).select(wanted)
            table = Table(path, scan.collect(engine="streaming"))
        else:
            table = _read_text(path, form, wanted)
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError, UnicodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not a readable {form} file: {reason}") from error
    if not len(table.frame):
        raise InputError(f"{path}: no rows; expected at least one")
    return table


def _column_names(path: str, form: str) -> list[str]:
    if form == "parquet":
        return pl.scan_parquet(path, glob=False).collect_schema().names()
    if form == "pairs":
        return list(PAIRS)
    parse = pc.ParseOptions(
        delimiter=_SEPARATORS[form], newlines_in_values=True, invalid_row_handler=lambda row: "skip"
    )
    with pc.open_csv(path, parse_options=parse) as reader:
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


def _read_text(path: str, form: str, wanted: list[str]) -> Table:
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
    columns = pc.read_csv(path, read_options=read, parse_options=parse, convert_options=convert)
    if ragged:
        number, found, expected = ragged[0]
        others = f" ({len(ragged)} such rows)" if len(ragged) > 1 else ""
        raise InputError(
            f"{path}: {_row(number - (1 if pairs else 2))}: found {found} fields, expected "
            f"{expected} separated by {_SEPARATORS[form]!r}{others}"
        )
    return Table(path, pl.DataFrame(columns))


def _row(number: int) -> str:
    return f"row {number} (the first is 0)"


def _shown(value: Any) -> str:
    return "nothing" if value is None or value == "" else repr(value)
