"""Ranges of a space: ``{low: 1.e-4, high: 1.e-2, log: true}``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pydantic


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included.

    Attributes:
        low: The least.
        high: The greatest.
        log: Whether equal factors, rather than equal differences, are equally likely.
        whole: Whether the setting takes whole numbers only.
    """

    low: float
    high: float
    log: bool
    whole: bool


def is_range(values: Any) -> bool:
    return isinstance(values, dict) and bool({"low", "high"} & values.keys())


def read_range(
    where: str, values: Mapping[str, Any], field: tuple[Any, Any], problems: list[str]
) -> Range | None:
    """A checked range, or ``None`` after adding to ``problems``.

    Args:
        where: The file and the key, for messages.
        values: What the space says.
        field: Type and default of the setting, as pydantic takes them.
        problems: Messages.
    """
    low, high, log = values.get("low"), values.get("high"), values.get("log", False)
    numbers = all(_is_number(bound) for bound in (low, high))
    if not numbers or values.keys() - {"low", "high", "log"} or not isinstance(log, bool):
        problems.append(
            f"{where}: expected a range {{low: number, high: number, log: true or false}}, "
            f"found {dict(values)!r}"
        )
    elif low >= high or (log and low <= 0):
        expected = "0 < low < high with log" if log else "low < high"
        problems.append(f"{where}: expected {expected}, found low {low} and high {high}")
    elif _takes(field, low + 0.37123 * (high - low)):
        return Range(float(low), float(high), log, whole=False)
    elif _takes(field, int(low)) or _takes(field, int(high)):
        if low == int(low) and high == int(high):
            return Range(int(low), int(high), log, whole=True)
        problems.append(f"{where}: takes whole numbers, found low {low} and high {high}")
    else:
        problems.append(f"{where}: takes no such numbers; list its values instead of a range")
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _takes(field: tuple[Any, Any], number: float) -> bool:
    """Whether a setting takes a number, and as a number: not for a Boolean, not for a text."""
    probe: Any = pydantic.create_model("Probe", value=field)
    try:
        taken = probe(value=number).value
    except pydantic.ValidationError:
        return False
    return _is_number(taken)
