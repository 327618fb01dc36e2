"""Where the trials' processes come from; importing this takes no time."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from pathlib import Path

WORKER = "model_zoo.core.commands.tuning.worker"
ROOT = Path(__file__).resolve().parents[4]
SLOW_IMPORTS = ("torch._dynamo", "matplotlib.figure")  # which every training comes to need


def processes() -> BaseContext:
    """Processes that begin with all imports done, where the platform has such.

    The process that they are forked from is started by the first call, which does not wait for
    its imports: they can be under way while this process does its own. It must find this
    project, not the folder of the same name that FuxiCTR installs, before it is told where.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver  # not on Windows

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([WORKER, *SLOW_IMPORTS])
    with environment(PYTHONPATH=python_path(), PYTHONSAFEPATH="1"):
        forkserver.ensure_running()
    return context


def python_path() -> str:
    """``PYTHONPATH`` of processes that are to find this project first."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Environment variables during the block; all are as before at its end."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
