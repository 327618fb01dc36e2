"""Requests scored together, and what is answered to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from model_zoo.core.errors import InputError
from model_zoo.core.serving.network.messages import RowsRequest, ScoreRequest
from model_zoo.core.serving.network.models import Served
from model_zoo.core.serving.network.refusals import Refusal
from model_zoo.core.serving.scorer import Explained
from model_zoo.core.serving.users import UserRequest


@dataclass(frozen=True)
class Scores:
    """An answer.

    Attributes:
        probability: (n,), float32.
        model: Digest of the folded file that scored all of it.
        candidates: The ids that the probabilities belong to, where not all were asked for.
        weight: With ``explain``, (n, L), or for rows n tensors.
    """

    probability: Tensor
    model: str
    candidates: list[Any] | None = None
    weight: Tensor | list[Tensor] | None = None

    def fields(self) -> dict[str, Any]:
        """Those that are there, by name."""
        given = {"candidates": self.candidates, "weight": self.weight}
        present = {name: value for name, value in given.items() if value is not None}
        return {"probability": self.probability, "model": self.model, **present}


def score_batch(
    served: Served, requests: Sequence[ScoreRequest | RowsRequest]
) -> list[Scores | Exception]:
    """Score requests together, all with one model on the items of one moment.

    Returns:
        For each its scores, or the :class:`Refusal` of that one.
    """
    users = [request for request in requests if isinstance(request, ScoreRequest)]
    answers = iter(
        served.scorer.score_users(
            [
                UserRequest(r.history, r.candidates, r.context, r.calibrated, r.explain)
                for r in users
            ]
        )
    )
    results: list[Scores | Exception] = []
    for request in requests:
        answer = next(answers) if isinstance(request, ScoreRequest) else _rows(served, request)
        if isinstance(answer, InputError):
            results.append(Refusal.of_input(answer, request.__dict__))
        else:
            results.append(_scores(answer, request, served.digest))
    return results


def _rows(served: Served, request: RowsRequest) -> Tensor | Explained | InputError:
    try:
        return cast(
            "Tensor | Explained",
            served.scorer.score_batch(
                request.histories,
                request.candidates,
                request.context,
                calibrated=request.calibrated,
                explain=request.explain,
            ),
        )
    except InputError as error:
        return error


def _scores(answer: Tensor | Explained, request: ScoreRequest | RowsRequest, digest: str) -> Scores:
    probability, weight = answer if isinstance(answer, Explained) else (answer, None)
    top_k = request.top_k if isinstance(request, ScoreRequest) else None
    if top_k is None:
        return Scores(probability.cpu(), digest, weight=_on_cpu(weight))
    # Stable, so that equal scores keep the order of the candidates.
    places = torch.sort(probability, descending=True, stable=True).indices[:top_k]
    candidates = [_plain(request.candidates[place]) for place in places.tolist()]
    weight = None if weight is None else weight[places]
    return Scores(probability[places].cpu(), digest, candidates, _on_cpu(weight))


def _on_cpu(weight: Any) -> Any:
    """Of rows they are a list, which is there already."""
    return weight.cpu() if isinstance(weight, Tensor) else weight


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
