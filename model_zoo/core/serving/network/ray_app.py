"""The service on Ray Serve: replicas on one machine or many, with the same handlers and addresses.

    serve run model_zoo.core.serving.network.ray_app:application folded=/models/QIN_default.folded

``config/service_ray.yaml`` is the same for ``serve deploy``. Of Ray it needs the part ``serve``.
"""

# No ``from __future__ import annotations`` here: Ray reads the builder's annotation as it stands.
import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import torch
from fastapi import FastAPI
from google.protobuf.wrappers_pb2 import BytesValue
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray import serve
from ray.serve import Application, Deployment
from ray.serve.grpc_util import RayServegRPCContext

from model_zoo.core.serving.network.app import build_app
from model_zoo.core.serving.network.binary import packed, unpacked
from model_zoo.core.serving.network.finding import Titles
from model_zoo.core.serving.network.messages import ScoreRequest
from model_zoo.core.serving.network.metrics import Metrics
from model_zoo.core.serving.network.models import Models
from model_zoo.core.serving.network.refusals import Refusal
from model_zoo.core.serving.network.service import Service
from model_zoo.core.serving.network.settings import Limits
from model_zoo.core.serving.network.token import read_token

GRPC_SERVICE = "qin.Scores"
ONGOING = 1_024  # requests that a replica takes at a time; its queue of rows is the narrower limit


class Arguments(BaseModel):
    """Of the application: what ``qin-serve`` takes, with ``_`` in place of ``-``."""

    model_config = ConfigDict(extra="forbid")
    folded: Path = Field(description="the same path on every node")
    token_file: Path | None = Field(None, description="likewise")
    titles: Path | None = Field(None, description="likewise")
    device: str = "cpu"
    threads: int = Field(1, ge=1, description="of each replica")
    limits: Limits = Field(default_factory=Limits)


@dataclass(frozen=True, eq=False)
class _Waiting:
    work: Any
    rows: int
    deadline: float | None


class RayBatches:
    """Requests of one replica, gathered by ``serve.batch``, which counts their rows.

    Args:
        score: Does a batch: a result for each, or an exception in its place.
        limits: Of a batch and of the queue.
        metrics: Where batches and waiting rows are counted.
    """

    def __init__(
        self, score: Callable[[Sequence[Any]], Sequence[Any]], limits: Limits, metrics: Metrics
    ) -> None:
        self._score, self._limits, self._metrics = score, limits, metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scoring")
        self._waiting_rows = 0
        self._batch = serve.batch(
            max_batch_size=limits.max_batch_rows,
            batch_wait_timeout_s=limits.batch_wait_ms / 1_000,
            batch_size_fn=self._rows,
        )(self._scored)

    def start(self) -> None:
        """Nothing: Ray begins with the first request."""

    async def stop(self) -> None:
        """End when what is waiting has been done."""
        await asyncio.to_thread(self._thread.shutdown)

    def require_room(self) -> None:
        """As of :class:`Batcher`."""
        if self._waiting_rows >= self._limits.max_queue_rows:
            raise self._busy("the queue is full")

    async def submit(self, work: Any, rows: int, deadline: float | None) -> Any:
        """As of :class:`Batcher`."""
        if self._waiting_rows and self._waiting_rows + rows > self._limits.max_queue_rows:
            raise self._busy("the queue is full")
        self._count(rows)
        try:
            result = await self._batch(_Waiting(work, rows, deadline))
        finally:
            self._count(-rows)
        if isinstance(result, Exception):
            raise result
        return result

    def _rows(self, waiting: Sequence[_Waiting]) -> int:
        # A request that is larger than a batch is one of its own; Ray would refuse it.
        return sum(min(one.rows, self._limits.max_batch_rows) for one in waiting)

    async def _scored(self, waiting: list[_Waiting]) -> list[Any]:
        now = time.monotonic()
        late = [one.deadline is not None and now > one.deadline for one in waiting]
        batch = [one for one, is_late in zip(waiting, late, strict=True) if not is_late]
        loop, began = asyncio.get_running_loop(), time.perf_counter()
        scored = await loop.run_in_executor(self._thread, self._score, [one.work for one in batch])
        rows, seconds = sum(one.rows for one in batch), time.perf_counter() - began
        self._metrics.batch(rows, len(batch), seconds)
        results = iter(scored)
        refused = self._busy("its deadline passed while it waited")
        return [refused if is_late else next(results) for is_late in late]

    def _count(self, rows: int) -> None:
        self._waiting_rows += rows
        self._metrics.waiting_rows.set(self._waiting_rows)

    def _busy(self, why: str) -> Refusal:
        return Refusal(503, f"too many requests at a time: {why}", retry_after=1)


@serve.ingress()
class _Replica:
    """Answers requests, as one process of ``qin-serve`` does."""

    def __init__(self, arguments: Arguments) -> None:
        torch.set_num_threads(arguments.threads)
        token = None if arguments.token_file is None else read_token(arguments.token_file)
        models = Models(arguments.folded, writable=token is not None, device=arguments.device)
        self._service = Service(models, arguments.limits, Metrics(), RayBatches)
        self._app = build_app(self._service, token, titles=Titles.read(arguments.titles))

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    def check_health(self) -> None:
        """Ray starts a replica again that cannot follow the others' changes."""
        self._service.require_ready()

    async def Score(self, message: BytesValue, grpc_context: RayServegRPCContext) -> BytesValue:
        """``POST /score`` over gRPC."""
        return await grpc_score(self._service, message, grpc_context)


Replica: Deployment = serve.deployment(
    name="Scores",
    max_ongoing_requests=ONGOING,
    max_queued_requests=ONGOING,
    health_check_period_s=5,
    ray_actor_options={"num_cpus": 1},
)(_Replica)


async def grpc_score(service: Service, message: BytesValue, context: Any) -> BytesValue:
    """``POST /score``, its compact form as the value of a message both ways.

    Args:
        service: What answers.
        message: A request.
        context: Of gRPC, where a refusal is written.
    """
    try:
        asked = ScoreRequest.model_validate(unpacked(message.value))
        scores = await service.score(asked)
    except ValidationError as error:
        return _refused(Refusal.of_validation(error), context)
    except Refusal as refusal:
        return _refused(refusal, context)
    return BytesValue(value=packed(scores.fields()))


def _refused(refusal: Refusal, context: Any) -> BytesValue:
    codes = {503: grpc.StatusCode.UNAVAILABLE}
    context.set_code(codes.get(refusal.status, grpc.StatusCode.INVALID_ARGUMENT))
    context.set_details(refusal.detail)
    return BytesValue()


def add_scores_to_server(servicer: Any, server: Any) -> None:
    """What ``grpc_servicer_functions`` names: the service ``qin.Scores`` with its method Score.

    Its messages are ``google.protobuf.BytesValue``, so no code has to be generated.
    """
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.Score,
        request_deserializer=BytesValue.FromString,
        response_serializer=BytesValue.SerializeToString,
    )
    service = grpc.method_handlers_generic_handler(GRPC_SERVICE, {"Score": handler})
    server.add_generic_rpc_handlers((service,))


def application(arguments: Arguments) -> Application:
    """What ``serve run`` and ``serve deploy`` call.

    Args:
        arguments: ``key=value`` of the command, or ``args`` of the YAML file.
    """
    return Replica.bind(arguments)
