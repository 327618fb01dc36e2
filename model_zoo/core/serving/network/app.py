"""The service over HTTP: routes, tokens, and how answers and refusals are written."""

from __future__ import annotations

import asyncio
import hmac
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from model_zoo.core.serving.network import messages
from model_zoo.core.serving.network.binary import MEDIA_TYPE, packed, unpacked
from model_zoo.core.serving.network.bodies import Bodies
from model_zoo.core.serving.network.finding import FoundItems, Titles
from model_zoo.core.serving.network.page import PARAMETERS, Page
from model_zoo.core.serving.network.refusals import Refusal
from model_zoo.core.serving.network.service import Service

logger = logging.getLogger(__name__)
SCORES = ("/score", "/score_batch")
LARGE = 2**18  # bytes from which on a body is parsed beside the event loop
_Model = TypeVar("_Model", bound=BaseModel)
_Handler = Callable[[Request, float], Awaitable[Response]]
_Answer = Callable[[Request], Awaitable[Response]]


class _App(FastAPI):
    """FastAPI, past whose middleware and dependencies scores go: they need none, and it costs.

    Attributes:
        scores: What answers ``POST``, by path.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.scores: dict[str, _Answer] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = None
        if scope["type"] == "http" and scope["method"] == "POST":
            answer = self.scores.get(scope["path"])
        if answer is None:  # something else, or it is below a root path, which FastAPI removes
            await super().__call__(scope, receive, send)
            return
        response = await answer(Request(scope, receive))
        await response(scope, receive, send)


def build_app(
    service: Service,
    token: str | None,
    *,
    reload_on_hangup: bool = False,
    titles: Titles | None = None,
) -> FastAPI:
    """The application.

    Args:
        service: What answers.
        token: What requests that change something have to show; ``None`` refuses them all.
        reload_on_hangup: Whether SIGHUP reads the served file again.
        titles: What the page calls items.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        if reload_on_hangup:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, service.reload_soon)
        yield
        await service.stop()

    app = _App(
        title="Click probabilities of a folded model",
        description="Scores of candidates for a user with a click history.",
        version="1",
        lifespan=lifespan,
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
    )
    app.add_exception_handler(HTTPException, _http_refusal)
    routes, page = _Routes(service, token), Page(service, titles or Titles())
    for path, method, handler, answer, body in (
        ("/score", "POST", routes.score, messages.ScoreAnswer, messages.ScoreRequest),
        ("/score_batch", "POST", routes.score_rows, messages.ScoreAnswer, messages.RowsRequest),
        ("/", "GET", page.html, None, None),
        ("/items", "GET", page.find, FoundItems, None),
        ("/items", "POST", routes.items, messages.ItemsAnswer, messages.ItemsRequest),
        ("/reload", "POST", routes.reload, messages.ModelAnswer, messages.ReloadRequest),
        ("/model", "GET", routes.model, messages.ModelAnswer, None),
        ("/health", "GET", routes.health, messages.Health, None),
        ("/ready", "GET", routes.ready, messages.Health, None),
        ("/metrics", "GET", routes.metrics, None, None),
    ):
        counted = _counted(service, path, handler)
        if path in SCORES:
            app.scores[path] = counted
        app.add_api_route(
            path,
            counted,
            methods=[method],
            summary=(handler.__doc__ or "").splitlines()[0],
            responses=_responses(answer),
            openapi_extra=_description(path, body),
            operation_id=handler.__name__,
            include_in_schema=path != "/",
        )
    return app


class _Routes:
    """One method for each address."""

    def __init__(self, service: Service, token: str | None) -> None:
        self._service, self._token = service, None if token is None else token.encode()
        self._bodies = Bodies(service.limits)

    async def score(self, request: Request, arrived: float) -> Response:
        """Score many candidates for one user."""
        return await self._scores(request, arrived, messages.ScoreRequest)

    async def score_rows(self, request: Request, arrived: float) -> Response:
        """Score rows, each one candidate for a user with a history."""
        return await self._scores(request, arrived, messages.RowsRequest)

    async def _scores(
        self,
        request: Request,
        arrived: float,
        kind: type[messages.ScoreRequest] | type[messages.RowsRequest],
    ) -> Response:
        self._service.require_room()
        async with self._bodies.read(request) as body:
            compact = request.headers.get("content-type", "").startswith(MEDIA_TYPE)
            asked = await _parsed(kind, body, compact)
            scores = await self._service.score(asked, arrived)
            if compact:
                return self._bodies.answer(packed(scores.fields()), MEDIA_TYPE)
            fields = scores.fields()
            fields["probability"] = scores.probability.tolist()
            if scores.weight is not None:
                fields["weight"] = [weight.tolist() for weight in scores.weight]
            return self._bodies.answer(to_json(fields), "application/json")

    async def items(self, request: Request, arrived: float) -> Response:
        """Add items, or replace features of items that are there."""
        self._require_token(request)
        async with self._bodies.read(request) as body:
            asked = await _parsed(messages.ItemsRequest, body)
            return _json(await self._service.change_items(asked))

    async def reload(self, request: Request, arrived: float) -> Response:
        """Serve another folded file, or the same one as it is now."""
        self._require_token(request)
        async with self._bodies.read(request) as body:
            asked = await _parsed(messages.ReloadRequest, body or b"{}")
            return _json(await self._service.reload(asked.file))

    async def model(self, request: Request, arrived: float) -> Response:
        """What is served."""
        return _json(self._service.model())

    async def health(self, request: Request, arrived: float) -> Response:
        """Whether the process answers."""
        return _json(messages.Health(status="alive"))

    async def ready(self, request: Request, arrived: float) -> Response:
        """Whether requests may be sent here."""
        self._service.require_ready()
        return _json(messages.Health(status="ready"))

    async def metrics(self, request: Request, arrived: float) -> Response:
        """Counters for Prometheus."""
        text = self._service.metrics.text()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    def _require_token(self, request: Request) -> None:
        if self._token is None:
            detail = "this service changes nothing: start it with --token-file to allow that"
            raise Refusal(403, detail)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # In constant time: how long it takes must not tell how much of it is right.
        right = hmac.compare_digest(given.strip().encode(), self._token)
        if scheme.lower() != "bearer" or not right:
            detail = "found no valid token, expected the header Authorization: Bearer <token>"
            raise Refusal(401, detail)


def _counted(service: Service, path: str, handler: _Handler) -> _Answer:
    """The handler with its refusals as answers, and counted."""
    requests, seconds = service.metrics.requests, service.metrics.seconds.labels(path)

    async def answer(request: Request) -> Response:
        arrived = time.monotonic()
        try:
            response = await handler(request, arrived)
        except Refusal as refusal:
            response = _problem(refusal)
        except Exception:
            logger.exception("%s failed", path)
            response = _problem(Refusal(500, "the request failed; the server's log says why"))
        requests.labels(path, response.status_code).inc()
        seconds.observe(time.monotonic() - arrived)
        return response

    return answer


async def _parsed(kind: type[_Model], body: bytes, compact: bool = False) -> _Model:
    try:
        if len(body) < LARGE:
            return _read(kind, body, compact)
        return await run_in_threadpool(_read, kind, body, compact)
    except ValidationError as error:
        raise Refusal.of_validation(error) from None


def _read(kind: type[_Model], body: bytes, compact: bool) -> _Model:
    return kind.model_validate(unpacked(body)) if compact else kind.model_validate_json(body)


def _json(content: Any) -> Response:
    return Response(to_json(content), media_type="application/json")


def _problem(refusal: Refusal) -> Response:
    return Response(
        to_json(refusal.problem()),
        status_code=refusal.status,
        headers=refusal.headers(),
        media_type="application/problem+json",
    )


async def _http_refusal(_: Request, error: Exception) -> Response:
    """Of an address or a method that is not there."""
    assert isinstance(error, HTTPException)
    response = _problem(Refusal(error.status_code, error.detail))
    response.headers.update(error.headers or {})
    return response


def _responses(answer: type[BaseModel] | None) -> dict[int | str, dict[str, Any]]:
    problem = {"application/problem+json": {"schema": messages.Problem.model_json_schema()}}
    refused = {"description": "refused", "content": problem}
    found: dict[int | str, dict[str, Any]] = {"4XX": refused, "5XX": refused}
    if answer is not None:
        found[200] = {"model": answer}
    return found


def _description(path: str, body: type[BaseModel] | None) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    if body is not None:
        content = {"application/json": {"schema": body.model_json_schema()}}
        if path in SCORES:
            content[MEDIA_TYPE] = {"schema": {"type": "string", "format": "binary"}}
        extra["requestBody"] = {"required": path != "/reload", "content": content}
        if path in ("/items", "/reload"):
            extra["security"] = [{"token": []}]
    elif path == "/items":
        extra["parameters"] = PARAMETERS
    return extra
