"""A training that is interrupted, however, ends like one that is not."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

import run_expid
from model_zoo.core.commands.experiment import run_experiment
from model_zoo.core.errors import InputError
from model_zoo.core.training import state as training_state
from model_zoo.core.training.state import load_state, previous, save_state

# A state after every step, three evaluations an epoch, an incomplete last group.
SETTINGS = [
    "epochs=4",
    "batch_size=50",
    "accumulation_steps=5",
    "eval_steps=4",
    "early_stop_patience=9",
    "checkpoint_minutes=1.e-6",
    "embedding_regularizer=1.e-3",
    "weight_average=0.9",
]
MODEL = Path("checkpoints/MicroLens_demo/QIN_test.model")
STATE = MODEL.with_suffix(".state")
HISTORY = MODEL.with_suffix(".history.csv")


def train(folder: Path, *, resume: bool, settings: list[str] = SETTINGS) -> None:
    """In a process of its own: one thread, so that sums have one order."""
    os.chdir(folder)
    torch.set_num_threads(1)
    run_experiment("config", "QIN_test", overrides=settings, resume=resume)


def start(folder: Path, *, resume: bool) -> multiprocessing.Process:
    # A server that has imported everything, but never trained, forks the trainings.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.test_resume"])
    process = context.Process(target=train, args=(folder,), kwargs={"resume": resume})
    process.start()
    return process


def outcome() -> tuple[dict[str, torch.Tensor], str, str]:
    """Best weights, history, and the metrics of the last result line."""
    results = Path("config.csv").read_text().splitlines()[-1]
    return torch.load(MODEL, weights_only=True), HISTORY.read_text(), results.split("[val]")[1]


def assert_same(one: tuple, other: tuple) -> None:
    assert one[1:] == other[1:]
    assert one[0].keys() == other[0].keys()
    for name, tensor in one[0].items():
        assert torch.equal(tensor, other[0][name]), name


def finish(folder: Path, *, resume: bool) -> None:
    process = start(folder, resume=resume)
    process.join(120)
    assert process.exitcode == 0


def uninterrupted(folder: Path) -> tuple[tuple, float]:
    """Its outcome, and the seconds it took."""
    began = time.monotonic()
    finish(folder, resume=False)
    seconds = time.monotonic() - began
    expected = outcome()
    for path in (MODEL, STATE, previous(STATE), HISTORY, Path("config.csv")):
        path.unlink()
    return expected, seconds


def kill_at_random_moments(folder: Path, kills: int) -> None:
    expected, seconds = uninterrupted(folder)
    moments = random.Random(kills)
    killed = 0
    for _ in range(kills):
        process = start(folder, resume=True)
        process.join(moments.uniform(0, seconds))
        if process.exitcode is None:
            process.kill()
            process.join()
            killed += 1
    assert killed >= kills // 2
    finish(folder, resume=True)
    assert_same(outcome(), expected)


def test_killed_at_three_moments(workspace: Path) -> None:
    kill_at_random_moments(workspace, 3)


@pytest.mark.slow
def test_killed_at_twenty_moments(workspace: Path) -> None:
    kill_at_random_moments(workspace, 20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_save_and_end_with_a_message(
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    """A signal in the middle of an accumulation group is answered after the group."""
    arguments = ["--config", "config", "--expid", "QIN_test", "--set", *SETTINGS]
    arguments += ["checkpoint_minutes=null"]
    run_expid.main(arguments)
    expected = outcome()
    MODEL.unlink()
    STATE.unlink()

    from model_zoo.QIN.model import QIN

    real_step = QIN.train_step

    def step(self: QIN, batch: object) -> object:
        if self._total_steps == 7:
            os.kill(os.getpid(), number)
        return real_step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(QIN, "train_step", step)
        assert run_expid.main(arguments) == 128 + number
    assert f"stopped by {number.name} after step 10; --resume" in capsys.readouterr().err
    assert load_state(STATE, torch.load(STATE, weights_only=True)["settings"])["total_steps"] == 10
    assert run_expid.main([*arguments, "--resume"]) == 0
    assert_same(outcome(), expected)
    log = MODEL.with_suffix(".log").read_text()
    assert "Start training" in log.split("Resumed in epoch 1 after 10 batches, step 10")[0]


def test_resuming_a_finished_training_only_evaluates(workspace: Path) -> None:
    first = run_experiment("config", "QIN_test", overrides=SETTINGS)
    history = HISTORY.read_text()
    assert run_experiment("config", "QIN_test", overrides=SETTINGS, resume=True) == first
    assert HISTORY.read_text() == history


def test_more_epochs_may_be_asked_for(workspace: Path) -> None:
    fewer = [*SETTINGS, "epochs=2"]
    run_experiment("config", "QIN_test", overrides=fewer)
    run_experiment("config", "QIN_test", overrides=SETTINGS, resume=True)
    resumed = HISTORY.read_text()
    run_experiment("config", "QIN_test", overrides=SETTINGS)
    assert HISTORY.read_text() == resumed


def test_without_a_state_it_starts_from_the_beginning(workspace: Path) -> None:
    run_experiment("config", "QIN_test", overrides=SETTINGS, resume=True)
    log = MODEL.with_suffix(".log").read_text()
    assert "No saved state to resume from: starting from the beginning" in log


def test_other_settings_are_refused_by_name(workspace: Path) -> None:
    run_experiment("config", "QIN_test", overrides=SETTINGS)
    changed = [*SETTINGS, "learning_rate=5.e-3", "batch_size=60", "verbose=0"]
    with pytest.raises(InputError) as error:
        run_experiment("config", "QIN_test", overrides=changed, resume=True)
    assert len(error.value.problems) == 2
    assert "batch_size was 50 and is 60" in error.value.problems[0]
    assert "learning_rate was 0.002 and is 0.005" in error.value.problems[1]


def test_a_damaged_state_is_reported_and_the_one_before_used(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_experiment("config", "QIN_test", overrides=SETTINGS)
    expected = HISTORY.read_text()
    settings = torch.load(STATE, weights_only=True)["settings"]
    before = torch.load(previous(STATE), weights_only=True)
    STATE.write_bytes(STATE.read_bytes()[:1000])
    warnings: list[str] = []
    monkeypatch.setattr(training_state.logging, "warning", warnings.append)
    state = load_state(STATE, settings)
    assert state is not None
    assert state["total_steps"] == before["total_steps"]
    assert "QIN_test.state: not a readable state" in warnings[0]
    run_experiment("config", "QIN_test", overrides=SETTINGS, resume=True)
    assert HISTORY.read_text() == expected

    STATE.write_bytes(b"")
    previous(STATE).write_bytes(b"")
    with pytest.raises(InputError, match="no state is left to resume from"):
        load_state(STATE, settings)


def test_a_full_disk_while_saving_keeps_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.state"
    save_state(path, {"settings": {}, "n": 1})

    def disk_full(state: object, target: Path) -> None:
        Path(target).write_bytes(b"half of a state")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_state.torch, "save", disk_full)
    with pytest.raises(OSError, match="No space"):
        save_state(path, {"settings": {}, "n": 2})
    monkeypatch.undo()
    assert load_state(path, {})["n"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.state"]


def test_a_full_disk_does_not_end_the_training(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(path: Path, state: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("model_zoo.core.training.resume.save_state", disk_full)
    run_experiment("config", "QIN_test", overrides=SETTINGS)
    log = MODEL.with_suffix(".log").read_text()
    assert "QIN_test.state: state not saved: No space left on device" in log


def test_a_killed_save_leaves_a_state(tmp_path: Path) -> None:
    """Between the two renames there is only the state before."""
    path = tmp_path / "a.state"
    save_state(path, {"settings": {}, "n": 1})
    path.rename(previous(path))
    assert load_state(path, {})["n"] == 1
    assert load_state(tmp_path / "b.state", {}) is None


@pytest.mark.parametrize("devices", [0, 1, 3])
def test_other_devices_than_before_do_not_hinder(
    monkeypatch: pytest.MonkeyPatch, devices: int
) -> None:
    """A training began where there are two; each that is there goes on."""
    restored: dict[int, int] = {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: restored.update({device: int(state)})
    )
    states = training_state.random_states()
    states["cuda"] = [torch.tensor(5), torch.tensor(6)]
    training_state.restore_random_states(states)
    assert restored == dict([(0, 5), (1, 6)][:devices])
