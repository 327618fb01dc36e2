"""From the loader's packed batches to the padded ones that FuxiCTR's sequence models read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Padding:
    """How a model wants its histories.

    Attributes:
        side: Where the padding is: ``left`` puts the most recent item before the target.
        slots: History slots at least, L; more if a row of the batch needs them.
        rows: Rows with a history that a batch needs at least.
    """

    side: Literal["left", "right"] = "left"
    slots: int = 1
    rows: int = 0


class PackedRows(NamedTuple):
    """A batch of B rows with T history items in all.

    Attributes:
        target: Item id of each row, (B,) int64.
        items: The histories, row after row, oldest item first, (T,) int64.
        lengths: Items in each row's history, (B,) int64.
        features: Row feature -> one value, or one list, for each row.
    """

    target: Tensor
    items: Tensor
    lengths: Tensor
    features: Mapping[str, Tensor]


def pack(history: Tensor) -> tuple[Tensor, Tensor]:
    """Items (T,) and lengths (B,) of a history (B, L) with zeros as padding, on any side."""
    real = history != 0
    return history[real], real.sum(dim=1)


def with_histories(rows: PackedRows, number: int) -> PackedRows:
    """The batch with ``number`` more rows that have a history, if it has fewer than that.

    The rows added are copies of the first one whose history is its own target. They stand at
    the end, so that a model's first B outputs are those of the batch.
    """
    if number == 0 or int((rows.lengths > 0).sum()) >= number:
        return rows
    target = rows.target[:1].expand(number)
    return PackedRows(
        torch.cat([rows.target, target]),
        torch.cat([rows.items, target]),
        torch.cat([rows.lengths, rows.lengths.new_ones(number)]),
        {
            name: torch.cat([values, values[:1].expand(number, *values.shape[1:])])
            for name, values in rows.features.items()
        },
    )


def pad(rows: PackedRows, padding: Padding) -> tuple[Tensor, Tensor]:
    """Item ids and mask as FuxiCTR's sequence models take them.

    Args:
        rows: The batch, of B rows.
        padding: Where and how far to pad; L is the larger of its slots and the longest history.

    Returns:
        Ids (B, L + 1) int64, the history first (0 is padding) and the target last, and the
        mask of the history (B, L) float32, 1 for a real item.

    Example:
        >>> items, lengths = torch.tensor([1, 2, 3]), torch.tensor([2, 1])
        >>> two = PackedRows(torch.tensor([8, 9]), items, lengths, {})
        >>> pad(two, Padding(slots=3))[0].tolist()
        [[0, 1, 2, 8], [0, 0, 3, 9]]
        >>> pad(two, Padding("right"))[1].tolist()
        [[1.0, 1.0], [1.0, 0.0]]
    """
    target, items, lengths, _ = rows
    device = items.device
    slots = max(padding.slots, int(lengths.max()))
    row = torch.arange(len(target), device=device)
    row = row.repeat_interleave(lengths, output_size=len(items))  # of each history item
    slot = torch.arange(len(items), device=device) - (lengths.cumsum(0) - lengths)[row]
    places = torch.arange(slots, device=device)
    if padding.side == "left":
        slot = slot + slots - lengths[row]
        mask = places >= slots - lengths.unsqueeze(1)
    else:
        mask = places < lengths.unsqueeze(1)
    ids = items.new_zeros(len(target), slots + 1)
    ids[row, slot] = items
    ids[:, -1] = target
    return ids, mask.float()
