"""Parts in a process of their own: what fails, dies or hangs takes no other with it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from benchmarks.gpu.worker import Here, PartError, Worker


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.stop()


def test_one_process_runs_part_after_part(worker: Worker) -> None:
    first = worker.run(os.getpid, (), 60.0)
    assert first not in (os.getpid(), None)
    assert worker.run(max, (2, 3), 60.0) == 3
    assert worker.run(os.getpid, (), 60.0) == first
    for _ in range(2):
        worker.stop()
        assert not is_there(first)


def test_after_a_part_without_a_result_another_process_goes_on(
    worker: Worker, capfd: pytest.CaptureFixture[str]
) -> None:
    before = worker.run(os.getpid, (), 60.0)
    with pytest.raises(PartError, match=r"^ZeroDivisionError: "):
        worker.run(divmod, (1, 0), 60.0)
    assert "Traceback" in capfd.readouterr().err
    with pytest.raises(PartError, match=r"^its process died with exit code 7$"):
        worker.run(os._exit, (7,), 60.0)
    began = worker.run(os.getpid, (), 60.0)
    assert began != before
    with pytest.raises(PartError, match=r"^ended after 0 s without a result$"):
        worker.run(time.sleep, (60.0,), 0.3)
    assert not is_there(began)


def test_in_this_process_an_error_is_one_part_too() -> None:
    with pytest.raises(PartError, match=r"^ZeroDivisionError: "):
        Here().run(divmod, (1, 0), 60.0)
    assert Here().run(divmod, (7, 2), 60.0) == (3, 1)
