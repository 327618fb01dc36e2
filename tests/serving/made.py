"""Models whose weights hide nothing, batches for them, and what the models say in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model_zoo.core.serving.file import FoldedFile
from model_zoo.core.serving.ids import Ids
from model_zoo.core.serving.scorer import Scorer
from model_zoo.QIN.model import QIN
from model_zoo.QINPlus.model import QINPlus
from tests.conftest import SEQUENCE
from tests.QIN import test_model
from tests.QIN.test_model import ITEM_FEATURES, ITEMS, build

SUM = {"feature_encoder": "layers.MaskedSumPooling()"}
ROW_FEATURES: dict[str, dict[str, Any]] = {
    **test_model.ROW_FEATURES,
    "age": {"type": "numeric"},
    "likes": {**SEQUENCE, "vocab_size": 9, "max_len": 4},
    "seen": {**SEQUENCE, **SUM, "vocab_size": 6, "max_len": 3, "embedding_dim": 3},
    "profile": {"type": "embedding", "pretrain_dim": 5},
}
FEATURES = {**ROW_FEATURES, **ITEM_FEATURES}


def make_model(
    folder: Path, features: dict[str, dict[str, Any]] | None = None, **settings: Any
) -> Any:
    """A QIN, or another ``model``, in which no bias is 0 and no weight as it began.

    Nor are the embeddings of padding 0: nothing may rest on that.
    """
    model = build(folder, FEATURES if features is None else features, **settings)
    for table in model.embedding_layer.modules():
        if isinstance(table, nn.Embedding):
            nn.init.normal_(table.weight)
    output = _trained_qin(model) if isinstance(model, QIN) else _trained_plus(model)
    with torch.no_grad():
        for _ in range(3):
            model.train()(make_batch(32))
        logit = model.eval()(make_batch(64))["logit"]
        # Of everyday size: where the sigmoid is flat, a wrong logit would not show.
        spread = logit.std()
        if spread > 0:  # a narrow MLP may have no unit that is alive
            output.weight /= spread
        output.bias.fill_(0.3)
    return model


def _trained_qin(model: QIN) -> nn.Linear:
    """Makes no slope 0.25; batch normalisation has to see batches next. The output layer."""
    for norm in model.qnn.norms:
        norm.eps = 0.1
    for name, parameter in model.qnn.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.5)
        elif name.startswith("norms"):
            nn.init.normal_(parameter)
        elif name.startswith("activations"):
            nn.init.uniform_(parameter, -0.5, 1.5)
    return model.qnn.output


def _trained_plus(model: QINPlus) -> nn.Linear:
    """Makes places differ, and about half of the attention weights 0. The output layer."""
    for part in (model.attention, model.network):
        for name, parameter in part.named_parameters():
            if name.endswith("bias") or name == "of_place":
                nn.init.normal_(parameter, std=0.5)
    nn.init.normal_(model.attention.weight.weight)
    trained_norms(model.network)
    return [layer for layer in model.network.mlp if isinstance(layer, nn.Linear)][-1]


def trained_norms(network: nn.Module) -> None:
    """Gives batch normalisation statistics and weights that are not those of its start."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d):
            for tensor in (layer.running_mean, layer.bias):
                nn.init.normal_(tensor)
            for tensor in (layer.running_var, layer.weight):
                nn.init.uniform_(tensor, 0.5, 2.0)


def make_batch(rows: int, slots: int = 6, *, empty: bool = False) -> dict[str, Tensor]:
    """Rows with ragged histories, 0 anywhere among the items; the first, or each, is empty."""
    history = torch.randint(1, ITEMS, (rows, slots)) * (
        torch.rand(rows, slots) < torch.rand(rows, 1)
    )
    history[: rows if empty else 1] = 0
    return {
        "item_id": torch.randint(1, ITEMS, (rows,)),
        "item_seq": history,
        "level": torch.randint(0, 4, (rows,)),
        "hour": torch.randint(0, 3, (rows,)),
        "age": torch.randn(rows),
        "likes": torch.randint(0, 9, (rows, 4)),
        "seen": torch.randint(0, 6, (rows, 3)) * torch.randint(0, 2, (rows, 1)),
        "profile": torch.randn(rows, 5),
    }


def context_of(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: batch[name] for name in model.row_features}


def one_user(batch: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """The batch's candidates, all for the history of one row."""
    return batch | {"item_seq": batch["item_seq"][row].expand_as(batch["item_seq"])}


@torch.no_grad()
def probability(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """What the model says, (n,) float64; it stays in float64."""
    return model.double().eval()(batch)["y_pred"].squeeze(1)


def rows_of(
    folded: Any, batch: dict[str, Tensor], context: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Logits (n,) and attention weights (T,) of the batch's rows."""
    history = batch["item_seq"]
    lengths = (history != 0).sum(dim=1)
    return folded.rows(batch["item_id"], history[history != 0], lengths, context)


def difference(logit: Tensor, expected: Tensor) -> float:
    """The largest of the probabilities."""
    return float((logit.double().sigmoid() - expected.detach()).abs().max())


def make_scorer(model: Any, *, max_len: int = 100, **settings: Any) -> Scorer:
    return Scorer(FoldedFile(model.fold(**settings), Ids("item_id"), max_len))
