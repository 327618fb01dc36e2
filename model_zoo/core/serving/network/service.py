"""What a service answers, whatever carries the requests: plain values in and out, no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from model_zoo.core.errors import InputError
from model_zoo.core.folded import FoldedFeature
from model_zoo.core.memory import keep_freed_pieces
from model_zoo.core.serving.network.batching import Batcher, Batches
from model_zoo.core.serving.network.messages import (
    FeatureDescription,
    ItemsAnswer,
    ItemsRequest,
    ModelAnswer,
    RowsRequest,
    ScoreRequest,
)
from model_zoo.core.serving.network.metrics import Metrics
from model_zoo.core.serving.network.models import Models
from model_zoo.core.serving.network.refusals import Refusal
from model_zoo.core.serving.network.scoring import Scores, score_batch
from model_zoo.core.serving.network.settings import FOLLOW_SECONDS, Limits

logger = logging.getLogger(__name__)


class Service:
    """The handlers of one process.

    Args:
        models: What is served.
        limits: Of requests and batches.
        metrics: Where work is counted.
        batcher: What scores requests together, made as a :class:`Batcher` is.
    """

    def __init__(
        self,
        models: Models,
        limits: Limits,
        metrics: Metrics,
        batcher: Callable[..., Batches[ScoreRequest | RowsRequest, Scores]] = Batcher,
    ) -> None:
        self.models, self.limits, self.metrics = models, limits, metrics
        self._batcher = batcher(
            lambda requests: score_batch(models.served, requests), limits, metrics
        )
        # Changes wait for the disk and for other processes, in a thread of their own.
        self._changes = ThreadPoolExecutor(1, thread_name_prefix="changes")
        self._trouble: str | None = None
        self._following: asyncio.Task[None] | None = None
        self._reloading: asyncio.Task[None] | None = None  # held, as the loop does not

    async def start(self) -> None:
        """Begin to answer, and to follow other processes' changes."""
        keep_freed_pieces()  # else each batch waits for the system to clear its memory
        self._batcher.start()
        self.metrics.items.set(self.models.served.scorer.num_items)
        self._following = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """End when all requests that wait have been answered."""
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        await self._batcher.stop()
        self._changes.shutdown()

    def require_room(self) -> None:
        """Refuse now what would be refused later, before it is read.

        Raises:
            Refusal: If the queue is full.
        """
        self._batcher.require_room()

    def require_ready(self) -> None:
        """Whether requests may be sent here.

        Raises:
            Refusal: If changes that other processes have made cannot be followed.
        """
        if self._trouble is not None:
            raise Refusal(503, self._trouble, retry_after=5)

    async def score(
        self, request: ScoreRequest | RowsRequest, arrived: float | None = None
    ) -> Scores:
        """Scores of one user's candidates, or of rows.

        Args:
            request: What to score.
            arrived: When it began to arrive, of ``time.monotonic``; else now.

        Raises:
            Refusal: If it is wrong, too large, or too late.
        """
        rows = self._require_size(request)
        wanted = self.limits.deadline_ms if request.deadline_ms is None else request.deadline_ms
        arrived = time.monotonic() if arrived is None else arrived
        deadline = None if wanted is None else arrived + wanted / 1_000
        return await self._batcher.submit(request, max(rows, 1), deadline)

    def _require_size(self, request: ScoreRequest | RowsRequest) -> int:
        rows = len(request.candidates)
        if rows > self.limits.max_rows:
            found = f"found {rows:,} rows, expected at most {self.limits.max_rows:,} in a request"
            raise Refusal(422, f"candidates: {found}", [("#/candidates", found)])
        if request.explain and isinstance(request, ScoreRequest):
            weights = rows * len(request.history)
            if weights > self.limits.max_weights:
                found = (
                    f"{rows:,} candidates for {len(request.history):,} history items are "
                    f"{weights:,} weights, expected at most {self.limits.max_weights:,}"
                )
                raise Refusal(422, f"explain: {found}", [("#/explain", found)])
        return rows

    async def change_items(self, request: ItemsRequest) -> ItemsAnswer:
        """Add and replace items; it is on disk when this returns.

        Raises:
            Refusal: If an id or a value does not fit, or nothing can be written.
        """
        try:
            added, served = await self._change(
                self.models.change_items, request.ids, request.features
            )
        except InputError as error:
            raise Refusal.of_input(error, request.__dict__) from None
        except OSError as error:
            raise Refusal(503, f"the change cannot be written: {error.strerror}") from None
        items = served.scorer.num_items
        self.metrics.changes.labels("items").inc()
        self.metrics.items.set(items)
        updated = len(request.ids) - added
        return ItemsAnswer(added=added, updated=updated, items=items, model=served.digest)

    async def reload(self, file: str | None = None) -> ModelAnswer:
        """Serve another folded file of the same folder, or the served one as it is now.

        Raises:
            Refusal: If it cannot be served; then the old one stays.
        """
        try:
            served = await self._change(self.models.reload, file)
        except InputError as error:
            raise Refusal(422, str(error), [("#/file", str(error))]) from None
        except OSError as error:
            raise Refusal(503, f"the change cannot be written: {error.strerror}") from None
        self.metrics.changes.labels("model").inc()
        self.metrics.items.set(served.scorer.num_items)
        return self.model()

    def reload_soon(self) -> None:
        """Read the served file again; a log says how that went."""
        self._reloading = asyncio.get_running_loop().create_task(self._reload_or_log())

    async def _reload_or_log(self) -> None:
        try:
            answer = await self.reload()
        except Refusal as refusal:
            logger.error("Not reloaded, the old file stays: %s", refusal.detail)
        else:
            logger.info("Serving %s (%s)", answer.file, answer.digest)

    def model(self) -> ModelAnswer:
        """What is served."""
        served = self.models.served
        file, folded = served.file, served.file.folded
        return ModelAnswer(
            name=served.name,
            digest=served.digest,
            file=served.path.name,
            checkpoint=file.checkpoint,
            loaded=served.loaded.isoformat(timespec="seconds"),
            items=served.scorer.num_items,
            changes=served.journal.records,
            max_len=file.max_len,
            calibrated=file.calibration is not None,
            context=[_description(f, file.ids.vocabularies) for f in folded.row_features],
            item_features=[_description(f, file.ids.vocabularies) for f in folded.item_features],
            metrics=file.metrics,
        )

    async def _change(self, change: Any, *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._changes, change, *arguments)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            try:
                await self._change(self.models.follow)
            except (InputError, OSError) as error:
                if self._trouble is None:
                    logger.error("%s", error)
                self._trouble = str(error)
            else:
                self._trouble = None
                self.metrics.items.set(self.models.served.scorer.num_items)


def _description(
    feature: FoldedFeature, raw: Mapping[str, Mapping[Any, int]]
) -> FeatureDescription:
    ids = None
    if feature.kind in ("categorical", "sequence") and feature.name not in raw:
        ids = feature.weight.shape[0]
    width = feature.weight.shape[0] if feature.kind == "embedding" else None
    return FeatureDescription(name=feature.name, kind=feature.kind, width=width, ids=ids)
