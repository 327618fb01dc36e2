"""What ``benchmarks.explain`` measures of a model in training: attention, scales, gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model_zoo.QIN.layers import AdaptiveSparseTargetAttention

PARTS = {  # of a parameter's name
    "item_id": ("embedding_layers.item_id",),
    "tags": ("embedding_layers.item_tags",),
    "vectors": ("feature_encoders.item_emb_d128",),
    "W_q, W_k": ("attention.W_q", "attention.W_k"),
    "W_v, W_o": ("attention.W_v", "attention.W_o"),
    "gate": ("attention.of_", "attention.weight"),
    **{f"layer {i + 1}": (f"qnn.layers.{i}.",) for i in range(4)},
    "output": ("qnn.output",),
    "MLP": ("network.", "qnn.mlp"),
}


def rms(values: Tensor) -> float:
    return float(values.detach().float().square().mean().sqrt())


@torch.no_grad()
def attention_figures(model: Any, batch: Mapping[str, Tensor]) -> dict[str, float]:
    """Of a batch on the CPU.

    ``dead`` is the share of weights that are 0, ``score`` the size of the score before the ReLU,
    ``cosine`` its correlation over the pairs with the cosine of the two item vectors, ``added``
    the size of the interest without t over that of the interest, ``item_id`` the size of the ids'
    whole table. Sizes are root mean squares.
    """
    attention = model.attention
    target_ids = batch[model.item_col].long()
    history_ids, rows = model.packed_history(batch)
    items, index = model.encode_items(target_ids, history_ids)
    target, history = items[index[: len(target_ids)]], items[index[len(target_ids) :]]
    interest = attention.packed(target, items, rows, index[len(target_ids) :])
    paired = target[rows]
    if isinstance(attention, AdaptiveSparseTargetAttention):
        score = (attention.W_k(history) * attention.W_q(paired)).sum(dim=1) * attention.scale
        added = interest - target
    else:
        last = torch.bincount(rows, minlength=len(target)).cumsum(0)[rows] - 1
        places = last - torch.arange(len(rows))
        pair = attention.of_target(paired) + attention.of_history(history)
        pair = pair + attention.of_product(paired * history)
        pair = pair + attention.of_place[places.clamp(max=attention.max_len - 1)]
        score = attention.weight(torch.relu(pair)).squeeze(1)
        added = interest
    cosine = nn.functional.cosine_similarity(paired, history)
    tables = model.embedding_layer.embedding_layer.embedding_layers
    return {
        "dead": float((score <= 0).float().mean()),
        "score": rms(score),
        "cosine": float(torch.corrcoef(torch.stack([score, cosine]))[0, 1]),
        "added": rms(added) / rms(interest),
        "item_id": rms(tables["item_id"].weight),
    }


class Scales:
    """The size of what passes through the quadratic layers, if there are any, until closed.

    ``x`` is each layer's input and the last one's output, ``z`` a layer's product, ``normed``
    what BatchNorm makes of it (rms, and the median of the absolute values).
    """

    def __init__(self, model: Any) -> None:
        self.found: dict[str, list[float]] = {}
        self._hooks: list[Any] = []
        if not hasattr(getattr(model, "qnn", None), "norms"):
            return
        for layer, norm in zip(model.qnn.layers, model.qnn.norms, strict=True):
            self._hooks.append(layer.register_forward_pre_hook(self._note_input))
            self._hooks.append(layer.register_forward_hook(self._note("z")))
            self._hooks.append(norm.register_forward_hook(self._note("normed")))
        self._hooks.append(model.qnn.output.register_forward_pre_hook(self._note_input))

    def _note_input(self, module: nn.Module, inputs: tuple[Tensor]) -> None:
        self.found.setdefault("x", []).append(rms(inputs[0]))

    def _note(self, name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            self.found.setdefault(name, []).append(rms(output))
            middle = float(output.detach().abs().median())
            self.found.setdefault(f"{name}.median", []).append(middle)

        return note

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


class Gradients:
    """Of every optimizer step: the gradient's norm by part, clipped, before the weights move."""

    def __init__(self, model: Any) -> None:
        self.norms: dict[str, list[float]] = {}
        named = list(model.named_parameters())
        parts = {
            part: [p for name, p in named if any(where in name for where in places)]
            for part, places in PARTS.items()
        }
        self._parts = {part: parameters for part, parameters in parts.items() if parameters}
        self._optimizer = model.optimizer
        self._optimizer.register_step_pre_hook(self._note)

    def _note(self, *_: Any) -> None:
        for part, parameters in self._parts.items():
            norm = nn.utils.get_total_norm([p.grad for p in parameters])
            self.norms.setdefault(part, []).append(float(norm))

    def steps(self) -> dict[str, float]:
        """rms of Adam's last step by part, as a share of the learning rate.

        1 if all gradients agree, 0.23 if they are noise of one size, less if earlier ones were
        larger.
        """
        beta1, beta2 = self._optimizer.param_groups[0]["betas"]
        found = {}
        for part, parameters in self._parts.items():
            ratios = []
            for state in (self._optimizer.state[p] for p in parameters):
                mean = state["exp_avg"] / (1 - beta1 ** float(state["step"]))
                square = state["exp_avg_sq"] / (1 - beta2 ** float(state["step"]))
                ratios.append((mean / (square.sqrt() + 1e-8)).flatten())
            found[part] = rms(torch.cat(ratios))
        return found
