"""Where numbers stop to be finite in a model: in an input, in its weights, or in a layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_NAMED = 3  # weights that a message names


@torch.no_grad()
def origin_of(model: nn.Module, batch: Mapping[str, Tensor]) -> str:
    """Say what makes a batch's predictions infinite or NaN; the forward pass runs once more.

    Args:
        model: The model, in the mode in which it computed them.
        batch: The batch.
    """
    inputs = [name for name, values in batch.items() if _broken(values)]
    if inputs:
        return f"of the batch's columns {', '.join(inputs)} is not finite"
    # In training the batch itself goes into the batch statistics: they are no cause.
    state = dict(model.named_parameters()) if model.training else model.state_dict()
    weights = [name for name, values in state.items() if _broken(values)]
    if weights:
        others = f" and {len(weights) - _NAMED} more" if len(weights) > _NAMED else ""
        return f"the weights of {', '.join(weights[:_NAMED])}{others} are not finite"
    layer = _first_layer(model, batch)
    if layer is None:
        return "all weights and inputs are finite"
    parts = layer.split(".")
    if len(parts) > 1 and parts[-2] in ("embedding_layers", "feature_encoders"):
        return f"the first numbers that are not come from feature '{parts[-1]}' (layer {layer})"
    return f"the first numbers that are not come from layer {layer}"


@torch.no_grad()
def first_batch_of(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> str | None:
    """The first batch with such predictions, and what makes them; ``None`` if there is none."""
    for number, batch in enumerate(batches, start=1):
        if not torch.isfinite(model.forward(batch)["y_pred"]).all():
            return f"first in batch {number}: {origin_of(model, batch)}"
    return None


def _first_layer(model: nn.Module, batch: Mapping[str, Tensor]) -> str | None:
    """Of all modules with such an output the first that is done, and so the innermost."""
    found: list[str] = []

    def look(name: str, output: Any) -> None:
        if not found and any(_broken(values) for values in _tensors(output)):
            found.append(name)

    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: look(name, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        model.forward(batch)
    except RuntimeError:
        pass  # torch itself may refuse what is not finite; the layers before it have been seen
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (list, tuple, Mapping)):
        for value in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(value)


def _broken(values: Tensor) -> bool:
    return values.is_floating_point() and not bool(torch.isfinite(values).all())
