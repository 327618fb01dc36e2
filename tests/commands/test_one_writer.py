"""One process at a time writes an experiment's files; everyone may read them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import prediction
import run_expid
from model_zoo.core import locks
from model_zoo.core.commands import serving
from model_zoo.core.errors import InputError
from model_zoo.core.locks import held
from tests.conftest import ROOT

ARGUMENTS = ["--config", "config", "--expid", "QIN_test"]
FOLDER = Path("checkpoints/MicroLens_demo")
LOCK = FOLDER / "QIN_test.lock"
HOLD = """
import sys, time
from model_zoo.core.locks import held
with held(sys.argv[1], "it"):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def another_process(lock: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_second_writer_is_refused_and_readers_are_not(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_expid.main(ARGUMENTS) == 0
    assert not LOCK.exists()
    capsys.readouterr()
    with another_process(LOCK) as process:
        before = contents(workspace)
        for writer in (
            lambda: run_expid.main(ARGUMENTS),
            lambda: run_expid.main([*ARGUMENTS, "--resume"]),
            lambda: serving.main(["fold", *ARGUMENTS]),
            lambda: serving.main(["export", *ARGUMENTS, "--format", "torch"]),
        ):
            assert writer() == 2
            error = capsys.readouterr().err
            assert error.startswith("error: experiment 'QIN_test' in checkpoints/")
            assert f"process {process.pid} on" in error
            assert contents(workspace) == before
        assert prediction.main(ARGUMENTS) == 0
        test = "data/MicroLens_demo/test.parquet"
        assert prediction.main([*ARGUMENTS, "--input", test, "--output", "scores.csv"]) == 0
        # Another root is another experiment.
        assert run_expid.main([*ARGUMENTS, "--set", "model_root=elsewhere"]) == 0
    # Killed: its file is there, and locks nothing.
    assert LOCK.exists()
    assert serving.main(["fold", *ARGUMENTS]) == 0
    assert not LOCK.exists()


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / "it.lock"
    with another_process(lock) as process:
        with pytest.raises(InputError, match=rf"process {process.pid} on"), held(lock, "it"):
            pytest.fail("the lock was held twice")
        process.send_signal(signal.SIGKILL)
        process.wait()
        with held(lock, "it"):
            assert lock.read_text().split()[0] == str(os.getpid())
    assert not lock.exists()


def test_an_error_gives_the_lock_back(tmp_path: Path) -> None:
    lock = tmp_path / "it.lock"
    with pytest.raises(KeyError), held(lock, "it"):
        raise KeyError
    with held(lock, "it"):
        pass


def test_of_many_at_once_one_writes_at_a_time(tmp_path: Path) -> None:
    """The file is removed and made anew all the time; two never hold it together."""
    code = """
import os, time
from model_zoo.core.errors import InputError
from model_zoo.core.locks import held
end = time.monotonic() + 1.5
while time.monotonic() < end:
    try:
        with held("it.lock", "it"):
            os.close(os.open("alone", os.O_CREAT | os.O_EXCL))
            os.unlink("alone")
    except InputError:
        pass
print("fine")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    assert [process.communicate()[0].strip() for process in processes] == [b"fine"] * 3
    assert list(tmp_path.iterdir()) == []


def test_without_locks_a_warning_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    locks._say_unlocked.cache_clear()
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        with held(tmp_path / "it.lock", "it"):
            pass
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "No lock is held (this platform has no file locks)"
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"), held(tmp_path / "no/it", "it"):
        pytest.fail("there is no such folder")
