"""Lists and numbers written as text: every way to write them is read back, or refused."""

from __future__ import annotations

import json
import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoo.core.data.cell_text import parse_list, read_lists, read_numbers

INT64 = st.integers(-(2**63), 2**63 - 1)
WORDS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)


def plain_list(text: str, dtype: str) -> list | None:
    """An unbracketed cell, read the plain way; None where it must be refused."""
    text = text.strip()
    if not text:
        return []
    between = [s for s in "^|;," if s in text]
    parts = text.split(between[0]) if between else [text] if dtype == "str" else text.split()
    parts = [part.strip() for part in parts]
    if dtype == "str":
        missing = {"", "...", "nan", "NaN", "None", "null", "<NA>", "NaT"}
        return None if missing & set(parts) else parts
    if not all(re.fullmatch(r"[+-]?[0-9]+(\.0*)?", part) for part in parts):
        return None
    return [int(part.split(".")[0]) for part in parts]


def written_numbers(items: list[int]) -> list[str]:
    """The forms in which pandas, numpy, JSON, FuxiCTR and people write integers."""
    texts = [str(i) for i in items]
    forms = [s.join(texts) for s in ("^", "|", ";", ", ", " ", "  ", " , ")]
    forms += [repr(items), repr(tuple(items)), json.dumps(items), f"[{' '.join(texts)}]"]
    forms += [f"({', '.join(f'np.int64({t})' for t in texts)})", repr(texts), json.dumps(texts)]
    forms += ["^".join(f"{t}.0" for t in texts), f"[{', '.join(f'{t}.' for t in texts)}]"]
    if items:
        forms.append(f"array({items}, dtype=int64)")
        with np.printoptions(threshold=10_000):
            forms += [str(np.array(items)), repr(np.array(items))]
    return forms


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(INT64, max_size=6), min_size=1, max_size=4))
def test_every_form_of_integers_is_the_same_list(columns: list[list[int]]) -> None:
    """In one column, so that plain and odd cells stand next to each other."""
    cells = [(form, items) for items in columns for form in written_numbers(items)]
    lists, problems = read_lists(pl.Series("c", [form for form, _ in cells]), "int")
    assert problems == {}
    assert lists.dtype == pl.List(pl.Int64)
    assert lists.to_list() == [items for _, items in cells]


@settings(max_examples=100, deadline=None)
@given(st.lists(WORDS, max_size=5))
def test_quoted_texts_are_kept_whole(items: list[str]) -> None:
    forms = [json.dumps(items), json.dumps(items, ensure_ascii=False), repr(items)]
    forms += [repr(tuple(items)), f"[{' '.join(map(repr, items))}]"]
    forms += [f"array({items!r}, dtype='<U8')", f"[{', '.join(f'np.str_({i!r})' for i in items)}]"]
    lists, problems = read_lists(pl.Series("c", forms), "str")
    assert problems == {}
    assert lists.to_list() == [items] * len(forms)


TOKENS = ["7", "08", "7.0", "7.5", "-3", "new", "new york", "nan", "None", "...", "", "é", "x'y"]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([*TOKENS, "^", "|", ";", ",", " "]), max_size=7).map("".join),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["int", "str"]),
)
def test_any_cell_without_brackets_is_what_the_plain_parser_reads(
    cells: list[str], dtype: str
) -> None:
    lists, problems = read_lists(pl.Series("c", cells), dtype)
    expected = [plain_list(cell, dtype) for cell in cells]
    assert sorted(problems) == [row for row, items in enumerate(expected) if items is None]
    assert lists.to_list() == [items or [] for items in expected]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=5))
def test_vectors(items: list[float]) -> None:
    forms = [repr(items), "^".join(map(repr, items)), " ".join(map(repr, items))]
    forms += [f"[{', '.join(f'np.float64({i!r})' for i in items)}]"]
    lists, problems = read_lists(pl.Series("c", forms), "float")
    assert problems == {}
    assert lists.to_list() == [items] * len(forms)


@pytest.mark.parametrize(
    ("dtype", "text", "problem"),
    [
        ("int", "[nan, 1001.0]", "'nan' is not an integer"),
        ("int", "[1 2 ... 8 9]", "'...' is not an integer"),
        ("int", "array([1, 2, ..., 8, 9])", "'...' is not an integer"),
        ("int", "[1, None]", "'None' is not an integer"),
        ("int", "[True]", "'True' is not an integer"),
        ("int", "7^7.5", "'7.5' is not an integer"),
        ("int", "7|8,9", "'8,9' is not an integer"),
        ("int", "7^^8", "'' is not an integer"),
        ("int", "7^8^", "'' is not an integer"),
        ("int", "[7,,8]", "',8' is no item"),
        ("int", "[7, 8", "does not end with ']'"),
        ("int", "[7, 8)", "does not end with ']'"),
        ("int", "[[7, 8]]", "'[7, 8]' is no item"),
        ("int", "[7, 8 9]", "a comma is missing"),
        ("int", "9223372036854775808", "is not an integer"),
        ("int", "1_000", "is not an integer"),
        ("float", "[0.5, inf]", "'inf' is not a number"),
        ("float", "0.5 1e999", "'1e999' is not a number"),
        ("str", "[None, 'a']", "'None' is not a text"),
        ("str", "['a', ...]", "'...' is not a text"),
        ("str", "array(['a', ..., 'z'], shape=(2000,), dtype='<U1')", "does not end with ']'"),
        ("str", "a|nan", "'nan' is not a text"),
        ("str", "a||b", "'' is not a text"),
        ("str", "['a', '']", "'' is an empty text"),
        ("str", "[new york, boston]", "write texts with blanks in quotes"),
        ("str", "['a', 'b]", "is no item"),
        ("str", "[b'a']", "follows an item without a comma"),
        ("str", "['\\ud800']", "surrogates not allowed"),
        ("str", "(500) Days|Up", "does not end with ')'"),
        ("str", "deque(['a', 'b'])", "form of a list"),
        ("str", "{'a', 'b'}", "form of a list"),
        ("str", "'[1, 2]'", "form of a list"),
    ],
)
def test_what_does_not_fit_is_refused(dtype: str, text: str, problem: str) -> None:
    lists, problems = read_lists(pl.Series("c", ["", text, ""]), dtype)
    assert list(problems) == [1]
    assert problem in problems[1]
    assert lists.to_list() == [[], [], []]
    with pytest.raises(ValueError, match=re.escape(problem)):
        parse_list(text, dtype)


def test_single_numbers() -> None:
    cells = [
        "7",
        "7.0",
        " 8 ",
        "np.int64(9)",
        None,
        "",
        "-9223372036854775808",
        "7.5",
        "1e3",
        "nan",
    ]
    values, problems = read_numbers(pl.Series("c", cells), "int")
    assert values.to_list() == [7, 7, 8, 9, None, None, -(2**63), None, None, None]
    assert list(problems) == [7, 8, 9]
    values, problems = read_numbers(
        pl.Series("c", ["7", ".5", "1e3", "np.float32(2.)", "inf"]), "float"
    )
    assert values.to_list() == [7.0, 0.5, 1000.0, 2.0, None]
    assert list(problems) == [4]
