"""A page to look at the model with: which items of a history does each score come from?"""

from __future__ import annotations

from importlib import resources
from typing import Any

from fastapi import Request, Response
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool

from model_zoo.core.serving.network.finding import FindRequest, Titles, find_items
from model_zoo.core.serving.network.refusals import Refusal
from model_zoo.core.serving.network.service import Service

# What the page may do: its own script and styles, and requests to this service.
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'unsafe-inline'",
        "style-src 'unsafe-inline'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
)
PARAMETERS: list[dict[str, Any]] = [
    {"name": name, "in": "query", "schema": schema}
    for name, schema in FindRequest.model_json_schema()["properties"].items()
]
"""Of ``GET /items``, for the description."""


class Page:
    """Its addresses.

    Args:
        service: What answers.
        titles: What items are called.
    """

    def __init__(self, service: Service, titles: Titles) -> None:
        self._service, self._titles = service, titles
        self._html = resources.files(__package__).joinpath("page.html").read_bytes()

    async def html(self, request: Request, arrived: float) -> Response:
        """The page."""
        headers = {"content-security-policy": POLICY, "x-content-type-options": "nosniff"}
        return Response(self._html, media_type="text/html; charset=utf-8", headers=headers)

    async def find(self, request: Request, arrived: float) -> Response:
        """List items: some by their ids, any, or those that a search finds."""
        given: dict[str, Any] = dict(request.query_params)
        if "id" in given:
            given["id"] = request.query_params.getlist("id")
        try:
            asked = FindRequest.model_validate(given)
        except ValidationError as error:
            raise Refusal.of_validation(error) from None
        served = self._service.models.served
        found = await run_in_threadpool(find_items, served, self._titles, asked)
        return Response(to_json(found), media_type="application/json")
