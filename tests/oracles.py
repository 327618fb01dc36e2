"""The formulas, slow and plain: what the fast code is compared with.

Everything is written as it is printed (keys and values built, padding multiplied, one row
after the other where that is clearer), in whatever dtype the inputs have.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn


def gradients(output: Tensor, module: nn.Module, *inputs: Tensor) -> list[Tensor]:
    """Of a weighted sum of the output: those of all parameters, then of the inputs."""
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    wanted = [*module.parameters(), *inputs]
    total = (output * weight).sum() + sum(0 * tensor.sum() for tensor in wanted)  # all take part
    return list(torch.autograd.grad(total, wanted, retain_graph=True))


def target_attention(attention: nn.Module, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
    """ASTA with keys and values: target (B, D), history (B, L, D), mask (B, L) -> (B, D)."""
    q = target @ attention.W_q.weight.T  # (B, A)
    k = history @ attention.W_k.weight.T  # (B, L, A)
    v = history @ attention.W_v.weight.T  # (B, L, A)
    score = torch.einsum("bla,ba->bl", k, q) * mask / math.sqrt(q.shape[1])
    weight = torch.relu(score)
    pooled = torch.einsum("bl,bla->ba", weight, v)
    return pooled @ attention.W_o.weight.T + target


def attention_variant(
    attention: nn.Module, target: Tensor, history: Tensor, mask: Tensor
) -> Tensor:
    """QINAblation's attention, row by row: target (B, D), history (B, L, D), mask (B, L)."""
    rows = []
    for t, slots, real in zip(target, history, mask, strict=True):
        items, o = slots[real], torch.zeros_like(t)
        if attention.kind == "mean":
            o = items.mean(dim=0) if len(items) else o
        elif attention.kind != "none":
            q = attention.W_q.weight @ t
            scores = [(attention.W_k.weight @ h) @ q / math.sqrt(len(q)) for h in items]
            values = [attention.W_v.weight @ h for h in items]
            total = sum((score.exp() for score in scores), torch.zeros(()))
            weight = {
                "asta": lambda s: s.clamp(min=0),
                "relu2": lambda s: s.clamp(min=0) ** 2,
                "silu": lambda s: s / (1 + torch.exp(-s)),
                "softmax": lambda s, total=total: s.exp() / total,
            }[attention.kind]
            for score, value in zip(scores, values, strict=True):
                o = o + attention.W_o.weight @ (weight(score) * value)
        rows.append(o + t if attention.residual else o)
    return torch.stack(rows)


def quadratic_layer(layer: nn.Module, x: Tensor) -> Tensor:
    """z = Σ_r x ⊙ (W_r x + b_r), row by row; without dropout."""
    z = torch.zeros_like(x)
    for r in range(layer.num_row):
        rows = slice(r * layer.dim, (r + 1) * layer.dim)
        h = x @ layer.linear.weight[rows].T
        if layer.linear.bias is not None:
            h = h + layer.linear.bias[rows]
        z = z + x * h
    return z


def quadratic_network(network: nn.Module, x: Tensor) -> Tensor:
    """The QNN in evaluation mode: batch norm by its running statistics."""
    for layer, norm, activation in zip(
        network.layers, network.norms, network.activations, strict=True
    ):
        z = quadratic_layer(layer, x)
        if isinstance(norm, nn.BatchNorm1d):
            z = (z - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps)
            z = z * norm.weight + norm.bias
        x = torch.where(z > 0, z, activation.weight * z) + x
    return x @ network.output.weight.T + network.output.bias


def quadratic_network_variant(network: nn.Module, x: Tensor) -> Tensor:
    """QINAblation's quadratic network in evaluation mode."""
    for i, (layer, activation) in enumerate(zip(network.layers, network.activations, strict=True)):
        before, after = network.norms_before[i], network.norms[i]
        y = x
        if isinstance(before, nn.LayerNorm):
            y = torch.stack([layer_norm(before, row) for row in x])
        z = quadratic_layer(layer, y)
        if isinstance(after, nn.BatchNorm1d):
            z = (z - after.running_mean) / torch.sqrt(after.running_var + after.eps)
            z = z * after.weight + after.bias
        slope = activation.weight if isinstance(activation, nn.PReLU) else 0.0
        x = torch.where(z > 0, z, slope * z) + x
    return x @ network.output.weight.T + network.output.bias


def item_vectors(model: nn.Module, columns: dict[str, Tensor], ids: Tensor) -> Tensor:
    """Item vectors (n, D) of items (n,): the paper's set-up, tags pooled by a loop."""
    tables = model.embedding_layer.embedding_layer.embedding_layers
    encoders = model.embedding_layer.embedding_layer.feature_encoders
    parts = []
    for name in model.feature_map.features:
        spec = model.feature_map.features[name]
        if spec.get("source") != "item" or spec["type"] == "meta":
            continue
        values = columns[name][ids]
        if spec["type"] == "categorical":
            parts.append(tables[name].weight[values.long()])
        elif spec["type"] == "sequence":
            pooled = []
            for tags in values.tolist():
                real = [tag for tag in tags if tag != 0]
                rows = tables[name].weight[real]
                pooled.append(rows.sum(0) / max(len(real), 1))
            parts.append(torch.stack(pooled))
        elif spec["type"] == "embedding":
            weight = encoders[name].weight
            parts.append(values.to(weight.dtype) @ weight.T)
        else:
            weight = tables[name].weight
            parts.append(values.to(weight.dtype).unsqueeze(1) @ weight.T)
    return torch.cat(parts, dim=1)


def qin_logit(model: nn.Module, columns: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
    """QIN's logit (B, 1) in evaluation mode, from a batch with a padded history (B, L)."""
    history_ids = batch[model.history_col]
    shape = history_ids.shape
    target = item_vectors(model, columns, batch[model.item_col])
    history = item_vectors(model, columns, history_ids.reshape(-1)).view(*shape, -1)
    interest = target_attention(model.attention, target, history, history_ids != 0)
    tables = model.embedding_layer.embedding_layer.embedding_layers
    row = [tables[name].weight[batch[name].long()] for name in model.row_features]
    return quadratic_network(model.qnn, torch.cat([*row, target, interest], dim=1))


class PlainQIN(nn.Module):
    """QIN's formulas as they are printed: the baseline of accuracy and of speed.

    Shares every weight with the QIN it is given, so both are the same function. Keys and
    values are built, the history is padded, its items are encoded at every position, all R
    rows are multiplied out, and dropout draws each element of the R·F outputs on its own.

    Input: a batch with a padded history (B, L). Output: the logit (B, 1).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        model = self.model
        history_ids = batch[model.history_col].long()  # (B, L)
        target = self._encode(batch[model.item_col].long())  # (B, D)
        history = self._encode(history_ids.view(-1)).view(*history_ids.shape, -1)  # (B, L, D)
        interest = target_attention(model.attention, target, history, history_ids != 0)
        row = {name: batch[name] for name in model.row_features}
        parts = [model.embedding_layer(row, flatten_emb=True)] if row else []
        x = torch.cat([*parts, target, interest], dim=1)  # (B, F)
        network = model.qnn
        for layer, norm, activation in zip(
            network.layers, network.norms, network.activations, strict=True
        ):
            h = nn.functional.linear(x, layer.linear.weight, layer.linear.bias)  # (B, R·F)
            h = nn.functional.dropout(h, network.dropout.p, self.training)
            z = (x.unsqueeze(1) * h.view(len(x), layer.num_row, layer.dim)).sum(dim=1)  # (B, F)
            z = nn.functional.prelu(norm(z), activation.weight)
            x = nn.functional.dropout(z, network.dropout.p, self.training) + x
        return nn.functional.linear(x, network.output.weight, network.output.bias)

    def _encode(self, ids: Tensor) -> Tensor:
        """Vectors (n, D) of the items ``ids`` (n,), one by one."""
        vectors: Tensor = self.model.embedding_layer(self.model.item_table(ids), flatten_emb=True)
        return vectors


def encoder_layer(layer: nn.Module, steps: list[Tensor]) -> list[Tensor]:
    """A post-norm Transformer layer over one row's steps, each (E,), without dropout."""
    attention = layer.self_attn
    width, heads = attention.embed_dim, attention.num_heads
    w_q, w_k, w_v = attention.in_proj_weight.view(3, width, width)
    b_q, b_k, b_v = attention.in_proj_bias.view(3, width)
    outputs = []
    for x in steps:
        found = []
        for head in torch.arange(width).view(heads, -1):
            q = w_q[head] @ x + b_q[head]
            keys = [w_k[head] @ y + b_k[head] for y in steps]
            values = [w_v[head] @ y + b_v[head] for y in steps]
            scores = [q @ k / math.sqrt(len(head)) for k in keys]
            total = sum(score.exp() for score in scores)
            found.append(sum(s.exp() / total * v for s, v in zip(scores, values, strict=True)))
        mixed = attention.out_proj.weight @ torch.cat(found) + attention.out_proj.bias
        x = layer_norm(layer.norm1, x + mixed)
        hidden = layer.linear1.weight @ x + layer.linear1.bias
        hidden = torch.where(hidden > 0, hidden, torch.zeros_like(hidden))
        outputs.append(
            layer_norm(layer.norm2, x + layer.linear2.weight @ hidden + layer.linear2.bias)
        )
    return outputs


def layer_norm(norm: nn.Module, x: Tensor) -> Tensor:
    centred = x - x.mean()
    return centred / torch.sqrt((centred**2).mean() + norm.eps) * norm.weight + norm.bias


def target_aware_transformer(
    transformer: nn.Module, target: Tensor, histories: list[Tensor]
) -> Tensor:
    """One row after the other: target (B, D), real items of each row (L_b, D) -> (B, (K + 1) E)."""
    rows = []
    for t, history in zip(target, histories, strict=True):
        items = list(history) if len(history) else [torch.zeros_like(t)]
        steps = [torch.cat([h, t]) for h in items]
        for layer in transformer.layers:
            steps = encoder_layer(layer, steps)
        projection = transformer.projection
        largest = projection.weight @ torch.stack(steps).max(dim=0).values + projection.bias
        missing = [torch.zeros_like(steps[0])] * max(transformer.num_last - len(steps), 0)
        rows.append(torch.cat([*missing, *steps[-transformer.num_last :], largest]))
    return torch.stack(rows)


def perceptron(mlp: nn.Module, x: Tensor) -> Tensor:
    """Linear maps with ReLU between them, in evaluation mode."""
    for module in mlp.mlp:
        if isinstance(module, nn.Linear):
            x = x @ module.weight.T + module.bias
        elif isinstance(module, nn.ReLU):
            x = torch.where(x > 0, x, torch.zeros_like(x))
        elif isinstance(module, nn.BatchNorm1d):
            x = (x - module.running_mean) / torch.sqrt(module.running_var + module.eps)
            x = x * module.weight + module.bias
        else:
            assert isinstance(module, nn.Dropout)
    return x


def cross_network(cross: nn.Module, x: Tensor) -> Tensor:
    """DCNv2: x_{i+1} = x_0 ⊙ (W_i x_i + b_i) + x_i."""
    first = x
    for linear in cross.cross_layers:
        x = first * (x @ linear.weight.T + linear.bias) + x
    return x


def transformer_dcn_logit(
    model: nn.Module, columns: dict[str, Tensor], batch: dict[str, Tensor]
) -> Tensor:
    """TransformerDCN's logit (B, 1) without dropout, from a batch with a padded history (B, L)."""
    target = item_vectors(model, columns, batch[model.item_col])
    histories = [
        item_vectors(model, columns, row[row != 0]) if row.any() else target[:0]
        for row in batch[model.history_col]
    ]
    steps = target_aware_transformer(model.transformer, target, histories)
    tables = model.embedding_layer.embedding_layer.embedding_layers
    row = [tables[name].weight[batch[name].long()] for name in model.row_features]
    x = torch.cat([*row, target, steps], dim=1)
    both = torch.cat([cross_network(model.cross, x), perceptron(model.deep, x)], dim=1)
    return perceptron(model.output, both)


def gated_interest(attention: nn.Module, target: Tensor, history: list[Tensor]) -> Tensor:
    """QIN+'s gate for one row: target (D,), real items oldest first, each (D,) -> (D,)."""
    interest = torch.zeros_like(target)
    for place, item in enumerate(reversed(history)):
        hidden = attention.of_target.weight @ target + attention.of_target.bias
        hidden = hidden + attention.of_history.weight @ item
        hidden = hidden + attention.of_product.weight @ (target * item)
        if attention.of_place is not None:
            hidden = hidden + attention.of_place[min(place, len(attention.of_place) - 1)]
        hidden = torch.where(hidden > 0, hidden, torch.zeros_like(hidden))
        weight = attention.weight.weight[0] @ hidden + attention.weight.bias[0]
        if attention.sparse and weight <= 0:
            continue
        interest = interest + weight * item
    return interest / max(len(history), 1) ** attention.length_power


def qin_plus_logit(
    model: nn.Module, columns: dict[str, Tensor], batch: dict[str, Tensor]
) -> Tensor:
    """QIN+'s logit (B, 1) in evaluation mode, from a batch with a padded history (B, L)."""
    target = item_vectors(model, columns, batch[model.item_col])
    tables = model.embedding_layer.embedding_layer.embedding_layers
    logits = []
    for i, slots in enumerate(batch[model.history_col]):
        items = slots[slots != 0]
        history = list(item_vectors(model, columns, items)) if len(items) else []
        interest = gated_interest(model.attention, target[i], history)
        row = [tables[name].weight[batch[name][i].long()] for name in model.row_features]
        product = [target[i] * interest] if model.product else []
        logits.append(perceptron(model.network, torch.cat([*row, target[i], interest, *product])))
    return torch.stack(logits)


def history_contrast(
    contrast: nn.Module, ids: list[int], target: Tensor, histories: list[list[Tensor]]
) -> Tensor:
    """QIN+'s contrastive loss of each row: targets (B, D), real items of each row -> (B,)."""

    def unit(vector: Tensor) -> Tensor:
        return vector / vector.square().sum().sqrt()

    losses = []
    towers = [unit(contrast.of_target.weight @ vector) for vector in target]
    for i, history in enumerate(histories):
        if not history:
            losses.append(torch.zeros_like(target[0, 0]))
            continue
        user = unit(contrast.of_history.weight @ torch.stack(history).mean(dim=0))
        first = list(zip(ids, towers, strict=True))[: contrast.negatives]
        others = [z for j, z in first if j != ids[i]]
        scores = [user @ z / contrast.temperature for z in [towers[i], *others]]
        losses.append(-torch.stack(scores).log_softmax(dim=0)[0])
    return torch.stack(losses)


def packed_histories(histories: list[list[int]], max_len: int) -> list[list[int]]:
    """The last ``max_len`` real items of every row."""
    return [[item for item in row if item != 0][-max_len:] for row in histories]


def group_auc(y_true: np.ndarray, y_pred: np.ndarray, groups: np.ndarray) -> float:
    """gAUC: AUC of each group by counting pairs, averaged by the groups' rows."""
    total, rows = 0.0, 0
    for group in np.unique(groups):
        mine = groups == group
        positive, negative = y_pred[mine & (y_true == 1)], y_pred[mine & (y_true == 0)]
        if len(positive) and len(negative):
            wins = (positive[:, None] > negative).sum() + 0.5 * (
                positive[:, None] == negative
            ).sum()
            total += wins / (len(positive) * len(negative)) * mine.sum()
            rows += mine.sum()
    return total / rows


def reciprocal_rank(labels: list[int]) -> float:
    """Mean of 1/rank over the clicks of one ranked group; 0 without a click."""
    ranks = [rank for rank, label in enumerate(labels, 1) if label]
    return sum(1 / rank for rank in ranks) / len(ranks) if ranks else 0.0


def ndcg(labels: list[int], k: int) -> float:
    """Discounted gain of one ranked group's first k rows, over that of its best order."""

    def dcg(ranked: list[int]) -> float:
        return sum(label / math.log2(rank + 1) for rank, label in enumerate(ranked[:k], 1))

    best = dcg(sorted(labels, reverse=True))
    return dcg(labels) / best if best else 0.0


def mean_over_ties(
    metric: Callable[[list[int]], float], y_true: np.ndarray, y_pred: np.ndarray, groups: np.ndarray
) -> float:
    """Mean over groups of a ranked group's metric, over every order of its rows that ranks them."""
    means = []
    for group in np.unique(groups):
        rows = list(zip(y_pred[groups == group], y_true[groups == group], strict=True))
        values = [
            metric([int(label) for _, label in order])
            for order in itertools.permutations(rows)
            if all(one[0] >= other[0] for one, other in itertools.pairwise(order))
        ]
        means.append(sum(values) / len(values))
    return sum(means) / len(means)
