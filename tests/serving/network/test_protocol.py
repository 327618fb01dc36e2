"""Heads of requests that do not end, or end too late; answers that nobody reads."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
import uvloop

from model_zoo.core.serving.network import protocol
from model_zoo.core.serving.network.protocol import Bounded
from tests.serving.network.test_limits import until

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]
HEAD = b"GET / HTTP/1.1\r\nhost: a\r\n"
LARGE = 2**25  # bytes; more than the system takes for a client that does not read
WAIT = 60.0


async def app(scope: Any, receive: Any, send: Any) -> None:
    """``/`` has no content, ``/large`` much; ``/slow`` ends when the client has read."""
    if scope["path"] == "/":
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})
        return
    length = (b"content-length", str(LARGE).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    slow = scope["path"] == "/slow"
    await send({"type": "http.response.body", "body": bytes(LARGE), "more_body": slow})
    if slow:
        await send({"type": "http.response.body"})


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[tuple[uvicorn.Server, int]]:
    """A server on the loopback, and its port."""
    config = uvicorn.Config(app, http=Bounded, lifespan="off", log_config=None, port=0)
    server = uvicorn.Server(config)
    config.load()
    serving = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server, server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


def said(talk: Talk) -> bytes:
    """What a server on the loopback answers to a client."""

    async def run() -> bytes:
        async with running() as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                return await asyncio.wait_for(talk(reader, writer), WAIT)
            finally:
                writer.close()

    return asyncio.run(run())


def test_an_endless_head_is_cut_off() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(HEAD)
        writer.write(b"a: b\r\n" * 20_000)
        try:
            return await reader.read()  # to the end of the connection
        except ConnectionError:
            return b""

    assert said(talk) == b""


def test_a_slow_head_is_cut_off_and_a_connection_may_be_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        answers = b""
        for wait in (0, 0.7, 0.7):  # longer than a head may take: between two there is none
            await asyncio.sleep(wait)
            writer.write(HEAD + b"\r\n")
            answers += await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)  # and no end of it
        return answers + await reader.read()

    assert said(talk).count(b" 204 ") == 3


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("connection", ["keep-alive", "close"])
@pytest.mark.parametrize(("path", "requests"), [("/large", 1), ("/slow", 1), ("/large", 3)])
def test_a_client_that_does_not_read_is_cut_off(
    loop: Callable[[], asyncio.AbstractEventLoop],
    connection: str,
    path: str,
    requests: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "ANSWER_SECONDS", 0.3)
    head = f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: {connection}\r\n\r\n".encode()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with running() as (server, port):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.setblocking(False)
                await loop.sock_sendall(client, head * requests)
                await until(lambda: len(server.server_state.connections) == 1)
                await until(lambda: not server.server_state.connections)
                await until(lambda: not server.server_state.tasks)
                read = 0
                with contextlib.suppress(ConnectionError):
                    while piece := await loop.sock_recv(client, 2**20):
                        read += len(piece)
                assert read < LARGE  # the rest is gone

    made = loop()
    try:
        made.run_until_complete(run())
    finally:
        made.close()


def test_a_client_that_reads_late_but_in_time_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "ANSWER_SECONDS", WAIT)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
        await asyncio.sleep(0.2)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert len(await reader.readexactly(LARGE)) == LARGE
        writer.write(HEAD + b"connection: close\r\n\r\n")
        return answer + await reader.read()

    assert said(talk).count(b"HTTP/1.1 20") == 2
