"""Headless Chromium, driven over its own protocol, and a server for it."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn

from model_zoo.core.serving.network.app import build_app
from model_zoo.core.serving.network.finding import Titles
from tests.serving.network.conftest import make_service

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--remote-debugging-port=0", "--remote-debugging-address=127.0.0.1"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "about:blank",
]
SECONDS = 60
KEYS = {"Enter": 13, "ArrowDown": 40, "ArrowUp": 38, "Escape": 27, "Tab": 9, " ": 32}
TEXT = {"Enter": "\r", " ": " "}


class Browser:
    """One tab.

    Attributes:
        errors: What its console said was wrong.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._ids = socket, count(1)
        self.errors: list[str] = []

    async def call(self, method: str, **parameters: Any) -> Any:
        """What a method of the protocol returns."""
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = json.loads(await self._socket.receive_str(timeout=SECONDS))
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(json.dumps(message["params"]))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    async def value(self, expression: str) -> Any:
        """What an expression is in the page."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def wait_for(self, expression: str) -> Any:
        """Until it is true, which is what it gives."""
        for _ in range(SECONDS * 20):
            if found := await self.value(expression):
                return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"never: {expression}; {self.errors}")

    async def press(self, key: str) -> None:
        """A key."""
        named = {"key": key, "windowsVirtualKeyCode": KEYS[key], "text": TEXT.get(key, "")}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **named)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    async def write(self, text: str) -> None:
        """Into what has the focus."""
        await self.call("Input.insertText", text=text)

    async def open(self, url: str, width: int, *, dark: bool = False) -> None:
        """A page, as wide as that many pixels."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call("Page.navigate", url=url)

    async def picture(self, path: Path) -> None:
        """All of the page, as a PNG."""
        found = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """A tab of a browser of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [str(CHROMIUM), f"--user-data-dir={profile}", *OPTIONS],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = await _port(Path(profile) / "DevToolsActivePort")
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                    tabs = await answer.json()
                address = next(tab for tab in tabs if tab["type"] == "page")["webSocketDebuggerUrl"]
                async with session.ws_connect(address, max_msg_size=0) as socket:
                    browser = Browser(socket)
                    for domain in ("Page", "Runtime", "Log"):
                        await browser.call(f"{domain}.enable")
                    yield browser
        finally:
            process.kill()
            process.wait()


async def _port(file: Path) -> int:
    for _ in range(SECONDS * 20):
        if file.exists() and (text := file.read_text().split()):
            return int(text[0])
        await asyncio.sleep(0.05)
    raise AssertionError("Chromium did not start")


@contextmanager
def address(path: Path, titles: Titles) -> Iterator[str]:
    """A server in a thread, on a free port of the loopback."""
    app = build_app(make_service(path), None, titles=titles)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        stop = time.monotonic() + 60
        while not server.started and time.monotonic() < stop:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join()
