"""YAML keys of FuxiCTR's models: types for constructors that have none."""

from __future__ import annotations

import copy
import inspect
import re
from typing import Annotated, Any, Literal

import pydantic

from model_zoo.core.training.settings import Count, Dropout, LearningRate, Penalty

# FuxiCTR looks these up in torch.nn, some in any case, and calls what it finds.
ACTIVATIONS = (
    *("ReLU", "PReLU", "Dice", "LeakyReLU", "ELU", "SELU", "GELU", "SiLU", "Mish"),
    *("Softplus", "Tanh", "Sigmoid", "Softmax"),
)


def _activation(name: str) -> str:
    known = {activation.lower(): activation for activation in ACTIVATIONS}
    if name.lower() not in known:
        raise ValueError(f"unknown activation '{name}'; known: {', '.join(ACTIVATIONS)}")
    return known[name.lower()]


Activation = Annotated[str, pydantic.AfterValidator(_activation)]

_KNOWN: dict[str, Any] = {
    "embedding_regularizer": Penalty,
    "net_regularizer": Penalty,
    "learning_rate": LearningRate,
    "gsu_type": Literal["soft"],
    "gru_type": Literal["GRU", "AIGRU", "AGRU", "AUGRU"],
    "attention_type": Literal["bilinear_attention", "dot_attention", "din_attention"],
    "model_structure": Literal["crossnet_only", "stacked", "parallel", "stacked_parallel"],
    "attention_output_activation": Literal["ReLU", "Sigmoid", "Tanh"] | None,
}


def argument_type(name: str, default: Any, documented: str | None) -> Any:
    """The type of a constructor argument, for pydantic.

    Args:
        name: Its name. It decides for texts that FuxiCTR looks up somewhere, for lists (units
            are integers, other lists are names) and for probabilities.
        default: Its default value. A positive integer stays positive.
        documented: What the docstring says, such as ``float`` or ``str or None``: a default
            of 0 does not tell an integer from a rate.
    """
    if name in _KNOWN:
        return _KNOWN[name]
    if "activation" in name:
        return Activation
    if "dropout" in name:
        return Dropout
    if isinstance(default, list):
        return list[Count] if name.endswith("units") else list[str]
    if isinstance(default, bool):
        return bool
    if isinstance(default, float) or (documented or "").startswith("float"):
        return float
    if isinstance(default, int):
        return Count if default > 0 else Annotated[int, pydantic.Field(ge=0)]
    return str if default is not None else str | None


def constructor_signature(model_class: type) -> inspect.Signature:
    """The signature of FuxiCTR's class, annotated so that its arguments are YAML keys."""
    documented = dict(re.findall(r"^ +(\w+) \(([^)]+)\):", model_class.__doc__ or "", re.MULTILINE))
    parameters = {
        name: parameter.replace(
            # A list is the class's own object, and must not be changed for all its models.
            default=copy.copy(parameter.default),
            annotation=argument_type(name, parameter.default, documented.get(name)),
        )
        for name, parameter in inspect.signature(model_class.__init__).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and name not in ("self", "feature_map")
    }
    handed_over = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for name in ("self", "feature_map")
    ]
    others = inspect.Parameter("others", inspect.Parameter.VAR_KEYWORD)
    return inspect.Signature([*handed_over, *parameters.values(), others])
