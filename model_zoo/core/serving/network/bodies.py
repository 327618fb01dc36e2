"""Bodies of requests, read within limits: too large or too slow ones are refused as they arrive."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from starlette.requests import ClientDisconnect, Request

from model_zoo.core.serving.network.refusals import Refusal
from model_zoo.core.serving.network.settings import Limits


class Bodies:
    """The bodies that are in memory, of one process.

    Args:
        limits: Of one body, of all of them, and of a client's time.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body, which counts until the end of the block.

        Raises:
            Refusal: If it is too large or too slow, or there are too many.
        """
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._limits.max_body_bytes:
            raise self._too_large(f"found {int(length):,} bytes")
        body = bytearray()
        try:
            with anyio.fail_after(self._limits.body_seconds):
                async for piece in request.stream():
                    body += piece
                    self._open += len(piece)
                    if len(body) > self._limits.max_body_bytes:
                        raise self._too_large("found more")
                    if self._open > self._limits.max_open_bytes:
                        detail = "too many requests at a time: their bodies take too much memory"
                        raise Refusal(503, detail, retry_after=1, close=True)
            yield bytes(body)
        except TimeoutError:
            limit = f"{self._limits.body_seconds:g} seconds"
            raise Refusal(408, f"the body did not arrive within {limit}", close=True) from None
        except ClientDisconnect:
            raise Refusal(400, "the body was cut: the client has gone", close=True) from None
        finally:
            self._open -= len(body)

    def _too_large(self, found: str) -> Refusal:
        limit = f"expected at most {self._limits.max_body_bytes:,} in a body"
        return Refusal(413, f"{found}, {limit}", close=True)
