"""Heads of requests that do not end, or end too late."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from model_zoo.core.serving.network import protocol
from model_zoo.core.serving.network.protocol import BoundedHead

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]
HEAD = b"GET / HTTP/1.1\r\nhost: a\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def said(talk: Talk) -> bytes:
    """What a server on the loopback answers to a client."""

    async def run() -> bytes:
        config = uvicorn.Config(app, http=BoundedHead, lifespan="off", log_config=None, port=0)
        server = uvicorn.Server(config)
        config.load()
        serving = asyncio.create_task(server._serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            return await asyncio.wait_for(talk(reader, writer), 20)
        finally:
            writer.close()
            server.should_exit = True
            await serving

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
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        answers = b""
        for _ in range(3):
            await asyncio.sleep(0.2)  # longer than a head may take, in all
            writer.write(HEAD + b"\r\n")
            answers += await reader.readuntil(b"\r\n\r\n")
        for byte in HEAD:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)
            if reader.at_eof():
                break
        return answers + await reader.read()

    assert said(talk).count(b" 204 ") == 3
