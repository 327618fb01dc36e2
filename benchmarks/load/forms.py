"""The forms of the service, each in processes of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.serving.network.conftest import OWNER
from tests.serving.network.processes import serving


@dataclass(frozen=True)
class Running:
    """A server.

    Attributes:
        url: Where it answers.
        pid: Its first process.
        owner: Headers of requests that change something.
    """

    url: str
    pid: int
    owner: dict[str, str] = field(default_factory=lambda: dict(OWNER))

    def metrics(self) -> str:
        return httpx.get(f"{self.url}/metrics", timeout=30).text


Form = Callable[..., AbstractContextManager[Running]]


@contextmanager
def light(folded: Path, workers: int, *limits: str) -> Iterator[Running]:
    """``qin-serve``."""
    with serving(folded, "--workers", str(workers), *limits) as server:
        yield Running(server.url, server.process.pid)


FORMS: dict[str, Form] = {"light": light}
