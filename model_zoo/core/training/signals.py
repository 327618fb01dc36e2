"""Signals that ask a training to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def noting_signals(note: Callable[[int], None]) -> Iterator[None]:
    """Call ``note`` with the number of each SIGTERM and Ctrl-C, which then end nothing.

    Python handles signals in its main thread only; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, lambda received, frame: note(received))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
