"""Scores for one user and many candidates, or for rows, from a folded model."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model_zoo.core.errors import InputError
from model_zoo.core.folded import FoldedFeature
from model_zoo.core.serving.calibration import Calibration
from model_zoo.core.serving.file import FoldedFile, load_folded, save_folded
from model_zoo.core.serving.ids import require_finite_scores
from model_zoo.core.serving.shared_lock import SharedLock

CANDIDATES = 4_096  # scored at a time, so that memory does not grow with their number
SPARE_ROWS = 8  # a table that has to grow gets room for an eighth more items


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
        self._file = file
        self._folded, self._ids = file.folded, file.ids
        self._lock = SharedLock()
        self._updating = threading.Lock()  # one update prepares its rows at a time

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Scorer:
        """Read a folded file.

        Raises:
            InputError: If it is missing, unreadable, or of a newer version.
        """
        return cls(load_folded(path, device))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model with its present items; meanwhile updates wait, and scoring goes on."""
        with self._updating:
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
        given = self._ids.items(history, self._folded.num_items, "history", padding=True)
        kept = given.nonzero().squeeze(1)[-self._file.max_len :]
        rows = self._to_device(given[kept])
        targets = self._to_device(self._ids.items(candidates, self._folded.num_items, "candidates"))
        values = self._context(context, len(targets))
        # An empty history is one padding item: its weight is 0.
        slots = rows if len(rows) else rows.new_zeros(1)
        # One tensor, written in place: small ones that stay would break up the freed memory.
        logits, weights = torch.empty(len(targets), device=self._device), []
        for start in range(0, max(len(targets), 1), CANDIDATES):
            some = slice(start, start + CANDIDATES)
            part = {name: v if len(v) == 1 else v[some] for name, v in values.items()}
            with self._lock.shared():
                logits[some], weight = self._folded(slots, targets[some], part)
            if explain:
                weights.append(weight.float())
        probability = self._probability(logits, calibrated)
        if not explain:
            return probability
        aligned = probability.new_zeros(len(targets), len(given))
        aligned[:, kept.to(aligned.device)] = torch.cat(weights)[:, : len(rows)]
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
        targets = self._ids.items(candidates, self._folded.num_items, "candidates")
        if len(histories) != len(targets):
            raise InputError(f"{len(histories)} histories for {len(targets)} candidates")
        given = [
            self._ids.items(history, self._folded.num_items, f"history of row {i}", padding=True)
            for i, history in enumerate(histories)
        ]
        kept = [rows.nonzero().squeeze(1)[-self._file.max_len :] for rows in given]
        values = self._context(context, len(targets))
        logits = torch.empty(len(targets), device=self._device)
        weights: list[Tensor] = []
        for start in range(0, len(targets), CANDIDATES):
            some = slice(start, start + CANDIDATES)
            packed = [rows[k] for rows, k in zip(given[some], kept[some], strict=True)]
            lengths = torch.tensor([len(rows) for rows in packed])
            part = {name: v if len(v) == 1 else v[some] for name, v in values.items()}
            with self._lock.shared():
                logits[some], weight = self._folded.rows(
                    self._to_device(targets[some]),
                    self._to_device(torch.cat(packed)),
                    self._to_device(lengths),
                    part,
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
        with self._updating:
            ids, first = self._ids.stored(ids, "add_items"), self._folded.num_items
            if self._ids.rows is None:
                expected = list(range(first, first + len(ids)))
                if ids != expected:
                    raise InputError(f"add_items: ids {ids}, expected the next ones: {expected}")
            elif len(set(ids)) < len(ids) or not self._ids.rows.keys().isdisjoint(ids):
                known = [i for i in ids if i in self._ids.rows or ids.count(i) > 1]
                raise InputError(f"add_items: item {known[0]!r} is there already")
            values = dict(features)
            if self._ids.item_col in self._ids.vocabularies:
                values.setdefault(self._ids.item_col, ids)
            absent = self._ids.absent(self._folded.item_features, len(ids))
            values = {**absent, **values}
            empty = self._folded.vectors.new_zeros(len(ids), self._folded.dim)
            tables = self._folded.encode(self._item_features(values, len(ids)), empty)
            room = len(self._folded.vectors)
            if first + len(ids) > room:
                # Copied beside the old tables; scoring waits only for the exchange.
                grown = self._folded.grown(first + len(ids) + room // SPARE_ROWS)
                with self._lock.exclusive():
                    for name, table in grown.items():
                        self._folded.register_buffer(name, table)
            rows = torch.arange(first, first + len(ids), device=self._device)
            with self._lock.exclusive():
                self._folded.write_items(rows, tables)
                self._folded.num_items = first + len(ids)
                if self._ids.rows is not None:
                    self._ids.rows.update(zip(ids, rows.tolist(), strict=True))

    def update_items(self, ids: Sequence[Any], features: Mapping[str, Any]) -> None:
        """Replace features of items; those that are not given stay as they are.

        Args:
            ids: Items that are there, each once.
            features: Values by feature, one for each id.

        Raises:
            InputError: If an item is unknown, or a value does not fit; then nothing changes.
        """
        with self._updating:
            ids = self._ids.stored(ids, "update_items")
            if self._ids.rows is not None:
                absent = [key for key in ids if key not in self._ids.rows]
                if absent:
                    raise InputError(f"update_items: item {absent[0]!r} is not there")
            rows = self._to_device(self._ids.items(ids, self._folded.num_items, "update_items"))
            if len(set(ids)) < len(ids):
                twice = next(key for key in ids if ids.count(key) > 1)
                raise InputError(f"update_items: item {twice!r} is given twice")
            values = self._item_features(features, len(rows))
            tables = self._folded.encode(values, self._folded.vectors[rows])
            with self._lock.exclusive():
                self._folded.write_items(rows, tables)

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
        return self._values(self._folded.row_features, context or {}, rows, "context", one=True)

    def _item_features(self, features: Mapping[str, Any], rows: int) -> dict[str, Tensor]:
        given = [f for f in self._folded.item_features if f.name in features]
        return self._values(given, features, rows, "item feature")

    def _values(
        self,
        wanted: Sequence[FoldedFeature] | Any,
        given: Mapping[str, Any],
        rows: int,
        what: str,
        *,
        one: bool = False,
    ) -> dict[str, Tensor]:
        """Checked values of features on the device; ``one`` value may stand for all rows."""
        names = {feature.name for feature in wanted}
        problems = [f"{what}: '{name}' is missing" for name in sorted(names - set(given))]
        problems += [f"{what}: '{name}' is no such feature" for name in sorted(set(given) - names)]
        if problems:
            raise InputError(problems)
        values = {}
        for feature in wanted:
            tensor = self._ids.values(feature, given[feature.name], f"{what} '{feature.name}'")
            if len(tensor) != rows and not (one and len(tensor) == 1):
                raise InputError(f"{what} '{feature.name}': {len(tensor)} values for {rows} rows")
            values[feature.name] = self._to_device(tensor)
        return values
