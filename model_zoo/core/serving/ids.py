"""From what a caller knows (ids of the data set, raw or encoded) to rows of the tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from model_zoo.core.errors import InputError
from model_zoo.core.folded import FoldedFeature

OUT_OF_VOCABULARY = "__OOV__"  # FuxiCTR's token
PLAIN = {str, int, float, bool, type(None)}


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
    """

    item_col: str
    rows: dict[Any, int] | None = None
    unknown: int | None = None
    vocabularies: Mapping[str, Mapping[Any, int]] = field(default_factory=dict)
    max_lens: Mapping[str, int] = field(default_factory=dict)
    missing: Mapping[str, float] = field(default_factory=dict)

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
            rows = _integers(ids, what, dim=1)
            low = 0 if padding else 1
            _require_range(rows, low, num_items - 1, what)
            return rows
        keys = listed(ids, what)
        try:
            found = [
                0 if padding and (key is None or key == "") else self.rows.get(key, self.unknown)
                for key in keys
            ]
        except TypeError:  # a list is no key
            raise InputError(f"{what}: expected one list of item ids, found lists in it") from None
        if None in found:
            place = found.index(None)
            raise InputError(f"{what}: position {place}: item {keys[place]!r} is unknown")
        return torch.tensor(found, dtype=torch.long)

    def values(self, feature: FoldedFeature, values: Any, what: str) -> Tensor:
        """Values of a feature as its map takes them: (n,), or (n, m) for lists and vectors.

        Raises:
            InputError: If a value is of the wrong kind or size, out of range or not finite.
        """
        if feature.kind in ("categorical", "sequence"):
            return self._tokens(feature, values, what)
        if feature.kind == "numeric":
            values = _doubles(values, self.missing.get(feature.name))
        tensor = _tensor(values, what, "numbers")
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
        dim = 1 if feature.kind == "categorical" else 2
        vocabulary = self.vocabularies.get(feature.name)
        if dim == 2:
            values = _lists(values, self.max_lens.get(feature.name), what)
        if vocabulary is not None:
            values = _encode(plain(values), vocabulary)
        if dim == 2:
            values = _padded(values)
        ids = _integers(values, what, dim=dim)
        _require_range(ids, 0, feature.weight.shape[0] - 1, what)
        return ids


def _encode(values: Any, vocabulary: Mapping[Any, int]) -> Any:
    """Raw tokens to ids, in the same nesting; unknown ones get the out-of-vocabulary id."""
    if isinstance(values, list):
        return [_encode(value, vocabulary) for value in values]
    if values is None or values == "":
        return 0
    token = values if values in vocabulary else str(values)  # tokens of lists are text
    return vocabulary.get(token, vocabulary[OUT_OF_VOCABULARY])


def plain(values: Any) -> Any:
    """What an array, a tensor or a column of a table holds, as Python's own values and lists."""
    if type(values) in PLAIN:
        return values
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, Iterable) and not isinstance(values, (str, bytes)):
        return [plain(value) for value in values]
    return values


def listed(values: Any, what: str) -> list[Any]:
    """The same of a list.

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


def _doubles(values: Any, missing: float | None) -> Any:
    """Python's own numbers as float64, which torch would make float32; ``None`` is filled."""
    if isinstance(values, (list, tuple)) or not _is_flat(values):
        values = plain(values)
    numbers = [values] if values is None or isinstance(values, float) else values
    if not isinstance(numbers, list):
        return values
    if missing is not None:
        numbers = [missing if number is None else number for number in numbers]
    kinds = {type(number) for number in numbers}
    exact = float in kinds and kinds <= {int, float}
    return torch.tensor(numbers, dtype=torch.float64) if exact else numbers


def _is_flat(values: Any) -> bool:
    """Whether torch reads it well: no list, nor array, of arrays."""
    if isinstance(values, (list, tuple)):
        return not values or type(values[0]) in PLAIN
    return str(getattr(values, "dtype", None)) != "object"


def _tensor(values: Any, what: str, expected: str) -> Tensor:
    try:
        if hasattr(values, "to_numpy"):  # a column of a table, which may have labels
            values = values.to_numpy().copy()
        return torch.as_tensor(values if _is_flat(values) else plain(values))
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{what}: expected {expected}") from None


def _integers(values: Any, what: str, *, dim: int) -> Tensor:
    tensor = _tensor(values, what, "integers")
    if tensor.numel() == 0:
        tensor = tensor.long()
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool:
        raise InputError(f"{what}: expected integers, found {tensor.dtype}")
    if tensor.dim() == 0 and dim == 1:
        tensor = tensor.reshape(1)
    if tensor.dim() != dim:
        raise InputError(f"{what}: expected {dim} dimension(s), found shape {tuple(tensor.shape)}")
    return tensor.long()


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
