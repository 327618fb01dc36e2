"""The written contract between a model and everything in ``core``, which knows no model by name.

A model package is a folder beside ``core`` whose ``model.py`` has a class under
``@register("Name")``. The class is a :class:`~model_zoo.core.training.engine.TrainableModel`,
and so a ``torch.nn.Module`` and FuxiCTR's ``BaseModel``.

What it is given, by its constructor ``(feature_map, ..., *, item_table, **kwargs)``:
    ``feature_map`` is FuxiCTR's. The annotated arguments that follow are the model's keys in
    YAML: their types are checked, and a key that no argument has is an error. ``item_col`` and
    ``history_col``, if it names them, are the columns of the target's item id and of the history.
    ``item_table`` holds the ``source: item`` features of every item. ``kwargs`` are the engine's
    and FuxiCTR's own arguments.

What it is called with, ``forward(batch)``:
    A batch of :class:`~model_zoo.core.data.loader.HistoryLoader`: a dict of tensors, on the CPU
    or on the model's device. Numbers are float64, of any scale: FuxiCTR's embedding layers get
    them standardised, any other layer calls ``self.numbers``. Padded histories (B, L) in place of
    packed ones are to give the same. It returns ``y_pred`` (B, 1), the click probability in
    float32, and may return ``logit`` (B, 1).

What it may offer:
    ``rescales_vectors = True``, a class attribute: it is given ``embedding`` columns rescaled to a
    mean squared norm of 1, unless an experiment says otherwise.

    ``fixed_shapes = True``, a class attribute: it also computes with one length more than rows, of
    history items at the end that belong to no row and are to change nothing, and it sizes no
    tensor by what a batch holds. ``cuda_graph`` needs it.

    ``fold``, as :class:`Foldable` says, with a :class:`~model_zoo.core.folded.FoldedModel`
    registered by ``@register_folded("Name")`` in its ``folded.py``. With it come the scorer,
    explanations, calibration maps and exports; without it, predictions go through ``forward``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from model_zoo.core.folded import FoldedModel


@runtime_checkable
class Foldable(Protocol):
    """A model that becomes a smaller function for serving."""

    def fold(self, **settings: Any) -> FoldedModel:
        """The model in evaluation as a smaller function: exact but for rounding.

        Args:
            **settings: ``dtype`` (float32 or bfloat16, of the tables and the products with
                them), and what else the model's fold can vary.
        """
        ...
