"""Scores for one user and many candidates, or for rows, from a folded model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model_zoo.core.errors import InputError
from model_zoo.core.folded import context_of
from model_zoo.core.memory import keep_few_kernels
from model_zoo.core.serving.calibration import Calibration
from model_zoo.core.serving.catalogue import Catalogue
from model_zoo.core.serving.file import FoldedFile, load_folded, save_folded
from model_zoo.core.serving.ids import require_finite_scores
from model_zoo.core.serving.inputs import feature_values
from model_zoo.core.serving.users import CANDIDATES, User, UserRequest, score_users


class Explained(NamedTuple):
    """Probabilities with the attention weight of every history item.

    Attributes:
        probability: (n,)
        weight: (n, L) for one user; for rows a list of n tensors, each as long as the row's
            history. Most weights are exactly 0; so is that of padding and of items before the
            most recent ``max_len``.
    """

    probability: Tensor
    weight: Any


class Scorer:
    """Click probabilities from a folded model; several threads may use it at once.

    Ids are those of the data set: raw where it had raw ids, else integers. An id that is not
    in its vocabulary counts as out of vocabulary where the data set had such a rule (raw ids)
    and is an error otherwise.

    Args:
        file: A folded model, as :func:`load_folded` reads it.

    Example::

        scorer = Scorer.load("checkpoints/MicroLens_1M_x1/QIN_MicroLens_1M_x1.folded")
        p = scorer.score(history=[7, 8], candidates=[3, 4, 5], context={"hour": 12})
    """

    def __init__(self, file: FoldedFile) -> None:
        keep_few_kernels()  # batches of requests have rows of any number
        self._file = file
        self._folded, self._ids = file.folded, file.ids
        self._catalogue = Catalogue(self._folded, self._ids)
        self._lock = self._catalogue.lock

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Scorer:
        """Read a folded file.

        Raises:
            InputError: If it is missing, unreadable, or of a newer version.
        """
        return cls(load_folded(path, device))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model with its present items; meanwhile updates wait, and scoring goes on."""
        with self._catalogue.changing:
            save_folded(path, self._file)

    @property
    def num_items(self) -> int:
        """Items that can be scored."""
        return self._folded.num_items - (1 if self._ids.unknown is None else 2)

    @property
    def context_features(self) -> list[str]:
        """Names that ``context`` needs."""
        return [feature.name for feature in self._folded.row_features]

    @torch.inference_mode()
    def score(
        self,
        history: Any,
        candidates: Any,
        context: Mapping[str, Any] | None = None,
        *,
        calibrated: bool = False,
        explain: bool = False,
    ) -> Any:
        """Score many candidates for one user, whose history is gathered once.

        Args:
            history: Item ids, oldest first; may be empty. Of encoded ids 0 is padding.
            candidates: Item ids, (n,); may be empty.
            context: Row features by name; each one value for all, or one for each candidate.
            calibrated: Apply the calibration map of the file.
            explain: Return the attention weights too.

        Returns:
            Probabilities (n,), float32, or :class:`Explained`.

        Raises:
            InputError: If an id is unknown, a feature missing, or a value or score not finite.
        """
        (answer,) = self.score_users(
            [UserRequest(history, candidates, context, calibrated, explain)]
        )
        if isinstance(answer, InputError):
            raise answer
        return answer

    @torch.inference_mode()
    def score_users(self, requests: Sequence[UserRequest]) -> list[Tensor | Explained | InputError]:
        """Score several users' candidates together, all on the items of one moment.

        Args:
            requests: One for each user.

        Returns:
            For each request what :meth:`score` returns, or the error that it raises: a wrong
            request leaves the others as they are.
        """
        with self._lock.shared():
            read = [self._read(request) for request in requests]
            score_users(self._folded, [user for user in read if isinstance(user, User)])
        return [
            user if isinstance(user, InputError) else self._answer(user, request)
            for user, request in zip(read, requests, strict=True)
        ]

    def _read(self, request: UserRequest) -> User | InputError:
        try:
            return self._checked(request)
        except InputError as error:
            return error

    def _checked(self, request: UserRequest) -> User:
        items = self._folded.num_items
        given = self._ids.items(request.history, items, "history", padding=True)
        kept = given.nonzero().squeeze(1)[-self._file.max_len :]
        rows = self._to_device(given[kept])
        targets = self._to_device(self._ids.items(request.candidates, items, "candidates"))
        return User(
            given=len(given),
            kept=kept,
            # An empty history is one padding item: its weight is 0.
            history=rows if len(rows) else rows.new_zeros(1),
            targets=targets,
            context=self._context(request.context, len(targets)),
            # One tensor, written in place: small ones that stay would break up freed memory.
            logits=torch.empty(len(targets), device=self._device),
            weights=[] if request.explain else None,
        )

    def _answer(self, user: User, request: UserRequest) -> Tensor | Explained | InputError:
        try:
            probability = self._probability(user.logits, request.calibrated)
        except InputError as error:
            return error
        if user.weights is None:
            return probability
        aligned = probability.new_zeros(len(user.targets), user.given)
        if user.weights:  # else there is no candidate
            weight = torch.cat(user.weights)[:, : len(user.kept)]
            aligned[:, user.kept.to(aligned.device)] = weight
        return Explained(probability, aligned)

    @torch.inference_mode()
    def score_batch(
        self,
        histories: Sequence[Any],
        candidates: Any,
        context: Mapping[str, Any] | None = None,
        *,
        calibrated: bool = False,
        explain: bool = False,
    ) -> Any:
        """Score rows, each one candidate for a user with a history.

        Args:
            histories: The item ids of each row.
            candidates: One item id for each row, (n,).
            context: Row features by name; each one value for all, or one for each row.
            calibrated: Apply the calibration map of the file.
            explain: Return the attention weights too.

        Returns:
            Probabilities (n,), float32, or :class:`Explained`.

        Raises:
            InputError: As :meth:`score`, and if there are not as many histories as candidates.
        """
        with self._lock.shared():
            targets = self._ids.items(candidates, self._folded.num_items, "candidates")
            if len(histories) != len(targets):
                raise InputError(f"{len(histories)} histories for {len(targets)} candidates")
            given = [
                self._ids.items(ids, self._folded.num_items, f"history of row {i}", padding=True)
                for i, ids in enumerate(histories)
            ]
            kept = [rows.nonzero().squeeze(1)[-self._file.max_len :] for rows in given]
            values = self._context(context, len(targets))
            logits = torch.empty(len(targets), device=self._device)
            weights: list[Tensor] = []
            for start in range(0, len(targets), CANDIDATES):
                some = slice(start, start + CANDIDATES)
                packed = [rows[k] for rows, k in zip(given[some], kept[some], strict=True)]
                lengths = torch.tensor([len(rows) for rows in packed])
                logits[some], weight = self._folded.rows(
                    self._to_device(targets[some]),
                    self._to_device(torch.cat(packed)),
                    self._to_device(lengths),
                    context_of(values, some),
                )
                if explain:
                    weights += torch.split(weight.float().cpu(), lengths.tolist())
        probability = self._probability(logits, calibrated)
        if not explain:
            return probability
        aligned = [torch.zeros(len(rows)) for rows in given]
        for row, places, weight in zip(aligned, kept, weights, strict=True):
            row[places] = weight
        return Explained(probability, aligned)

    def add_items(self, ids: Sequence[Any], features: Mapping[str, Any]) -> None:
        """Append items, so that they can be scored and stand in histories from now on.

        Args:
            ids: Their ids. Of encoded ids these are the next integers.
            features: Values by feature; one that is not given counts as missing. The id's own
                embedding is that of its vocabulary entry, or out of vocabulary.

        Raises:
            InputError: If an id is there already, or a value does not fit; then nothing changes.
        """
        self._catalogue.add(ids, features)

    def update_items(self, ids: Sequence[Any], features: Mapping[str, Any]) -> None:
        """Replace features of items; those that are not given stay as they are.

        Args:
            ids: Items that are there, each once.
            features: Values by feature, one for each id.

        Raises:
            InputError: If an item is unknown, or a value does not fit; then nothing changes.
        """
        self._catalogue.update(ids, features)

    def putting_items(
        self, ids: Sequence[Any], features: Mapping[str, Any]
    ) -> AbstractContextManager[int]:
        """Check a change, and make it at the end of the block: add new items, update the others.

        So what has to come before the change, such as a record of it, stands in the block; if
        the block raises, nothing changes.

        Args:
            ids: Each once. Of encoded ids the new ones are the next integers.
            features: Values by feature, one for each id; as of :meth:`add_items` and
                :meth:`update_items` where one is not given.

        Returns:
            A context manager that gives the number of new items.

        Raises:
            InputError: On entering, if an id or a value does not fit.
        """
        return self._catalogue.putting(ids, features)

    @property
    def _device(self) -> torch.device:
        return self._folded.vectors.device

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)

    def _probability(self, logit: Tensor, calibrated: bool) -> Tensor:
        require_finite_scores(logit)
        if not calibrated:
            return torch.sigmoid(logit)
        calibration: Calibration | None = self._file.calibration
        if calibration is None:
            raise InputError("calibrated: this file has no calibration map; fold it with one")
        return calibration(logit)

    def _context(self, context: Mapping[str, Any] | None, rows: int) -> dict[str, Tensor]:
        features, device = self._folded.row_features, self._device
        return feature_values(self._ids, features, context or {}, rows, "context", device, one=True)
