"""A caller's ids as the stored ones, where their types differ.

A conversion has to be exact, and no other stored id may be meant:

====================  ==============================  =====================================
given                 stored integers                 stored text
====================  ==============================  =====================================
integer 7             7                               "7"
7.0, Decimal("7")     7                               "7", or "7.0" if only that is stored
"7"                   7                               "7"
"007", "7.0", " 7 "   refused                         as it is
b"7"                  as "7"                          "7"
7.5                   refused                         "7.5" if stored, else refused
True                  1, as token, of 0 and 1 only    refused
NaN, others           refused                         refused
====================  ==============================  =====================================

For stored text, 7 is refused where "007" is stored and "7" is not, and where no stored id is
an integer's text. A float counts up to the size where its type still tells integers apart.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from decimal import Decimal
from typing import Any

from model_zoo.core.errors import InputError

SPECIAL = ("__PAD__", "__OOV__", "")  # tokens of FuxiCTR's vocabularies, whatever their type
PLAIN = {str, int, float, bool, type(None)}
_TO_PLAIN = ("tolist", "to_list", "to_pylist", "as_py")  # NumPy, torch, pandas; polars; Arrow

_CANONICAL = re.compile(r"0|-?[1-9][0-9]{0,19}")
_NUMERAL = re.compile(r"\s*([+-]?[0-9]{1,20})(?:\.0*)?\s*")
_LARGEST = 2**53
# Below it, integers have neighbours of their own in a narrower type (Arrow's float has 32 bits).
_NARROW = {"bfloat16": 2**8, "float16": 2**11, "halffloat": 2**11, "float32": 2**24}
_NARROW["float"] = _NARROW["float32"]


class Keys:
    """The ids that are known, and how ids of another type are read as these.

    Args:
        known: The ids; more of the same type may follow.
        text: Whether they are text in any case: tokens of lists are.
    """

    def __init__(self, known: Collection[Any], *, text: bool = False) -> None:
        self._known = known
        self._types: set[type] = {str} if text else set()
        self._read = 0  # known ids of which the numerals are read
        self._numerals: dict[int, str] = {}  # a number -> the first text that reads as it
        self._integers = False  # whether a text is an integer as Python writes it

    def stored(self, values: list[Any], what: str, *, largest: int = _LARGEST) -> list[Any]:
        """Ids as they are stored, whether known or not; ``None`` and "" stay, for no id.

        Args:
            values: Python's own values.
            what: What they are, for a message.
            largest: Below it a float is exact (see :func:`largest_exact`).

        Raises:
            InputError: If a value is of another type and no exact conversion exists; it names
                place, value and both types.
        """
        types = self._types or self._find_types()
        given = set(map(type, values))
        if given <= types | {type(None)}:
            return values
        if list in given:
            raise InputError(f"{what}: expected one list of item ids or tokens, found lists in it")
        if not types and given <= PLAIN:
            return values
        converted = []
        for place, value in enumerate(values):
            if value is not None and value != "" and type(value) not in types:
                try:
                    value = self._convert(value, largest)
                except ValueError as error:
                    raise InputError(
                        f"{what}: position {place}: found {value!r} ({type(value).__name__}), "
                        f"expected {self._expected()}{error}"
                    ) from None
            converted.append(value)
        return converted

    def are_integers(self) -> bool:
        """Whether all known ids are."""
        return (self._types or self._find_types()) == {int}

    def _find_types(self) -> set[type]:
        self._types = {type(key) for key in list(self._known) if key not in SPECIAL}
        self._types.discard(type(None))
        return self._types

    def _expected(self) -> str:
        names = " or ".join(sorted(kind.__name__ for kind in self._types or {int, str}))
        example = next((key for key in list(self._known) if key not in SPECIAL), None)
        return f"{names}" + ("" if example is None else f" like the known {example!r}")

    def _convert(self, value: Any, largest: int) -> Any:
        if isinstance(value, bytes):
            value = value.decode("utf-8")  # UnicodeDecodeError is a ValueError
        if isinstance(value, str):
            if str in self._types:
                return value
            if not _CANONICAL.fullmatch(value):
                raise ValueError
            return int(value)
        # A vocabulary, not items, of 0 and 1: that is how Boolean columns are encoded.
        if isinstance(value, bool) and {"__OOV__"} <= set(self._known) <= {0, 1, *SPECIAL}:
            value = int(value)
        number = _integer(value, largest)
        if str not in self._types:
            if number is None:
                raise ValueError
            return number
        forms = {repr(value)} if isinstance(value, float) else set()
        forms |= set() if number is None else {str(number)}
        found = [form for form in forms if form in self._known]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"; {' and '.join(map(repr, sorted(found)))} are known")
        if number is None:
            raise ValueError
        self._read_numerals()
        if number in self._numerals:
            raise ValueError(f"; {self._numerals[number]!r} is known, which reads as it too")
        if not self._integers:
            raise ValueError
        return str(number)

    def _read_numerals(self) -> None:
        keys = list(self._known)  # a copy, as another thread may add some
        for key in keys[self._read :]:
            numeral = _NUMERAL.fullmatch(key) if isinstance(key, str) else None
            if numeral:
                self._numerals.setdefault(int(numeral[1]), key)
                self._integers = self._integers or _CANONICAL.fullmatch(key) is not None
        self._read = len(keys)


def plain(values: Any) -> Any:
    """What an array, a tensor or a column of a table holds, as Python's own values and lists."""
    if type(values) in PLAIN:
        return values
    method = next((name for name in _TO_PLAIN if hasattr(values, name)), None)
    if method is not None:
        values = getattr(values, method)()
    if isinstance(values, (list, tuple)) and set(map(type, values)) <= PLAIN:
        return list(values)
    if isinstance(values, Iterable) and not isinstance(values, (str, bytes)):
        return [plain(value) for value in values]
    return values


def largest_exact(values: Any) -> int:
    """Below it a float of an array's, a scalar's or a list's type is one integer only."""
    if isinstance(values, (list, tuple)):
        kinds = {type(value): value for value in values}
        kinds = {kind: value for kind, value in kinds.items() if kind not in PLAIN}
        return min(map(largest_exact, kinds.values()), default=_LARGEST)
    dtype = str(getattr(values, "dtype", getattr(values, "type", ""))).lower()
    return _NARROW.get(dtype.rpartition(".")[2], _LARGEST)


def _integer(value: Any, largest: int) -> int | None:
    """The integer that a number is, if it is one exactly.

    Raises:
        ValueError: If it is no number.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float):
        return int(value) if abs(value) < largest and value.is_integer() else None
    if isinstance(value, Decimal):
        whole = value.is_finite() and abs(value) < 2**64 and value == int(value)
        return int(value) if whole else None
    raise ValueError
