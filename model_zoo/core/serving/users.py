"""Requests of several users, scored together: the rows of all go through the network at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from model_zoo.core.folded import FoldedModel, context_of

CANDIDATES = 4_096  # scored at a time, so that memory does not grow with their number


class UserRequest(NamedTuple):
    """What :meth:`Scorer.score` takes, as one of several for :meth:`Scorer.score_users`."""

    history: Any
    candidates: Any
    context: Mapping[str, Any] | None = None
    calibrated: bool = False
    explain: bool = False


@dataclass
class User:
    """A request as tensors.

    Attributes:
        given: History items, padding among them.
        kept: Places of those that count, the most recent ones.
        history: Rows of the tables, (L,), at least one; 0 is padding.
        targets: Rows of the tables, (n,).
        context: Row features by name; each one value, or n.
        logits: (n,), which scoring fills.
        weights: Attention weights, which scoring appends in pieces of (·, L); ``None`` where
            they are not asked for.
    """

    given: int
    kept: Tensor
    history: Tensor
    targets: Tensor
    context: dict[str, Tensor]
    logits: Tensor
    weights: list[Tensor] | None = None


def score_users(folded: FoldedModel, users: Sequence[User]) -> None:
    """Fill the logits, and the weights where they are asked for."""
    for piece in _pieces([len(user.targets) for user in users]):
        some = [(users[place], part) for place, part in piece]
        targets = [user.targets[part] for user, part in some]
        context = _side_by_side(
            [context_of(user.context, part) for user, part in some],
            [len(of_user) for of_user in targets],
        )
        if len(some) == 1:
            logits, weight = folded(some[0][0].history, targets[0], context)
            weights = [weight]
        else:
            histories = [user.history for user, _ in some]
            logits, weights = folded.users(histories, targets, context)
        start = 0
        for (user, part), weight in zip(some, weights, strict=True):
            user.logits[part] = logits[start : start + len(weight)]
            if user.weights is not None:
                user.weights.append(weight.float())
            start += len(weight)


def _pieces(counts: Sequence[int]) -> Iterator[list[tuple[int, slice]]]:
    """What is scored together: of which user which candidates, ``CANDIDATES`` in all."""
    piece: list[tuple[int, slice]] = []
    room = CANDIDATES
    for place, count in enumerate(counts):
        start = 0
        while start < count:
            part = slice(start, min(count, start + room))
            piece.append((place, part))
            room -= part.stop - start
            start = part.stop
            if room == 0:
                yield piece
                piece, room = [], CANDIDATES
    if piece:
        yield piece


def _side_by_side(
    contexts: Sequence[dict[str, Tensor]], counts: Sequence[int]
) -> dict[str, Tensor]:
    """Context of several users' candidates; of one user's as it is."""
    if len(contexts) == 1:
        return contexts[0]
    joined = {}
    for name in contexts[0]:
        values = [context[name] for context in contexts]
        if values[0].dim() == 2:  # lists of tokens, which 0 pads
            width = max(one.shape[1] for one in values)
            values = [functional.pad(one, (0, width - one.shape[1])) for one in values]
        joined[name] = torch.cat(
            [one.expand(n, *one.shape[1:]) for one, n in zip(values, counts, strict=True)]
        )
    return joined
