"""uvicorn's protocol with bounds on what the application never sees: heads, and unread answers."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0
HEAD_BYTES = 2**16
ANSWER_SECONDS = 30.0


class Bounded(HttpToolsProtocol):
    """Closes a connection whose head takes longer than 10 seconds, or more than 64 KiB.

    And one whose client does not read: what cannot be sent within 30 seconds is dropped. What the
    system's own buffers take counts as sent.
    """

    _timer: asyncio.TimerHandle | None = None  # while a head is awaited
    _head_bytes = 0
    _unread: asyncio.TimerHandle | None = None  # while answers wait to be sent

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin()

    def on_headers_complete(self) -> None:
        self._end()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.transport.close()
        self._bound_closing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_expecting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._bound_closing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._bound_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        self._stop_expecting()
        super().connection_lost(exc)

    def _begin(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._close)

    def _end(self) -> None:
        self._head_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        self.transport.close()
        self._bound_closing()

    def _bound_closing(self) -> None:
        """A connection closes when all is sent, which without a reader is never."""
        if self.transport.is_closing():
            self._expect_reading()

    def _expect_reading(self) -> None:
        if self._unread is None:
            self._unread = self.loop.call_later(ANSWER_SECONDS, self.transport.abort)

    def _stop_expecting(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
