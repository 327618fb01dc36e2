"""Small folded files, and services of them in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from model_zoo.core.serving.file import FoldedFile, save_folded
from model_zoo.core.serving.ids import Ids
from model_zoo.core.serving.network.app import build_app
from model_zoo.core.serving.network.metrics import Metrics
from model_zoo.core.serving.network.models import Models
from model_zoo.core.serving.network.service import Service
from model_zoo.core.serving.network.settings import Limits
from tests.serving.made import make_model

TOKEN = "a token of the tests".replace(" ", "-")
OWNER = {"authorization": f"Bearer {TOKEN}"}
CONTEXT: dict[str, Any] = {
    "level": 1,
    "hour": 2,
    "age": -0.5,
    "likes": [[3, 8]],
    "seen": [[]],
    "profile": [[0.1, 0.2, 0.3, 0.4, 0.5]],
}
REQUEST = {"history": [3, 8, 5, 9], "candidates": [1, 2, 7], "context": CONTEXT}


def write_folded(path: Path, *, seed: int = 0, model: str = "QIN", **content: Any) -> Path:
    """A folded file of a small model; other seeds are other models of the same inputs."""
    torch.manual_seed(seed)
    folded = make_model(path.parent, model=model).fold()
    save_folded(path, FoldedFile(folded, content.pop("ids", Ids("item_id")), 100, **content))
    return path


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """A service sets its process's threads; with others, sums have other last bits."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folded(tmp_path: Path) -> Path:
    return write_folded(tmp_path / "model.folded")


def make_service(path: Path, limits: Limits | None = None, *, writable: bool = True) -> Service:
    return Service(Models(path, writable=writable), limits or Limits(), Metrics())


@asynccontextmanager
async def client_of(
    service: Service, token: str | None = TOKEN
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, in this process and without a socket."""
    app = build_app(service, token)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        yield client
