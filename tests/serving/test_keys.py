"""Ids of another type than the stored ones: the exact conversion, or a refusal that names both."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_zoo.core.errors import InputError
from model_zoo.core.serving.file import FoldedFile
from model_zoo.core.serving.ids import OUT_OF_VOCABULARY, Ids
from model_zoo.core.serving.scorer import Scorer
from model_zoo.QIN.fold import fold
from model_zoo.QIN.folded import FoldedFeature
from tests.serving.made import FEATURES, make_model

INTEGERS = {1001: 1, 7: 2, 2**60: 3, -4: 4}
TEXTS = {"1001": 1, "7": 2, "bread": 3, "-4": 4, "7.5": 5}
PADDED = {"007": 1, "1001": 2}
UNKNOWN = 9
MAKERS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "numpy": np.array,
    "numpy scalars": lambda values: list(np.array(values)),
    "object": lambda values: np.array(values, dtype=object),
    "polars": pl.Series,
    "pandas": pd.Series,
    "arrow": pa.array,
    "chunks": lambda values: pa.chunked_array([values]),
    "arrow scalars": lambda values: list(pa.array(values)),
}


def rows_of(known: dict[Any, int], given: Any) -> list[int]:
    ids = Ids("item", rows=known, unknown=UNKNOWN)
    return ids.items(given, UNKNOWN + 1, "candidates").tolist()


@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
@pytest.mark.parametrize(
    ("known", "given", "expected"),
    [
        (INTEGERS, [7, 1001, 8], [2, 1, UNKNOWN]),
        (INTEGERS, ["7", "1001", "8"], [2, 1, UNKNOWN]),
        (INTEGERS, [7.0, 1001.0, 8.0], [2, 1, UNKNOWN]),
        (INTEGERS, [b"7", b"1001", b"8"], [2, 1, UNKNOWN]),
        (INTEGERS, [Decimal(7), Decimal("1001.0"), Decimal(8)], [2, 1, UNKNOWN]),
        (TEXTS, ["7", "bread", "soup", "007"], [2, 3, UNKNOWN, UNKNOWN]),
        (TEXTS, [7, 1001, 8, -4], [2, 1, UNKNOWN, 4]),
        (TEXTS, [7.0, 1001.0, 8.0], [2, 1, UNKNOWN]),
        (TEXTS, [7.5], [5]),
        (TEXTS, [b"bread", b"7"], [3, 2]),
        (TEXTS, [Decimal("7.0")], [2]),
    ],
)
def test_what_is_exact_is_converted(
    make: Callable[[list[Any]], Any], known: dict[Any, int], given: list[Any], expected: list[int]
) -> None:
    assert rows_of(known, make(given)) == expected


@pytest.mark.parametrize(
    ("known", "value", "message"),
    [
        (INTEGERS, "007", "found '007' (str), expected int like the known 1001"),
        (INTEGERS, "7.0", "found '7.0' (str), expected int like the known 1001"),
        (INTEGERS, " 7 ", "found ' 7 ' (str), expected int like the known 1001"),
        (INTEGERS, "+7", "found '+7' (str), expected int like the known 1001"),
        (INTEGERS, "-0", "found '-0' (str), expected int like the known 1001"),
        (INTEGERS, "٧", "found '٧' (str), expected int like the known 1001"),
        (INTEGERS, "9" * 5000, "(str), expected int like the known 1001"),
        (INTEGERS, b"\xff", r"found b'\xff' (bytes), expected int like the known 1001"),
        (INTEGERS, 7.5, "found 7.5 (float), expected int like the known 1001"),
        (INTEGERS, float(2**60), "found 1.152921504606847e+18 (float), expected int like"),
        (INTEGERS, float("nan"), "found nan (float), expected int like the known 1001"),
        (INTEGERS, float("inf"), "found inf (float), expected int like the known 1001"),
        (INTEGERS, Decimal("7.5"), "found Decimal('7.5') (Decimal), expected int like"),
        (INTEGERS, Decimal("sNaN"), "(Decimal), expected int like the known 1001"),
        (INTEGERS, True, "found True (bool), expected int like the known 1001"),
        (INTEGERS, np.True_, "found True (bool), expected int like the known 1001"),
        (INTEGERS, np.float32(2**24), "found 16777216.0 (float), expected int like"),
        (INTEGERS, torch.tensor(256.0).bfloat16(), "found 256.0 (float), expected int like"),
        (INTEGERS, None, "item None is unknown"),
        (TEXTS, "", "item '' is unknown"),
        (TEXTS, True, "found True (bool), expected str like the known '1001'"),
        (TEXTS, float("nan"), "found nan (float), expected str like the known '1001'"),
        (TEXTS, 8.5, "found 8.5 (float), expected str like the known '1001'"),
        (TEXTS, 2.0**53, "found 9007199254740992.0 (float), expected str like the known"),
        (PADDED, 7, "found 7 (int), expected str like the known '007'; '007' is known, which"),
        (PADDED, 7.0, "found 7.0 (float), expected str like the known '007'; '007' is known"),
        ({"7": 1, "7.0": 2}, 7.0, "found 7.0 (float), expected str like the known '7'; '7' and"),
        ({"bread": 1, "jam": 2}, 7, "found 7 (int), expected str like the known 'bread'"),
        ({"bread": 1, "1.5": 2}, 7, "found 7 (int), expected str like the known 'bread'"),
    ],
)
def test_what_is_not_exact_is_refused(known: dict[Any, int], value: Any, message: str) -> None:
    first = next(iter(known))
    for values in ([first, value], (first, value)):
        with pytest.raises(InputError) as error:
            rows_of(known, values)
        assert error.value.problems[0].startswith("candidates: position 1")
        assert message in error.value.problems[0]


@pytest.mark.parametrize(
    "array",
    [
        np.array([2**24], dtype=np.float32),
        np.array([2**11], dtype=np.float16),
        torch.tensor([2**24], dtype=torch.float32),
        torch.tensor([2**8], dtype=torch.bfloat16),
        pl.Series([2**24], dtype=pl.Float32),
        pd.Series([2**24], dtype="float32"),
        pd.Series([2**24], dtype="Float32"),
        pa.array([2**24], pa.float32()),
        [np.float32(2**24)],
        [1001, np.float32(2**24)],
    ],
)
def test_a_narrow_float_tells_fewer_integers_apart(array: Any) -> None:
    with pytest.raises(InputError, match=r"\(float\), expected int like"):
        rows_of({2**24: 1, 2**11: 2, 2**8: 3, 1001: 4}, array)


def plain_rule(value: Any, known: set[Any]) -> Any:
    """An id as one of the type of ``known``; ValueError where no exact conversion exists."""
    integers = isinstance(next(iter(known)), int)
    value = value.decode() if isinstance(value, bytes) else value
    if value in ("", None) or isinstance(value, bool):
        raise ValueError
    if isinstance(value, str):
        if integers and str(int(value)) != value:
            raise ValueError
        return int(value) if integers else value
    if value != value or not (isinstance(value, int) or abs(value) < 2**53):
        raise ValueError
    if integers:
        if value != int(value):
            raise ValueError
        return int(value)
    same = {text for text in known if _number(text) == value}
    written = same & {str(int(value)), repr(float(value)) if isinstance(value, float) else ""}
    if len(written) == 1:
        return written.pop()
    integers = [text for text in known if isinstance(_number(text), int)]
    if same or value != int(value) or not any(text == str(int(text)) for text in integers):
        raise ValueError
    return str(int(value))


def _number(text: str) -> float | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return None


IDS = st.one_of(
    st.integers(-3, 12),
    st.integers(-3, 12).map(str),
    st.sampled_from(["007", "7.0", " 7", "a", "-0", "07", ""]),
    st.sampled_from([7.0, 7.5, -0.0, 2.0**53, float("nan"), True, b"7", b"a", Decimal("7.0")]),
)


@given(
    known=st.one_of(
        st.sets(st.integers(-3, 12), min_size=1),
        st.sets(st.integers(-3, 12).map(str) | st.sampled_from(["007", "7.0", "a"]), min_size=1),
    ),
    value=IDS,
)
def test_conversions_are_those_of_a_plain_rule(known: set[Any], value: Any) -> None:
    rows = {key: row for row, key in enumerate(sorted(known), start=1)}
    try:
        expected = rows.get(plain_rule(value, set(known)), UNKNOWN * 10)
    except ValueError:
        expected = None
    ids = Ids("item", rows=rows, unknown=UNKNOWN * 10)
    if expected is None:
        with pytest.raises(InputError, match="candidates: position 0"):
            ids.items([value], 1000, "candidates")
    else:
        assert ids.items([value], 1000, "candidates").tolist() == [expected]


HOUR = FoldedFeature("hour", "categorical", torch.zeros(30, 2))
TAGS = FoldedFeature("tags", "sequence", torch.zeros(9, 2))
HOURS = {3: 1, 21: 2, "__PAD__": 0, OUT_OF_VOCABULARY: 3}
CITIES = {"3": 1, "Ulm": 2, "__PAD__": 0, OUT_OF_VOCABULARY: 3}


@pytest.mark.parametrize(
    ("vocabulary", "value", "expected"),
    [
        (HOURS, "3", [1]),
        (HOURS, ["3", 21.0, b"21", "4", None, ""], [1, 2, 2, 3, 0, 0]),
        (HOURS, np.array([3.0, 21.0]), [1, 2]),
        (CITIES, 3, [1]),
        (CITIES, [np.int64(3), 3.0, 4, "Ulm", b"Ulm", None], [1, 1, 3, 2, 2, 0]),
        (CITIES, "003", [3]),
        ({0: 1, 1: 2, "__PAD__": 0, OUT_OF_VOCABULARY: 3}, [True, np.False_, None], [2, 1, 0]),
    ],
)
def test_tokens_of_another_type(vocabulary: dict[Any, int], value: Any, expected: Any) -> None:
    ids = Ids("item", vocabularies={"hour": vocabulary})
    assert ids.values(HOUR, value, "context 'hour'").tolist() == expected


@pytest.mark.parametrize(
    ("vocabulary", "value", "message"),
    [
        (HOURS, "Ulm", r"position 0: found 'Ulm' \(str\), expected int like the known 3"),
        (HOURS, [3, "03"], r"position 1: found '03' \(str\), expected int like the known 3"),
        (HOURS, [3, float("nan")], r"position 1: found nan \(float\), expected int"),
        (HOURS, True, r"position 0: found True \(bool\), expected int"),
        (CITIES, 3.5, r"position 0: found 3.5 \(float\), expected str like the known '3'"),
        ({"Ulm": 1, OUT_OF_VOCABULARY: 2}, 3, r"position 0: found 3 \(int\), expected str"),
        (HOURS, [[3]], "expected one list of item ids or tokens, found lists in it"),
    ],
)
def test_a_token_that_cannot_be_one_is_refused(
    vocabulary: dict[Any, int], value: Any, message: str
) -> None:
    ids = Ids("item", vocabularies={"hour": vocabulary})
    with pytest.raises(InputError, match=f"context 'hour': {message}"):
        ids.values(HOUR, value, "context 'hour'")


def test_tokens_of_lists_are_text_also_where_integers_share_their_vocabulary() -> None:
    tokens = {"a": 1, "5": 3, 5: 4, "2.5": 5, "6.0": 6, OUT_OF_VOCABULARY: 7}
    ids = Ids("item", vocabularies={"tags": tokens}, max_lens={"tags": 3})
    given = [[5, b"a"], np.array([5.0, 6.0, 2.5]), (np.int8(5), None, "")]
    assert ids.values(TAGS, given, "tags").tolist() == [[3, 1, 0], [3, 6, 5], [3, 0, 0]]
    with pytest.raises(InputError, match=r"tags, list 1: position 0: found True \(bool\)"):
        ids.values(TAGS, [["a"], [True]], "tags")
    with pytest.raises(InputError, match=r"tags, list 0: position 0: found 16777216.0"):
        ids.values(TAGS, [np.array([2**24], dtype=np.float32)], "tags")


def test_encoded_ids_take_no_truth_value() -> None:
    with pytest.raises(InputError, match=r"candidates: expected integers, found torch\.bool"):
        Ids("item").items([3, True], 9, "candidates")


def test_new_items_get_the_type_of_the_others(tmp_path: Path) -> None:
    features = {name: FEATURES[name] for name in ("level", "item_id", "tags")}
    rows = {"1": 1, "2": 2, "jam": 3}
    level = {3: 1, OUT_OF_VOCABULARY: 3}
    ids = Ids("item_id", rows=rows, unknown=11, vocabularies={"level": level})
    scorer = Scorer(FoldedFile(fold(make_model(tmp_path, features)), ids, 5))
    before = scorer.score(["1", "2"], ["1", "jam"], {"level": 3})
    assert torch.equal(scorer.score([1, 2.0], np.array([b"1", b"jam"]), {"level": "3"}), before)
    assert not torch.equal(scorer.score([2, 2], ["1", "jam"], {"level": 3}), before)
    scorer.add_items([10, 11.0], {"item_id": [1, 2]})
    assert list(rows) == ["1", "2", "jam", "10", "11"]
    again = scorer.score(["1"], ["10", 11], {"level": 3})
    scorer.update_items([np.int64(10), b"11"], {"item_id": [2, 1]})
    assert torch.equal(scorer.score(["1"], [11, "10"], {"level": 3}), again)
    for change, message in (
        (lambda: scorer.add_items([10], {"item_id": [1]}), "add_items: item '10' is there alrea"),
        (lambda: scorer.add_items(["12", 12], {"item_id": [1, 1]}), "item '12' is there already"),
        (lambda: scorer.add_items([1.5], {"item_id": [1]}), r"position 0: found 1.5 \(float\)"),
        (lambda: scorer.add_items([""], {"item_id": [1]}), "position 0: found '', expected an id"),
        (lambda: scorer.add_items([None], {"item_id": [1]}), "position 0: found None, expected an"),
        (lambda: scorer.update_items([1, "1"], {}), "update_items: item '1' is given twice"),
        (lambda: scorer.update_items([True], {}), r"update_items: position 0: found True \(bool"),
        (lambda: scorer.update_items([12], {}), "update_items: item '12' is not there"),
    ):
        with pytest.raises(InputError, match=message):
            change()
    assert list(rows) == ["1", "2", "jam", "10", "11"]
