"""Parts of the benchmark in a process of their own: none takes another with it.

A recording that breaks, a kernel that writes where it may not, or a compiler that hangs leaves a
process that can compute nothing more on its device. So one process runs part after part, and after
one that failed, died or took too long a new one goes on with the next.
"""

from __future__ import annotations

import gc
import multiprocessing
import sys
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.gpu.ray_standin import stand_in_for_ray

_ENDS_WITHIN = 5.0  # seconds that a process is given to end by itself


class PartError(Exception):
    """A part has no result; says why."""


class Here:
    """Runs parts in this process: for a device that cannot break."""

    def run(self, function: Callable[..., Any], arguments: Sequence[Any], seconds: float) -> Any:
        """The result of a part; ``seconds`` are a :class:`Worker`'s."""
        try:
            return function(*arguments)
        except Exception as error:  # the other parts are to be run
            traceback.print_exc()
            raise PartError(_text(error)) from error

    def stop(self) -> None:
        """Nothing is left behind."""


class Worker:
    """Runs parts in another process, which is there from the first to :meth:`stop`."""

    def __init__(self) -> None:
        self._process: Any = None
        self._pipe: Connection | None = None

    def run(self, function: Callable[..., Any], arguments: Sequence[Any], seconds: float) -> Any:
        """The result of a part.

        Args:
            function: Of a module, so that its name says which it is.
            arguments: That can be sent to a process, as its result can.
            seconds: After which the process is ended.

        Raises:
            PartError: If it raised, took longer, or its process died.
        """
        if self._pipe is None:
            self._start()
        pipe = self._pipe
        assert pipe is not None
        try:
            pipe.send((function, tuple(arguments)))
            if not pipe.poll(seconds):
                self._end(wait=0.0)
                raise PartError(f"ended after {seconds:.0f} s without a result")
            succeeded, result = pipe.recv()
        except (EOFError, OSError):
            code = self._end(wait=_ENDS_WITHIN)
            raise PartError(f"its process died with exit code {code}") from None
        if not succeeded:
            self._end(wait=_ENDS_WITHIN)
            raise PartError(result)
        return result

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._end(wait=_ENDS_WITHIN)

    def _start(self) -> None:
        # A fork would have a CUDA that cannot be used.
        spawning = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawning.Pipe()
        self._process = spawning.Process(target=_serve, args=(theirs,))
        self._process.start()
        theirs.close()  # so that its death shows as the end of the pipe

    def _end(self, *, wait: float) -> int | None:
        """Forget the process, which ends with its pipe or after ``wait`` seconds; its exit code."""
        process, pipe = self._process, self._pipe
        self._process = self._pipe = None
        pipe.close()
        process.join(wait)
        process.kill()
        process.join(_ENDS_WITHIN)
        code: int | None = process.exitcode
        return code


def _serve(pipe: Connection) -> None:
    """Run what comes through the pipe until it ends."""
    stand_in_for_ray()  # before FuxiCTR is imported, by what comes
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = True, function(*arguments)
        except Exception as error:  # said by the process that reports
            traceback.print_exc()
            answer = False, _text(error)
        pipe.send(answer)
        _forget()


def _forget() -> None:
    """Let the next part find the memory, and the compiler, as the first one did."""
    gc.collect()  # a model and its recorded steps know each other
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
