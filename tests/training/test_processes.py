"""Two gloo processes, started by torchrun, do what one process does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch

from model_zoo.core.commands.experiment import run_experiment
from model_zoo.core.errors import InputError
from tests.conftest import ROOT
from tests.data.test_loader import load

MODEL = Path("checkpoints/MicroLens_demo/QIN_test.model")
HISTORY = MODEL.with_suffix(".history.csv")


def torchrun(*arguments: str, settings: list[str], **options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", *(f"--{k}={v}" for k, v in options.items())]
    command += [str(ROOT / "run_expid.py"), "--config", "config", "--expid", "QIN_test"]
    return subprocess.Popen(
        [*command, *arguments, "--set", *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_to_the_end(settings: list[str]) -> None:
    process = torchrun(settings=settings)
    output = process.communicate(timeout=180)[0]
    assert process.returncode == 0, output


def test_losses_and_auc_are_those_of_one_process(workspace: Path) -> None:
    """21 steps, an incomplete last batch (and group) in each epoch."""
    settings = ["net_dropout=0.", "batch_norm=False", "eval_steps=1", "batch_size=90"]
    settings += ["epochs=3", "early_stop_patience=99", "embedding_regularizer=1.e-3"]
    # With the rate halved at every step, predictions stay so close that rounding orders them.
    settings += ["reduce_lr_on_plateau=False"]
    run_experiment("config", "QIN_test", overrides=settings)
    one, weights = pl.read_csv(HISTORY), torch.load(MODEL, weights_only=True)
    run_to_the_end(settings)
    two, other = pl.read_csv(HISTORY), torch.load(MODEL, weights_only=True)
    assert len(one) == len(two) == 21
    assert (one["train_loss"] - two["train_loss"]).abs().max() <= 1e-5
    assert (one["AUC"] - two["AUC"]).abs().max() <= 1e-9
    for name, tensor in weights.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-5, rtol=1e-4)
    lines = Path("config.csv").read_text().splitlines()
    assert len(lines) == 2  # the main process alone writes
    assert lines[0].split("[val]")[1] == lines[1].split("[val]")[1]


def test_accumulation_in_two_processes(workspace: Path) -> None:
    settings = ["net_dropout=0.", "batch_norm=False", "batch_size=70", "accumulation_steps=4"]
    run_experiment("config", "QIN_test", overrides=settings)
    one = pl.read_csv(HISTORY)
    run_to_the_end(settings)
    two = pl.read_csv(HISTORY)
    torch.testing.assert_close(two.to_torch(), one.to_torch(), atol=1e-5, rtol=1e-5)


def children(process: subprocess.Popen[str]) -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def kill_one_when_it_trains(process: subprocess.Popen[str]) -> None:
    state, deadline = MODEL.with_suffix(".state"), time.monotonic() + 90
    while not state.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(children(process)[1], signal.SIGKILL)


LONG = ["epochs=40", "batch_size=100", "early_stop_patience=99", "checkpoint_minutes=null"]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")
def test_one_killed_process_ends_all(workspace: Path) -> None:
    process = torchrun(settings=[*LONG, "epochs=100000"])
    kill_one_when_it_trains(process)
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert "Signal 9 (SIGKILL)" in output


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")
def test_a_restart_resumes(workspace: Path) -> None:
    process = torchrun("--resume", settings=LONG, max_restarts="1")
    kill_one_when_it_trains(process)
    output = process.communicate(timeout=180)[0]
    assert process.returncode == 0, output
    assert "Resumed in epoch" in output
    assert len(pl.read_csv(HISTORY)) == 40


def test_parts_make_up_the_batch(workspace: Path) -> None:
    """A last batch that is too small for all joins the one before."""
    parts = [list(load(batch_size=199, shuffle=True, share=(r, 4))[0]) for r in range(4)]
    whole = list(load(batch_size=199, shuffle=True, share=(0, 1))[0])
    assert [len(batch["item_id"]) for batch in whole] == [199, 199, 199, 3]
    rows = torch.cat([batch["item_id"] for batch in whole])
    together = [torch.cat([p[i]["item_id"] for p in parts]) for i in range(len(parts[0]))]
    assert [len(batch) for batch in together] == [199, 199, 202]
    assert torch.equal(torch.cat(together), rows)
    for batches in parts:
        assert [int(batch["batch_rows"]) for batch in batches] == [199, 199, 202]


def test_streamed_parts_make_up_the_batch(workspace: Path) -> None:
    settings = {"folder": True, "batch_size": 100, "shuffle": True}
    parts = [list(load(**settings, share=(r, 3))[0]) for r in range(3)]
    whole = torch.cat([batch["item_id"] for batch in load(**settings)[0]])
    together = [torch.cat([p[i]["item_id"] for p in parts]) for i in range(len(parts[0]))]
    assert torch.equal(torch.cat(together), whole)


def test_too_small_a_batch_is_refused(workspace: Path) -> None:
    with pytest.raises(InputError, match="batch_size is 7, but 4 processes need 2 rows each"):
        load(batch_size=7, share=(0, 4))
