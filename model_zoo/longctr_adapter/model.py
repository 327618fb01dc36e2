"""FuxiCTR's LongCTR models in this project's loop: ``model: LongCTR/<Name>``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import DIN_Attention
from torch import Tensor, nn

from model_zoo import register_family
from model_zoo.core.data.item_table import ItemTable
from model_zoo.core.data.spec import LENGTH_SUFFIX
from model_zoo.core.training.engine import TrainableModel
from model_zoo.core.training.processes import world_size
from model_zoo.longctr_adapter.arguments import constructor_signature
from model_zoo.longctr_adapter.attention import PackedDINAttention
from model_zoo.longctr_adapter.batch import PackedRows, pack, pad, with_histories
from model_zoo.longctr_adapter.conventions import padding_of, problems_of
from model_zoo.longctr_adapter.source import installed_models, load_class

# A catalogue of at most this share of a batch's ids is encoded whole: faster than to find
# the distinct ones.
WHOLE_SHARE = 0.5


class LongCTRModel(TrainableModel):
    """What is ours in a model of FuxiCTR's LongCTR folder; the next base is FuxiCTR's class.

    The loop is :class:`TrainableModel`'s; layers, forward pass and loss are FuxiCTR's. Each
    item of a batch is encoded once, however often it occurs; padding is zeros.

    Args:
        feature_map: FuxiCTR's feature map.
        item_table: The item features of every item.
        item_col: Name of the column with the target's item id.
        history_col: Name of the column with the history's item ids.
        max_len: Items of a history at most.
        **settings: FuxiCTR's arguments and those of :class:`TrainableModel`.

    Raises:
        ValueError: If a setting fails in FuxiCTR's code; see
            :mod:`model_zoo.longctr_adapter.conventions`.

    Shapes (B rows, T history items of the whole batch):
        Input batch: ``item_col`` (B,), row features (B, ...), and the history either packed,
        ``history_col`` (T,) with ``history_col + "_length"`` (B,), or padded with zeros on
        any side, ``history_col`` (B, L). Output: ``y_pred``, (B, 1), and what FuxiCTR's loss
        needs besides.
    """

    source: ClassVar[type]  # FuxiCTR's class

    def __init__(
        self,
        feature_map: FeatureMap,
        *,
        item_table: ItemTable,
        item_col: str = "item_id",
        history_col: str = "item_seq",
        max_len: int = 64,
        **settings: Any,
    ) -> None:
        arguments = inspect.signature(self.source.__init__).parameters
        defaults = {
            name: parameter.default
            for name, parameter in arguments.items()
            if parameter.default is not parameter.empty
        }
        known = {**defaults, **settings}
        specs = feature_map.features
        of_items = [name for name, spec in specs.items() if spec.get("source") == "item"]
        width = sum(specs[n].get("embedding_dim", known["embedding_dim"]) for n in of_items)
        problems = []
        if not of_items:
            problems.append("no feature has source: item, so there is no item vector")
        problems += problems_of(
            self.source.__name__,
            known,
            width=width,
            max_len=max_len,
            features=[name for name, spec in specs.items() if spec["type"] != "meta"],
            precision=settings.get("precision", "fp32"),
            processes=world_size(),
        )
        if problems:
            raise ValueError("; ".join(problems))
        super().__init__(feature_map, max_len=max_len, **settings)
        self.item_col = item_col
        self.history_col = history_col
        self.max_len = max_len
        self.row_features = [
            name
            for name, spec in specs.items()
            if spec["type"] != "meta" and spec.get("source") != "item"
        ]
        self.padding = padding_of(self.source.__name__, known, max_len=max_len)
        self.item_table = item_table.to(self.device)
        self.embedding_layer.register_forward_hook(_gather)
        for part, module in self.named_children():
            if isinstance(module, DIN_Attention):
                setattr(self, part, PackedDINAttention(module))

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        size = len(inputs[self.item_col])
        rows = with_histories(self._packed(inputs), self.padding.rows)
        ids, mask = pad(rows, self.padding)
        with self.autocast():
            output = super().forward((dict(rows.features), self._items(ids.view(-1)), mask))
        return {name: value[:size] for name, value in output.items()}

    def get_output_activation(self, task: str) -> nn.Module:
        """FuxiCTR's, in float32: a bfloat16 probability near 1 is 1, and has no gradient."""
        return _InFloat32(super().get_output_activation(task))

    def _packed(self, inputs: Mapping[str, Tensor]) -> PackedRows:
        history = self._on_device(inputs[self.history_col]).long()
        if history.dim() == 2:
            history, lengths = pack(history)
        else:
            lengths = self._on_device(inputs[self.history_col + LENGTH_SUFFIX])
        target = self._on_device(inputs[self.item_col]).long()
        row = {name: self._on_device(inputs[name]) for name in self.row_features}
        return PackedRows(target, history, lengths, row)

    def _items(self, ids: Tensor) -> _Gathered:
        """Features of the distinct items among ``ids`` (n,), to be encoded and gathered.

        With lazy updates, those in the batch are what counts, so never the whole catalogue.
        """
        if self.embedding_update == "dense" and self.item_table.num_items < WHOLE_SHARE * len(ids):
            distinct, index = None, ids
            real = torch.arange(self.item_table.num_items, device=ids.device) != 0
        else:
            distinct, index = torch.unique(ids, return_inverse=True)
            real = distinct != 0
        return _Gathered(self.item_table(distinct), index, real)

    def _on_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)


class _Gathered(dict[str, Tensor]):
    """Features of U items by name; after encoding them, item ``index[i]`` is the i-th, (n,).

    Attributes:
        index: (n,)
        real: Whether each of the U items is one, and not padding, (U,).
    """

    def __init__(self, features: Mapping[str, Tensor], index: Tensor, real: Tensor) -> None:
        super().__init__(features)
        self.index = index
        self.real = real


def _gather(module: nn.Module, args: tuple[Any, ...], vectors: Tensor) -> Tensor | None:
    """After an embedding: the vectors (U, D) of :class:`_Gathered` features become (n, D)."""
    features = args[0]
    if not isinstance(features, _Gathered):
        return None
    return (vectors * features.real.unsqueeze(1)).index_select(0, features.index)


class _InFloat32(nn.Module):
    """A module whose input becomes float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.module(x.float())
        return result


@functools.cache
def adapted_class(name: str) -> type[LongCTRModel]:
    """FuxiCTR's LongCTR model of that name, under this project's contract.

    Its constructor has the signature of FuxiCTR's, with types.

    Raises:
        ValueError: If it is not installed.
    """
    source = load_class(name)

    def __init__(self: LongCTRModel, feature_map: FeatureMap, **settings: Any) -> None:
        LongCTRModel.__init__(self, feature_map, **settings)

    signature = constructor_signature(source)
    __init__.__signature__ = signature  # type: ignore[attr-defined]
    __init__.__annotations__ = {
        parameter.name: parameter.annotation
        for parameter in signature.parameters.values()
        if parameter.annotation is not parameter.empty
    }
    members = {"__init__": __init__, "__module__": __name__, "source": source}
    return type(name, (LongCTRModel, source), {**members, "__doc__": source.__doc__})


register_family("LongCTR", names=lambda: sorted(installed_models()), load=adapted_class)
