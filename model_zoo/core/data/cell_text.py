"""Text of a cell as a number or as a list: ``7^8^9``, ``7 8 9``, ``[7, 8, 9]``.

A cell that starts with a bracket is a list as Python, JSON or numpy print it. In any other
cell the declared separator separates, and no other; without one, the first of ``^``, ``|``, ``;``
and ``,`` that occurs in it, or blanks between numbers (a text id may contain them). What does not
fit is a problem, never dropped.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import polars as pl

SEPARATORS = "^|;,"
TYPES: dict[str, pl.DataType] = {"int": pl.Int64(), "float": pl.Float64(), "str": pl.String()}
EXPECTED = {"int": "an integer", "float": "a number", "str": "a text"}
LISTS = {
    "int": "integers such as 7^8^9, 7 8 9 or [7, 8, 9]",
    "float": "numbers such as 0.5^1.5, 0.5 1.5 or [0.5, 1.5]",
    "str": "texts such as a^b or ['a', 'b']",
}

# Where a list has a hole, or its printer left items out; as a text it is written in quotes.
_NO_TEXT = ("", "...", "nan", "NaN", "None", "null", "<NA>", "NaT")
# 18 digits always fit into 64 bits; longer numbers go the slow way.
_PLAIN = {
    "int": r"[+-]?[0-9]{1,18}(?:\.0*)?",
    "float": r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?",
}
_NUMBER = {
    "int": re.compile(r"([+-]?[0-9]+)(?:\.0*)?"),
    "float": re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"),
}
_PRINTED_ARRAY = re.compile(
    r"(?:(?:np|numpy|torch)\.)?(?:array|tensor)\((?P<list>\s*[\[(].*?)(?:,\s*\w+=[^\[\](),]*)*\)",
    re.DOTALL,
)
# Lists in another form, such as deque([1, 2]) or a set: their commas do not separate plainly.
_OTHER_FORM = r"^(?:[\w.]+\(\s*[\[({]|\{\s*['\"]|['\"]\s*[\[(])"
# With a separator declared, a remark such as "(no genres listed)" is a text as it stands.
_REMARK = re.compile(r"\((?!.*\.\.\.)[^,'\"()\[\]]*\s[^,'\"()\[\]]*\)")
_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_SCALAR = re.compile(
    rf"(?:(?:np|numpy)\.)?(?:u?int\d+|float\d+|str_)\((?P<value>{_QUOTED}|[^\s,'\"()\[\]]+)\)",
    re.DOTALL,
)
_ITEM = re.compile(rf"{_QUOTED}|{_SCALAR.pattern}|[^\s,'\"()\[\]]+", re.DOTALL)
_BETWEEN = re.compile(r"\s*,\s*|\s+")


def parse_list(text: str, dtype: str, separator: str | None = None) -> list[Any]:
    """The items of a list written as text.

    Args:
        text: The cell.
        dtype: ``int``, ``float`` or ``str``.
        separator: The declared one, outside brackets.

    Returns:
        The items; none for an empty cell.

    Raises:
        ValueError: If a part of it is no such item; says which.
    """
    text = text.strip()
    array = _PRINTED_ARRAY.fullmatch(text)
    text = array["list"].strip() if array else text
    remark = separator is not None and dtype == "str" and _REMARK.fullmatch(text)
    if text.startswith(("[", "(")) and not remark:
        return [_item(token, dtype) for token in _bracketed(text, dtype)]
    if not text:
        return []
    if re.match(_OTHER_FORM, text):
        raise ValueError("this form of a list is not known")
    if separator is None:
        separator = next(
            (s for s in SEPARATORS if s in text), SEPARATORS if dtype == "str" else " "
        )
    tokens = text.split(None if separator == " " else separator)
    return [_unquoted(token.strip(), dtype) for token in tokens]


def parse_number(text: str, dtype: str) -> int | float:
    """A number, also as numpy prints it: ``7``, ``7.0`` and ``np.int64(7)`` are 7.

    Raises:
        ValueError: If it is none; ``7.5`` is no integer.
    """
    text = text.strip()
    scalar = _SCALAR.fullmatch(text)
    found = _NUMBER[dtype].fullmatch(scalar["value"] if scalar else text)
    number = None if found is None else int(found[1]) if dtype == "int" else float(found[1])
    fits = number is not None and (
        -(2**63) <= number < 2**63 if dtype == "int" else math.isfinite(number)
    )
    if number is None or not fits:
        raise ValueError(f"{text!r} is not {EXPECTED[dtype]}")
    return number


def read_lists(
    cells: pl.Series, dtype: str, separator: str | None = None
) -> tuple[pl.Series, dict[int, str]]:
    """A column of lists written as text, as :func:`parse_list` reads a cell; plain cells are read
    all at once.

    Returns:
        Lists of the dtype, empty where the cell cannot be read, and what is wrong there, by row.
    """
    text = cells.fill_null("").str.strip_chars()
    separators = list(SEPARATORS) if separator is None else [separator]
    if dtype == "str":
        lists, odd = _plain_texts(text, separators)
    else:
        lists, odd = _plain_numbers(text, dtype, separators, blanks=separator in (None, " "))
    parse = partial(parse_list, dtype=dtype, separator=separator)
    return _patch(cells, lists, odd, parse, [])


def read_numbers(cells: pl.Series, dtype: str) -> tuple[pl.Series, dict[int, str]]:
    """A column of numbers written as text; an empty cell is null.

    Returns:
        The numbers, null where the cell cannot be read, and what is wrong there, by row.
    """
    text = cells.str.strip_chars().replace("", None)
    plain = text.str.contains(f"^{_PLAIN[dtype]}$")
    digits = pl.select(pl.when(plain).then(text)).to_series()
    if dtype == "int":
        digits = digits.str.replace(r"\.0*$", "")
    numbers = digits.cast(TYPES[dtype])
    return _patch(cells, numbers, ~plain.fill_null(True), partial(parse_number, dtype=dtype), None)


def write_lists(lists: pl.Series) -> pl.Series:
    """A column of lists as text: numbers as ``7 8 9``, texts as ``["a", "b"]``."""
    if lists.dtype == pl.List(pl.String):
        rows = [json.dumps(items, ensure_ascii=False) for items in lists.to_list()]
        return pl.Series(lists.name, rows, dtype=pl.String)
    return lists.list.eval(pl.element().cast(pl.String)).list.join(" ")


def _patch(
    cells: pl.Series, values: pl.Series, odd: pl.Series, parse: Callable[[str], Any], blank: Any
) -> tuple[pl.Series, dict[int, str]]:
    """Parse the odd cells one by one."""
    rows = odd.arg_true()
    read, problems = [], {}
    for row, text in zip(rows, cells.gather(rows), strict=True):
        try:
            read.append(parse(text))
        except ValueError as error:
            problems[row] = str(error)
            read.append(blank)
    values = values.alias(cells.name)
    if not read:
        return values, problems
    number = pl.arange(len(values), eager=True)
    order = pl.concat([number.filter(~odd), rows.cast(number.dtype)]).arg_sort()
    patches = pl.Series(cells.name, read, dtype=values.dtype)
    return pl.concat([values.filter(~odd), patches]).gather(order), problems


def _plain_numbers(
    text: pl.Series, dtype: str, separators: list[str], *, blanks: bool
) -> tuple[pl.Series, pl.Series]:
    number = _PLAIN[dtype]
    inside = rf"{number}(?:(?:\s*,\s*{number})*|(?:\s+{number})*)"
    between = [rf"\s*{re.escape(s)}\s*" for s in separators if s != " "]
    between += [r"\s+"] if blanks else []
    forms = (
        rf"{number}(?:{'|'.join(rf'(?:{b}{number})*' for b in between)})",
        rf"\[\s*{inside}\s*\]",
        rf"\(\s*{inside}\s*\)",
    )
    plain = text.str.contains(f"^(?:{'|'.join(forms)})$")
    digits = pl.select(pl.when(plain).then(text).otherwise(pl.lit(""))).to_series()
    if dtype == "int":
        digits = digits.str.replace_all(r"\.0*", "")
        number = "[+-]?[0-9]+"
    return digits.str.extract_all(number).cast(pl.List(TYPES[dtype])), ~plain & (text != "")


def _plain_texts(text: pl.Series, separators: list[str]) -> tuple[pl.Series, pl.Series]:
    cell = pl.col("cell")
    parts = pl.concat_list(cell)
    for separator in reversed(separators):
        found = cell.str.contains(separator, literal=True)
        parts = pl.when(found).then(cell.str.split(separator)).otherwise(parts)
    none = pl.lit([], dtype=pl.List(pl.String))
    parts = pl.when(cell == "").then(none).otherwise(parts)
    whole = parts.list.eval(pl.element().str.strip_chars())
    # What may be a list in brackets, or has a hole, is read or refused one by one.
    hole = pl.element().is_in(_NO_TEXT).any()
    frame = (
        text.alias("cell")
        .to_frame()
        .select(
            whole.alias("lists"),
            odd=cell.str.contains(r"^[\[(]")
            | cell.str.contains(_OTHER_FORM)
            | whole.list.eval(hole).list.first().fill_null(False),
        )
    )
    return frame["lists"], frame["odd"]


def _bracketed(text: str, dtype: str) -> list[str]:
    """The tokens of a list in brackets, quoted ones with their quotes."""
    closing = "]" if text[0] == "[" else ")"
    if len(text) < 2 or text[-1] != closing:
        raise ValueError(f"the list does not end with {closing!r}")
    body = text[1:-1].strip()
    tokens: list[str] = []
    commas = blanks = place = 0
    while place < len(body):
        token = _ITEM.match(body, place)
        if token is None:
            raise ValueError(f"{shown(body[place:], 20)} is no item of a list")
        tokens.append(token[0])
        between = _BETWEEN.match(body, token.end())
        place = between.end() if between else token.end()
        if place < len(body):
            if between is None:
                raise ValueError(f"{shown(body[place:], 20)} follows an item without a comma")
            commas += "," in between[0]
            blanks += "," not in between[0]
    bare = dtype == "str" and any(token[0] not in "'\"" for token in tokens)
    if blanks and (commas or bare):
        hint = "; write texts with blanks in quotes" if bare else ""
        raise ValueError(f"a comma is missing between items{hint}")
    return tokens


def _item(token: str, dtype: str) -> Any:
    """A token of a list in brackets."""
    scalar = _SCALAR.fullmatch(token)
    token = scalar["value"] if scalar else token
    if token[0] not in "'\"":
        return _unquoted(token, dtype)
    value = _unescaped(token)
    if dtype != "str":
        return parse_number(value, dtype)
    if not value:
        raise ValueError(f"{token} is an empty text")
    value.encode()  # half a surrogate pair is no text; UnicodeError is a ValueError
    return value


def _unescaped(token: str) -> str:
    if "\\" not in token:
        return token[1:-1]
    try:
        text = json.loads(token)
    except ValueError:
        try:
            text = ast.literal_eval(token)
        except (ValueError, SyntaxError):
            raise ValueError(f"{shown(token, 20)} is no quoted text") from None
    return str(text)


def _unquoted(token: str, dtype: str) -> Any:
    if dtype != "str":
        return parse_number(token, dtype)
    if token in _NO_TEXT:
        raise ValueError(f"{token!r} is not {EXPECTED[dtype]}")
    return token


def shown(text: str, most: int = 100) -> str:
    """For messages: a text in quotes, its end left out where it is longer than ``most``."""
    return repr(text if len(text) <= most else text[:most] + "…")
