"""From what a caller knows (ids of the data set, raw or encoded) to rows of the tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from model_zoo.core.errors import InputError
from model_zoo.core.folded import FoldedFeature
from model_zoo.core.serving.keys import Keys, largest_exact, plain
from model_zoo.core.serving.lookup import IntegerRows, integer_array
from model_zoo.core.serving.tensors import doubles, integers, packed, tensor_of

OUT_OF_VOCABULARY = "__OOV__"  # FuxiCTR's token


@dataclass
class Ids:
    """The ids of a data set.

    Args:
        item_col: Column of the target's id.
        rows: Raw item id -> row of the item tables; ``None`` where an id is its row.
        unknown: Row of an item that is in no vocabulary; ``None`` where there is no such rule.
        vocabularies: Feature -> raw token -> id, for features whose tokens are raw.
        max_lens: Feature -> how many tokens of a raw list count, the first ones.
        missing: Feature -> the number that a missing one counts as.

    Raw ids of another type than the stored ones are converted where that is exact, else
    refused (:mod:`model_zoo.core.serving.keys`).
    """

    item_col: str
    rows: dict[Any, int] | None = None
    unknown: int | None = None
    vocabularies: Mapping[str, Mapping[Any, int]] = field(default_factory=dict)
    max_lens: Mapping[str, int] = field(default_factory=dict)
    missing: Mapping[str, float] = field(default_factory=dict)
    _keys: dict[str | None, Keys] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _index: IntegerRows | None = field(default=None, init=False, repr=False, compare=False)

    def state(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "item_col": self.item_col,
            "keys": None if self.rows is None else list(self.rows),
            "key_rows": None if self.rows is None else list(self.rows.values()),
            "unknown": self.unknown,
            "vocabularies": {
                name: {"tokens": list(ids), "ids": list(ids.values())}
                for name, ids in self.vocabularies.items()
            },
            "max_lens": dict(self.max_lens),
            "missing": dict(self.missing),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Ids:
        rows = None
        if state["keys"] is not None:
            rows = dict(zip(state["keys"], state["key_rows"], strict=True))
        return cls(
            item_col=state["item_col"],
            rows=rows,
            unknown=state["unknown"],
            vocabularies={
                name: dict(zip(pairs["tokens"], pairs["ids"], strict=True))
                for name, pairs in state["vocabularies"].items()
            },
            max_lens=state["max_lens"],
            missing=state.get("missing", {}),  # older files have none
        )

    def items(self, ids: Any, num_items: int, what: str, *, padding: bool = False) -> Tensor:
        """Rows (n,) of items by their ids.

        Args:
            ids: A sequence, array or tensor of ids.
            num_items: Rows that the tables have.
            what: What the ids are, for a message.
            padding: Whether 0 (of encoded ids) or ``None`` and "" (of raw ones) stand for no item.

        Raises:
            InputError: If an id is unknown and there is no rule for that.
        """
        if self.rows is None:
            rows = integers(ids, what, dim=1)
            low = 0 if padding else 1
            _require_range(rows, low, num_items - 1, what)
            return rows
        together = self._together(ids)
        if together is not None:
            return together
        keys = self._item_keys(ids, what)
        found = list(map(self.rows.get, keys))
        if None in found:
            missing = 0 if padding else None
            found = [
                row if row is not None else (missing if key is None or key == "" else self.unknown)
                for key, row in zip(keys, found, strict=True)
            ]
        if None in found:
            place = found.index(None)
            raise InputError(f"{what}: position {place}: item {keys[place]!r} is unknown")
        return packed(found, "q")

    def _together(self, ids: Any) -> Tensor | None:
        """Rows of an array of integers, where that is what the ids are and all have one."""
        given = integer_array(ids)
        if self.rows is None or given is None or not self._known_keys(self.rows).are_integers():
            return None
        if self._index is None or not self._index.is_of(len(self.rows)):
            try:
                self._index = IntegerRows(self.rows)
            except ValueError:
                return None
        rows = self._index.find(given)
        absent = (rows < 0).nonzero().squeeze(1)
        if len(absent):
            later = [self.rows.get(key, self.unknown) for key in given[absent].tolist()]
            if None in later:
                return None  # which is said with its place
            rows[absent] = packed(later, "q")
        return rows

    def stored(self, ids: Any, what: str) -> list[Any]:
        """Ids of items, known or not, as they are stored.

        Raises:
            InputError: If one has a type that cannot be a stored one, or is none.
        """
        listed(ids, what)
        if self.rows is None:
            return integers(ids, what, dim=1).tolist()
        keys = self._item_keys(ids, what)
        for place, key in enumerate(keys):
            if key is None or key == "":
                raise InputError(f"{what}: position {place}: found {key!r}, expected an id")
        return keys

    def _item_keys(self, ids: Any, what: str) -> list[Any]:
        keys = listed(ids, what)
        assert self.rows is not None  # asked of raw ids only
        return self._known_keys(self.rows).stored(keys, what, largest=largest_exact(ids))

    def _known_keys(self, rows: dict[Any, int]) -> Keys:
        return self._keys.setdefault(None, Keys(rows))

    def values(self, feature: FoldedFeature, values: Any, what: str) -> Tensor:
        """Values of a feature as its map takes them: (n,), or (n, m) for lists and vectors.

        Raises:
            InputError: If a value is of the wrong kind or size, out of range or not finite.
        """
        if feature.kind in ("categorical", "sequence"):
            return self._tokens(feature, values, what)
        if feature.kind == "numeric":
            values = doubles(values, self.missing.get(feature.name))
        tensor = tensor_of(values, what, "numbers")
        if tensor.dtype.is_floating_point:
            tensor = tensor.double() if feature.kind == "numeric" else tensor.float()
        elif tensor.dtype == torch.bool or tensor.dtype.is_complex:
            raise InputError(f"{what}: expected numbers, found {tensor.dtype}")
        if feature.kind == "numeric":
            tensor = tensor.reshape(1) if tensor.dim() == 0 else tensor
            expected: tuple[int, ...] = (len(tensor),)
        else:
            width = feature.weight.shape[0]
            if tensor.dim() < 2:
                tensor = tensor.reshape((1, -1) if tensor.numel() else (0, width))
            expected = (len(tensor), width)
        if tensor.shape != expected:
            raise InputError(f"{what}: expected shape {expected}, found {tuple(tensor.shape)}")
        # As float32, in which the model computes, a number may be infinite.
        wrong = (~torch.isfinite(tensor.float())).nonzero()
        if len(wrong):
            found = tensor[tuple(wrong[0])]
            text = f"{found:.6g}, beyond the range of float32"
            if not torch.isfinite(found):
                text = f"a number that is not finite: {found:g}"
            raise InputError(f"{what}: position {int(wrong[0, 0])}: found {text}")
        return tensor

    def absent(self, features: Iterable[FoldedFeature], rows: int) -> dict[str, Tensor]:
        """What missing numbers count as, (rows,) float64, by feature; all others count nothing."""
        return {
            feature.name: torch.full((rows,), self.missing[feature.name], dtype=torch.float64)
            for feature in features
            if feature.name in self.missing
        }

    def _tokens(self, feature: FoldedFeature, values: Any, what: str) -> Tensor:
        vocabulary = self.vocabularies.get(feature.name)
        largest = largest_exact(values)
        if feature.kind == "sequence":
            lists = _lists(values, self.max_lens.get(feature.name), what)
            if vocabulary is not None:
                inside = [values, *values] if isinstance(values, (list, tuple)) else [values]
                largest = min(map(largest_exact, inside))
                lists = [
                    self._encode(feature, row, f"{what}, list {i}", largest)
                    for i, row in enumerate(lists)
                ]
            ids = integers(_padded(lists), what, dim=2)
        else:
            if vocabulary is not None:
                values = plain(values)
                tokens = values if isinstance(values, list) else [values]
                values = self._encode(feature, tokens, what, largest)
            ids = integers(values, what, dim=1)
        _require_range(ids, 0, feature.weight.shape[0] - 1, what)
        return ids

    def _encode(
        self, feature: FoldedFeature, tokens: list[Any], what: str, largest: int
    ) -> list[int]:
        """Raw tokens to ids; unknown ones get the out-of-vocabulary id, missing ones 0."""
        vocabulary = self.vocabularies[feature.name]
        # Encoding a data set makes text of what lists hold.
        keys = Keys(vocabulary, text=feature.kind == "sequence")
        known = self._keys.setdefault(feature.name, keys)
        unknown = vocabulary[OUT_OF_VOCABULARY]
        return [
            0 if token is None or token == "" else vocabulary.get(token, unknown)
            for token in known.stored(tokens, what, largest=largest)
        ]


def listed(values: Any, what: str) -> list[Any]:
    """Ids in any container as a list of Python's own values (:func:`.keys.plain`).

    Raises:
        InputError: If it is a single value: text is not a list of letters.
    """
    values = plain(values)
    if not isinstance(values, list):
        raise InputError(f"{what}: expected a list of ids, found {values!r}")
    return values


def _lists(values: Any, max_len: int | None, what: str) -> list[list[Any]]:
    """The first tokens of each list; a single list is one row, and ``None`` an empty one."""
    rows = [] if values is None else listed(values, what)
    if not rows or not all(row is None or isinstance(row, list) for row in rows):
        rows = [rows]
    return [[token for token in row or [] if token is not None][:max_len] for row in rows]


def _padded(lists: list[list[int]]) -> list[list[int]]:
    """Lists of one length."""
    longest = max(1, *(len(ids) for ids in lists))
    return [[*ids, *[0] * (longest - len(ids))] for ids in lists]


def require_finite_scores(logit: Tensor) -> None:
    """Raise InputError if a score (n,) is infinite or NaN."""
    wrong = (~logit.isfinite()).nonzero()
    if len(wrong):
        raise InputError(
            f"candidates: position {int(wrong[0])}: found the score {float(logit[wrong[0]])}, "
            "expected a finite number: one of the context or of an item is too large"
        )


def _require_range(ids: Tensor, low: int, high: int, what: str) -> None:
    if not ids.numel():
        return
    smallest, largest = ids.aminmax()
    if smallest >= low and largest <= high:
        return
    wrong = (ids < low) | (ids > high)
    place = wrong.nonzero()[0].tolist()
    raise InputError(
        f"{what}: position {', '.join(map(str, place))}: found {int(ids[tuple(place)])}, "
        f"expected {low}..{high}"
    )
