"""A search that is killed, or asked to stop, goes on and ends as one that was not."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import run_param_tuner
from tests.commands.tuning.made import lines, record, tuner_file
from tests.conftest import ROOT

pytestmark = pytest.mark.slow
SPACE = {
    "learning_rate": [0.001, 0.004, 1e30],  # the last gives NaN
    "num_row": [1, 2],
    "batch_size": 10,
    "epochs": 4,
    "early_stop_patience": 9,
}
SAME = ("rank", "trial", "status", "valid AUC", "valid logloss", "epochs", "failures")


def started(name: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "run_param_tuner.py"), "--config", f"{name}.yaml"]
    return subprocess.Popen(
        [*command, "--gpu", "-1", "-1", *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(condition: Callable[[], bool], search: subprocess.Popen[str]) -> None:
    while not condition():
        assert search.poll() is None, search.communicate()[0]
        time.sleep(0.05)


def states() -> int:
    return len(list(Path("checkpoints/MicroLens_demo").glob("*.state")))


def status(name: str) -> list[str]:
    found = Path(name, "trials").glob("QIN*.json")
    return sorted(record(Path(name), path.stem)["status"] for path in found)


def test_a_killed_search_goes_on_and_gives_the_same_table(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuner_file("killed.yaml", tuner_space=SPACE)
    search = started("killed")
    wait_until(lambda: states() >= 2, search)
    search.kill()
    search.communicate()
    begun = status("killed")
    assert "started" in begun

    search = started("killed")  # at once: the trials may still be saving their states
    wait_until(lambda: status("killed").count("finished") > begun.count("finished"), search)
    search.send_signal(signal.SIGINT)
    output, _ = search.communicate()
    assert search.returncode == 130
    assert "stopped by SIGINT; the same command goes on from there" in output

    search = started("killed")
    output, _ = search.communicate()
    assert search.returncode == 0, output
    resumed = [p.read_text() for p in Path("killed/trials").glob("*.out")]
    assert any("Resumed in epoch" in text for text in resumed)

    tuner_file("whole.yaml", tuner_space={**SPACE, "model_root": "elsewhere"})
    options = ["--config", "whole.yaml", "--gpu", "-1", "-1"]
    assert run_param_tuner.main(options) == 0
    killed, whole = lines(Path("killed")), lines(Path("whole"))
    assert [{k: line[k] for k in SAME} for line in killed] == [
        {k: line[k] for k in SAME} for line in whole
    ]
    # Four are ranked; the two that cannot work are explained.
    assert [line["status"] for line in whole] == ["finished"] * 4 + ["failed"] * 2
    assert all(line["error"] and line["learning_rate"] == "1e+30" for line in whole[-2:])


def test_a_search_that_stops_weak_trials_is_interrupted_and_goes_on(workspace: Path) -> None:
    pytest.importorskip("ray.tune", reason="no Ray Tune: pip install '.[tune]'")
    space = {"learning_rate": [0.001, 0.004], "num_row": [1, 2], "batch_size": 20}
    tuner_file("weak.yaml", tuner_space={**space, "epochs": 3, "early_stop_patience": 9})
    here_before = processes_here()
    search = started("weak", "--prune")
    wait_until(lambda: "started" in status("weak") and states() > 0, search)
    assert processes_here() > here_before
    search.send_signal(signal.SIGINT)
    output, _ = search.communicate()
    assert search.returncode == 130, output
    # Python's own word of a semaphore of the processes that were ended may follow.
    assert "\nstopped by SIGINT; the same command goes on from there\n" in output
    assert "Traceback" not in output
    wait_for_no_process_but(here_before)
    assert "started" in status("weak")

    options = ["--config", "weak.yaml", "--gpu", "-1", "-1"]
    assert run_param_tuner.main([*options, "--prune"]) == 0
    assert any("Resumed in epoch" in path.read_text() for path in Path("weak").glob("*/*.out"))
    found = lines(Path("weak"))
    assert {line["status"] for line in found} == {"finished", "pruned"}
    for line in found:
        assert (float(line["epochs"]) == 3) == (line["status"] == "finished")
    # What was stopped keeps its state, and goes on without --prune.
    assert run_param_tuner.main(options) == 0
    assert [(line["status"], line["epochs"]) for line in lines(Path("weak"))] == [
        ("finished", "3.0")
    ] * 4


def processes_here() -> set[int]:
    """Trials, and what they are forked from, whose working directory this is."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            here = (path / "cwd").readlink() == Path.cwd()
            if here and b"multiprocessing.forkserver" in (path / "cmdline").read_bytes():
                found.add(int(path.name))
    return found


def wait_for_no_process_but(before: set[int]) -> None:
    until = time.monotonic() + 10
    while processes_here() - before:
        assert time.monotonic() < until, processes_here() - before
        time.sleep(0.05)


def test_one_search_at_a_time(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuner_file("killed.yaml", tuner_space=SPACE)
    search = started("killed")
    try:
        wait_until(lambda: Path("killed/.lock").is_file() and bool(status("killed")), search)
        assert run_param_tuner.main(["--config", "killed.yaml"]) == 2
        assert f"the search in killed is being written by process {search.pid}" in (
            capsys.readouterr().err
        )
    finally:
        search.terminate()
        assert "goes on from there\n" in search.communicate()[0]
    assert search.returncode == 143
