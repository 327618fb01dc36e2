"""Types of settings with their ranges: what a YAML key is checked against before any work.

A constructor that annotates an argument with one of them states its range; ``None`` is allowed
only where the annotation says so. Numbers are finite, a Boolean is no number, and text is none
either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import pydantic
from pydantic import Field

# Beyond it no size is meant, and torch's own integers end.
_MOST = 2**31 - 1

Count = Annotated[int, Field(ge=1, le=_MOST)]
Widths = Annotated[Sequence[Count], Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # NumPy's range
LearningRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Factor = Annotated[float, Field(gt=0, le=1)]
Decay = Annotated[float, Field(gt=0, lt=1)]
Power = Annotated[float, Field(ge=0, le=1)]
LossWeight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Minutes = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _dropout(value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"dropout must be in [0, 1), got {value!r}")
    return value


Dropout = Annotated[float, pydantic.AfterValidator(_dropout)]


def _weights_from_0(text: str) -> str:
    for number in text.partition("(")[2].rstrip(")").split(","):
        try:
            good = 0 <= float(number) < float("inf")
        except ValueError:
            good = False
        if not good:
            raise ValueError("the numbers in the brackets should be finite and from 0 on")
    return text


# FuxiCTR's notation for norms other than the default (λ/2)·‖·‖².
Regularizer = Annotated[
    str,
    Field(pattern=r"^(l[12]\([^,()]+\)|l1_l2\([^,()]+,[^,()]+\))$"),
    pydantic.AfterValidator(_weights_from_0),
]
Penalty = Annotated[float, Field(ge=0, allow_inf_nan=False)] | Regularizer | None


def require_widths(name: str, units: Sequence[int]) -> None:
    """Refuse hidden widths that no network can have.

    Raises:
        ValueError: If there is none, or one is below 1.
    """
    if not units or min(units) < 1:
        raise ValueError(f"{name} must be widths from 1 on, got {list(units)}")


def require_dropout(name: str, rate: float) -> None:
    """Refuse what is no probability of dropping an element.

    Raises:
        ValueError: If it is not in [0, 1).
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"{name} must be in [0, 1), got {rate}")


def require_in_range(
    accumulation_steps: int, factor: float, weight_average: float | None, embedding_update: str
) -> None:
    """Refuse what :class:`model_zoo.core.training.engine.TrainableModel` cannot train with.

    Raises:
        ValueError: With the setting, its value and what was expected.
    """
    if accumulation_steps < 1:
        raise ValueError(f"accumulation_steps must be at least 1, got {accumulation_steps}")
    if not 0.0 < factor <= 1.0:
        raise ValueError(f"factor must be in (0, 1], got {factor}")
    if weight_average is not None and not 0.0 < weight_average < 1.0:
        raise ValueError(f"weight_average must be in (0, 1), got {weight_average}")
    if weight_average is not None and embedding_update == "lazy":
        raise ValueError("weight_average touches every row; embedding_update: lazy spares that")
