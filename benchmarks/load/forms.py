"""The forms of the service, each in processes of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.serving.network.conftest import OWNER
from tests.serving.network.processes import serving
from tests.serving.network.ray_server import ray_serving


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
def light(folded: Path, workers: int, **limits: int) -> Iterator[Running]:
    """``qin-serve``."""
    flags = [
        text
        for name, value in limits.items()
        for text in (f"--{name.replace('_', '-')}", str(value))
    ]
    with serving(folded, "--workers", str(workers), *flags) as server:
        yield Running(server.url, server.process.pid)


@contextmanager
def on_ray(folded: Path, workers: int, **limits: int) -> Iterator[Running]:
    """Ray Serve, with a proxy, a controller and so many replicas on this machine."""
    with ray_serving(folded, {"num_replicas": workers}, limits=limits) as (url, pid):
        yield Running(url, pid)


FORMS: dict[str, Form] = {"light": light, "ray": on_ray}
