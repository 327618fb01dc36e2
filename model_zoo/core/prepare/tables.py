"""Columns of a table as users keep them, checked, with every problem reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from model_zoo.core.data.list_columns import expected_list, guess_lists, holds_lists
from model_zoo.core.data.parquet import TEXT_TYPES
from model_zoo.core.errors import InputError
from model_zoo.core.prepare.id_columns import id_text

_UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
_UNIT_BOUNDS = (1e11, 1e14, 1e17)  # each is the year 5138 in the unit below it
_DATES = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f")
_ZONED = "%Y-%m-%d %H:%M:%S%.f%#z"


@dataclass(frozen=True)
class Table:
    """Columns as they are in the file, and the problems found in them so far.

    Rows with ``dropped`` set have none.

    Attributes:
        path: The file, or the folder of its parts.
        frame: Its columns.
        parts: Rows of each part, by file; without it ``path`` is the file.
    """

    path: str
    frame: pl.DataFrame
    parts: Mapping[str, int] = field(default_factory=dict)
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

    def place(self, row: int) -> tuple[str, str]:
        """The file that a row of the frame is in, and which of its rows it is, as a text."""
        first = 0
        for part, rows in self.parts.items():
            if row < first + rows:
                return part, row_text(row - first)
            first += rows
        return self.path, row_text(row)

    def close(self) -> None:
        if self.problems:
            raise InputError(self.problems)

    def expect(self, good: pl.Series, name: str, what: str) -> None:
        """Report the first row where ``good`` is not true, and how many there are."""
        bad = (~good.fill_null(False) & self.kept()).arg_true()
        if len(bad):
            others = f" ({len(bad)} such rows)" if len(bad) > 1 else ""
            file, row = self.place(bad[0])
            self.problems.append(
                f"{file}: column '{name}', {row}: "
                f"found {_shown(self.frame[name][bad[0]])}, expected {what}{others}"
            )

    def text(self, name: str) -> pl.Series:
        """Text or integers, as text without white space at the ends."""
        values = self.frame[name]
        whole = isinstance(values.dtype, pl.Decimal) and values.dtype.scale == 0
        if not (values.dtype.is_integer() or whole or values.dtype in TEXT_TYPES):
            return self._refuse(name, "text or integers", pl.String)
        return values.cast(pl.String).str.strip_chars()

    def ids(self, name: str) -> pl.Series:
        """Text that is never empty."""
        values = id_text(self.frame[name])
        if values is None:
            return self._refuse(name, "text or integers", pl.String)
        self.expect(values != "", name, "an id")
        return values

    def clicks(self, name: str, threshold: float | None = None) -> pl.Series:
        """Labels 0 and 1, or ratings, which are clicks from the threshold on."""
        numbers = self._numbers(name)
        if numbers is None:
            return self._refuse(name, "0 and 1", pl.Boolean)
        if threshold is not None:
            self.expect(numbers.is_finite(), name, "a number, for --label-threshold")
            return numbers >= threshold
        hint = "; --label-threshold 4 makes clicks of ratings from 4 on"
        rated = numbers.is_finite() & ~numbers.is_in([0, 1])
        self.expect(numbers.is_in([0, 1]), name, "0 or 1" + (hint if rated.any() else ""))
        return numbers == 1

    def counter(self, name: str) -> pl.Series:
        numbers = self._numbers(name)
        if numbers is None:
            return self._refuse(name, "numbers", pl.Float64)
        unknown = self.frame[name].is_null() | (self.frame[name].cast(pl.String) == "")
        self.expect(unknown | (numbers.is_finite() & (numbers >= 0)), name, "a number >= 0")
        return numbers

    def feature(
        self, name: str, separator: str | None = None, lists: Sequence[str] | None = None
    ) -> pl.Series:
        """Numbers, text, or lists of either.

        Args:
            name: The column.
            separator: Of lists written as text.
            lists: Columns that hold them; by default those that :func:`holds_lists` finds
                where a separator is declared.
        """
        values = self.frame[name]
        if isinstance(values.dtype, (pl.List, pl.Array)):
            return self._lists(name)
        if values.dtype in TEXT_TYPES:
            cells = values.cast(pl.String)
            found = separator is not None and lists is None and holds_lists(cells, separator)
            if found or name in (lists or ()):
                return self._text_lists(name, separator)
        elif name in (lists or ()):
            return self._refuse(name, "lists, as such or as text (--lists)", pl.String)
        if values.dtype.is_numeric():
            return values
        if values.dtype == pl.Boolean:
            return values.cast(pl.Int64)
        if values.dtype not in TEXT_TYPES:
            return self._refuse(name, "numbers, text, or lists of them", pl.String)
        text = values.cast(pl.String).str.strip_chars().replace("", None)
        for dtype in (pl.Int64, pl.Float64):
            numbers = text.cast(dtype, strict=False)
            # Text such as nan and inf is a number to polars, but none that was measured.
            if numbers.is_finite().sum() == text.len() - text.null_count():
                return numbers
        return text

    def times(self, name: str) -> tuple[pl.Series, bool]:
        values = self.frame[name]
        if values.dtype in (pl.Categorical, pl.Enum):
            values = values.cast(pl.String)
        dated = values.dtype in (pl.Date, pl.Datetime)
        if values.dtype == pl.String:
            times, dated = parse_times(values)
        elif dated:
            times = values.cast(pl.Datetime("us")).cast(pl.Int64)
        elif values.dtype.is_integer():
            times = values.cast(pl.Int64, strict=False)
        elif values.dtype.is_float() or values.dtype == pl.Decimal:
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
            examples = []
            for k in first:
                file, row = self.place(there[int(k)])
                where = row if file == self.path else f"{row} of {file}"
                shown = _shown(self.frame[name][there[int(k)]])
                rows = int((unit == unit[k]).sum())
                examples.append(f"{where} holds {shown} ({_UNITS[unit[k]]}, {rows} such rows)")
            self.problems.append(
                f"{self.path}: column '{name}' mixes units: {', '.join(examples)}; "
                "expected one unit"
            )

    def _lists(self, name: str) -> pl.Series:
        """Lists without a hole; a list that is missing is empty."""
        values = self.frame[name]
        if isinstance(values.dtype, pl.Array):
            values = values.arr.to_list()
        inner = values.explode(empty_as_null=False).dtype
        if not (inner.is_numeric() or inner in TEXT_TYPES):
            return self._refuse(name, "numbers, text, or lists of them", pl.String)
        if not inner.is_numeric():
            values = values.cast(pl.List(pl.String))
            hole = pl.element().is_null() | (pl.element().str.strip_chars() == "")
        else:
            hole = pl.element().is_null()
        holes = values.list.eval(hole.any()).list.first().fill_null(False)
        self.expect(~holes, name, "a value for each item of the list")
        return values.fill_null(pl.Series([[]], dtype=values.dtype).implode()[0])

    def _text_lists(self, name: str, separator: str | None) -> pl.Series:
        cells = self.frame[name].cast(pl.String)
        lists, problems = guess_lists(cells, separator)
        good = np.ones(len(cells), dtype=np.bool_)
        good[list(problems)] = False
        first = f": {problems[min(problems)]}" if problems else ""
        self.expect(pl.Series(good), name, expected_list(separator) + first)
        return lists

    def _numbers(self, name: str) -> pl.Series | None:
        values = self.frame[name]
        if values.dtype in (pl.Categorical, pl.Enum):
            values = values.cast(pl.String)
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


def row_text(number: int) -> str:
    return f"row {number} (the first is 0)"


def _shown(value: Any) -> str:
    value = value.to_list() if isinstance(value, pl.Series) else value
    return "nothing" if value is None or value == "" else repr(value)
