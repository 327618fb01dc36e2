"""Values of features as a caller gives them, checked against what the model takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from model_zoo.core.errors import InputError
from model_zoo.core.folded import FoldedFeature
from model_zoo.core.serving.ids import Ids


def feature_values(
    ids: Ids,
    features: Iterable[FoldedFeature],
    given: Mapping[str, Any],
    rows: int,
    what: str,
    device: torch.device,
    *,
    one: bool = False,
) -> dict[str, Tensor]:
    """Checked values of features on the device, by name.

    Args:
        ids: The ids of the data set.
        features: All of these are needed, and no others.
        given: Values by name.
        rows: How many of each.
        what: What they are, for a message.
        device: Where they go.
        one: Whether one value may stand for all rows; it then stays one.

    Raises:
        InputError: If a feature is missing or unknown, or a value does not fit.
    """
    features = list(features)
    names = {feature.name for feature in features}
    problems = [f"{what}: '{name}' is missing" for name in sorted(names - set(given))]
    problems += [f"{what}: '{name}' is no such feature" for name in sorted(set(given) - names)]
    if problems:
        raise InputError(problems)
    values = {}
    for feature in features:
        tensor = ids.values(feature, given[feature.name], f"{what} '{feature.name}'")
        if len(tensor) != rows and not (one and len(tensor) == 1):
            raise InputError(f"{what} '{feature.name}': {len(tensor)} values for {rows} rows")
        values[feature.name] = tensor.to(device, non_blocking=True)
    return values
