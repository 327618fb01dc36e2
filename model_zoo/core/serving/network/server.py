"""The service for one machine: uvicorn, in one process or several that share a socket."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
from functools import partial
from multiprocessing import connection
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from model_zoo.core.errors import InputError, first_line
from model_zoo.core.serving.network.app import build_app
from model_zoo.core.serving.network.finding import Titles
from model_zoo.core.serving.network.metrics import FOLDER, Metrics
from model_zoo.core.serving.network.models import Models
from model_zoo.core.serving.network.protocol import Bounded
from model_zoo.core.serving.network.service import Service
from model_zoo.core.serving.network.settings import Settings

logger = logging.getLogger(__name__)
LOGGED = "%(asctime)s %(levelname)s [%(process)d] %(message)s"
WAITING = 2_048  # connections that the kernel holds until they are accepted
STOP_SECONDS = 10


def serve(settings: Settings) -> None:
    """Serve until a signal ends it; requests that have been accepted are answered.

    Raises:
        InputError: If the file, what lies beside it, or the address is wrong.
    """
    listening = _socket(settings.host, settings.port)
    with listening:
        # Also with several processes, so that a mistake is said once, and before any of them.
        models, titles = _models(settings), Titles.read(settings.titles)
        host, port = listening.getsockname()[:2]
        where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        print(f"Serving {models.served.path} ({models.served.digest}) at {where}", file=sys.stderr)
        if settings.workers == 1:
            service = Service(models, settings.limits, Metrics())
            app = build_app(service, settings.token, reload_on_hangup=True, titles=titles)
            uvicorn.Server(_config(app)).run(sockets=[listening])
            return
        del models, titles
        with tempfile.TemporaryDirectory(prefix="qin-serve-") as folder:
            os.environ[FOLDER] = folder
            config = _config(partial(_worker_app, settings), factory=True, workers=settings.workers)
            _Workers(config, sockets=[listening]).run()


class _Workers(Multiprocess):
    """Processes that are started again when they end."""

    def keep_subprocess_alive(self) -> None:
        """Without asking those that live: one answers only when torch has been imported."""
        for place, process in enumerate(self.processes):
            if not process.process.is_alive() and not self.should_exit.is_set():
                process.join()
                logger.error("Process %s ended with %s", process.pid, process.exitcode)
                self.processes[place] = Process(self.config, self.sockets)
                self.processes[place].start()

    def handle_hup(self) -> None:
        """Each reads the served file again; none is ended."""
        for process in self.processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGHUP)


def _worker_app(settings: Settings) -> FastAPI:
    """Runs in each process, when it starts."""
    logging.basicConfig(level=logging.INFO, format=LOGGED)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        models, titles = _models(settings), Titles.read(settings.titles)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    service = Service(models, settings.limits, Metrics())
    return build_app(service, settings.token, reload_on_hangup=True, titles=titles)


def _end_with_parent() -> None:
    """A parent that was killed could not end its processes, which would keep the address."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _models(settings: Settings) -> Models:
    torch.set_num_threads(settings.threads)
    try:
        torch.zeros(1, device=settings.device)
    except (RuntimeError, AssertionError) as error:  # torch says either
        raise InputError(
            f"--device {settings.device}: cannot be used here: {first_line(error)}"
        ) from None
    return Models(settings.folded, writable=settings.token is not None, device=settings.device)


def _config(app: Any, **settings: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Bounded,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=STOP_SECONDS,
        **settings,
    )


def _socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=WAITING)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{host}:{port}: cannot listen there: {why}") from None
