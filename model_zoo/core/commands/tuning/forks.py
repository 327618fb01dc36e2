"""Where the trials' processes come from; importing this takes no time."""

from __future__ import annotations

import multiprocessing
import os
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
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    before = dict(os.environ)
    os.environ.update(PYTHONPATH=path, PYTHONSAFEPATH="1")
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context
