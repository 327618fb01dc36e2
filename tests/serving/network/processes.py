"""Servers in processes of their own, on free ports of the loopback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.conftest import ROOT
from tests.serving.network.conftest import TOKEN

START_SECONDS = 120
TIMEOUT = 60  # seconds for an answer, on a machine with other work


class Server:
    """``qin-serve`` in a process group of its own; its log gathers in ``lines``."""

    def __init__(self, folded: Path, *arguments: str, port: int = 0) -> None:
        token = folded.with_name("token")
        if not token.exists():
            token.write_text(TOKEN)
            token.chmod(0o600)
        command = [sys.executable, "-m", "model_zoo.core.commands.service"]
        command += ["--folded", str(folded), "--port", str(port), "--token-file", str(token)]
        self.process = subprocess.Popen(
            [*command, "--threads", "1", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self._wait_for(r"at (http://\S+)")

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())

    def _wait_for(self, pattern: str) -> str:
        stop = time.monotonic() + START_SECONDS
        while time.monotonic() < stop:
            for line in list(self.lines):
                if found := re.search(pattern, line):
                    return found[1]
            assert self.process.poll() is None, self.lines
            time.sleep(0.02)
        raise AssertionError(self.lines)

    def wait_ready(self) -> None:
        """Until a request is answered."""
        stop = time.monotonic() + START_SECONDS
        while time.monotonic() < stop:
            try:
                if httpx.get(f"{self.url}/ready", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError(self.lines)

    def workers(self) -> list[int]:
        """Processes that answer requests, of a server with several."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended
            if int(parent) == self.process.pid and b"spawn_main" in command:
                found.append(int(folder.name))
        return found

    def is_whole(self) -> bool:
        """Whether there are two processes that answer requests, or begin to."""
        return len(self.workers()) == 2

    def kill(self) -> None:
        """All of its processes at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(TIMEOUT)


@contextmanager
def serving(folded: Path, *arguments: str) -> Iterator[Server]:
    server = Server(folded, *arguments)
    try:
        server.wait_ready()
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()
