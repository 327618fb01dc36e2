"""Bodies of requests, read within limits: too large or too slow ones are refused as they arrive.

And answers, which take memory until they are read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from model_zoo.core.serving.network.refusals import Refusal
from model_zoo.core.serving.network.settings import Limits

BUFFERED = 2**16  # bytes of an answer that a server's buffers may hold


class Bodies:
    """The bodies of requests and the answers that are in memory, of one process.

    Args:
        limits: Of one body, of all of them, of all answers, and of a client's time.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open = 0  # bytes of requests
        self._unread = 0  # bytes of answers

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

    def answer(self, content: bytes, media_type: str) -> Response:
        """An answer, which counts while it waits for its client to read it.

        Raises:
            Refusal: If those that wait, but for small ones, take too much memory already.
        """
        size = len(content)
        if size <= BUFFERED:
            return Response(content, media_type=media_type)
        if self._unread and self._unread + size > self._limits.max_open_bytes:
            detail = "too many requests at a time: answers that were not read take too much memory"
            raise Refusal(503, detail, retry_after=1)
        return _Counted(self, content, media_type)

    @contextmanager
    def unread(self, size: int) -> Iterator[None]:
        """So many bytes of an answer are in memory during the block."""
        self._unread += size
        try:
            yield
        finally:
            self._unread -= size

    def _too_large(self, found: str) -> Refusal:
        limit = f"expected at most {self._limits.max_body_bytes:,} in a body"
        return Refusal(413, f"{found}, {limit}", close=True)


class _Counted(Response):
    def __init__(self, bodies: Bodies, content: bytes, media_type: str) -> None:
        super().__init__(content, media_type=media_type)
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._bodies.unread(len(self.body)):
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
            await send({"type": "http.response.body", "body": self.body, "more_body": True})
            # A server takes nothing more until the client has read, or the connection is cut.
            await send({"type": "http.response.body", "body": b"", "more_body": False})
