"""Why a request is refused, with the place in it: the content of RFC 9457 problem details."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from model_zoo.core.errors import InputError

_BAD = HTTPStatus.UNPROCESSABLE_ENTITY
# How the scorer begins a message -> where that is in a request.
_PLACES = {"candidates": ["candidates"], "context": ["context"], "history": ["history"]}
_PLACES |= {"items": ["ids"], "item feature": ["features"], "calibrated": ["calibrated"]}
_MESSAGE = re.compile(
    rf"(?P<what>{'|'.join(_PLACES)})(?: of row (?P<row>\d+))?(?: '(?P<name>[^']*)')?"
    r"(?:, list (?P<list>\d+))?: (?:position (?P<at>\d+(?:, \d+)*): )?(?:'(?P<member>[^']*)' is )?"
)


class Refusal(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status that says so.
        detail: What was found and what was expected.
        errors: Places (JSON pointers, such as ``#/context/age/3``) and what is wrong there.
        retry_after: Seconds after which to try again.
        close: Whether the rest of the request is not read.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[tuple[str, str]] = (),
        *,
        retry_after: float | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors = HTTPStatus(status), detail, list(errors)
        self.retry_after, self.close = retry_after, close

    def problem(self) -> dict[str, Any]:
        """As ``application/problem+json``."""
        content = {"title": self.status.phrase, "status": int(self.status), "detail": self.detail}
        if self.errors:
            content["errors"] = [{"pointer": p, "detail": text} for p, text in self.errors]
        return content

    def headers(self) -> dict[str, str]:
        """Of an HTTP answer."""
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if self.close:
            headers["connection"] = "close"
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer"
        return headers

    @classmethod
    def of_input(cls, error: InputError, request: Mapping[str, Any]) -> Refusal:
        """What the scorer says against a request, with the places in that request."""
        errors = [(_pointer(problem, request), problem) for problem in error.problems]
        return cls(_BAD, "; ".join(error.problems), errors)

    @classmethod
    def of_validation(cls, error: ValidationError) -> Refusal:
        """What does not fit the description of a request."""
        found = error.errors(include_url=False, include_context=False, include_input=False)
        errors = [(_joined(one["loc"]), one["msg"]) for one in found]
        malformed = any(one["type"] == "json_invalid" for one in found)
        detail = "; ".join(f"{pointer}: {text}" for pointer, text in errors)
        return cls(HTTPStatus.BAD_REQUEST if malformed else _BAD, detail, errors)


def _pointer(problem: str, request: Mapping[str, Any]) -> str:
    """The place that a message of the scorer is about."""
    found = _MESSAGE.match(problem)
    if found is None:
        return "#/histories" if " histories for " in problem else "#"
    path: list[str | int] = list(_PLACES[found["what"]])
    if found["row"] is not None:
        path = ["histories", int(found["row"])]
    path += [name for name in (found["name"], found["member"]) if name is not None]
    path += [int(found["list"])] if found["list"] is not None else []
    path += [int(place) for place in (found["at"] or "").split(", ") if place]
    # A single value stands for a list of one: there the place ends.
    inside: Any = request
    for depth, step in enumerate(path):
        if isinstance(step, int) and not _is_sequence(inside):
            return _joined(path[:depth])
        inside = inside[step] if _holds(inside, step) else None
    return _joined(path)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or (isinstance(value, Tensor) and value.dim() > 0)


def _holds(container: Any, step: str | int) -> bool:
    if isinstance(step, int):
        return _is_sequence(container) and step < len(container)
    return isinstance(container, Mapping) and step in container


def _joined(path: Sequence[str | int]) -> str:
    steps = [str(step).replace("~", "~0").replace("/", "~1") for step in path]
    return "#" + "".join(f"/{step}" for step in steps)
