"""Trials on this machine: a process for each, one at a time on each device."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from model_zoo.core.commands.tuning.forks import processes
from model_zoo.core.commands.tuning.pruning import Rungs, stopped
from model_zoo.core.commands.tuning.records import (
    Record,
    history_file,
    output_file,
    read_record,
    write_record,
)
from model_zoo.core.commands.tuning.trial import Trial
from model_zoo.core.commands.tuning.worker import Order, work
from model_zoo.core.errors import InputError, Interrupted
from model_zoo.core.training.signals import noting_signals

ERROR_LINES = 8
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_NOTICE = 0.1  # an evaluation, where weak trials are stopped
_LOGGED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ ")


@dataclass
class _Running:
    trial: Trial
    slot: int
    output_from: int
    start: float
    weak: bool = False


def require_devices(gpus: Sequence[int]) -> None:
    """Refuse a device that is not there, rather than train all night on another.

    Raises:
        InputError: Naming it.
    """
    count = torch.cuda.device_count()
    wrong = [gpu for gpu in gpus if gpu < -1 or gpu >= count]
    if wrong:
        there = f"0..{count - 1}, or -1 for the CPU" if count else "-1, the CPU; CUDA is not there"
        raise InputError(f"--gpu {wrong[0]}: no such device, expected {there}")


def threads_for_each(slots: int) -> int | None:
    """Trials that each take every core wait for one another at every operation."""
    if "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, (os.cpu_count() or 1) // slots)


def run_local(
    trials: Sequence[Trial],
    folder: Path,
    gpus: Sequence[int],
    *,
    retries: int,
    rungs: Rungs | None,
    draw: Callable[[], Sequence[Trial]],
    noted: Callable[[Trial, Record], None],
    look: Callable[[], None],
) -> None:
    """Train the trials, each on the next free device.

    Ctrl-C and SIGTERM end the trials after their current step, with their states saved; the
    trials also end, likewise, when this process is killed.

    Args:
        trials: Those that are to run; what began before goes on from its state.
        folder: The configuration folder.
        gpus: Devices; one that is named twice trains two at a time.
        retries: How often a trial that failed is tried again.
        rungs: What weak trials are stopped by; ``None`` stops none.
        draw: Gives further trials, when there are no others; none once that was all.
        noted: Called when a trial began or ended.
        look: Called about twice a second.

    Raises:
        Interrupted: After a signal.
    """
    signals: list[int] = []
    waiting, free = deque(trials), list(range(len(gpus)))
    running: dict[BaseProcess, _Running] = {}
    threads = threads_for_each(len(gpus))
    with noting_signals(signals.append):
        try:
            while True:
                while free and not signals:
                    waiting.extend([] if waiting else draw())
                    if not waiting:
                        break
                    trial, slot = waiting.popleft(), free.pop(0)
                    order, record = begin(folder, trial, gpus[slot], threads)
                    process, size = start(order)
                    running[process] = _Running(trial, slot, size, time.monotonic())
                    noted(trial, record)
                if not running:
                    break
                _wait_for_any(running, rungs)
                look()
                if signals:
                    end(list(running), by_force=len(signals) > 1)
                for process in [p for p in running if not p.is_alive()]:
                    process.join()
                    of = running.pop(process)
                    free.append(of.slot)
                    if of.weak:
                        noted(of.trial, stopped(folder, of.trial))
                        continue
                    if signals and process.exitcode != 0:
                        continue  # it is still begun: the next search goes on with it
                    record = ended(folder, of.trial, process.exitcode, of.output_from, of.start)
                    if rungs is not None:
                        rungs.ended(of.trial, record)
                    noted(of.trial, record)
                    if record.status == "failed" and record.attempts <= retries:
                        waiting.append(of.trial)
        finally:
            end(list(running), by_force=True)  # only if the above failed
    if signals:
        raise interruption(signals[0])


def interruption(number: int) -> Interrupted:
    """That a search was stopped by a signal."""
    name = signal.Signals(number).name
    return Interrupted(number, f"stopped by {name}; the same command goes on from there")


def _wait_for_any(running: dict[BaseProcess, _Running], rungs: Rungs | None) -> None:
    """Until a trial ends, or it is time to look; those that turn out weak are asked to end."""
    until = time.monotonic() + SECONDS_BETWEEN_LOOKS
    seconds = SECONDS_BETWEEN_LOOKS if rungs is None else SECONDS_TO_NOTICE
    while time.monotonic() < until:
        if wait([process.sentinel for process in running], seconds):
            return
        for process, of in running.items():
            if rungs is not None and not of.weak and rungs.is_weak(of.trial):
                of.weak = True
                end([process], by_force=False)


def start(order: Order) -> tuple[BaseProcess, int]:
    """A process that trains, and where in its output file it begins to print."""
    process = processes().Process(target=work, args=(order,), name=order.expid)
    output = output_file(order.folder, order.expid)
    size = output.stat().st_size if output.is_file() else 0
    process.start()
    return process, size


def begin(folder: Path, trial: Trial, gpu: int, threads: int | None) -> tuple[Order, Record]:
    """Note that a trial begins, or goes on."""
    before = read_record(folder, trial.expid)
    if before.status == "waiting":
        # Of a search whose folder was removed: it would be taken for this trial's.
        history_file(trial).unlink(missing_ok=True)
    device = "CPU" if gpu < 0 else f"GPU {gpu}"
    record = replace(
        before, status="started", device=device, error=(), settings=dict(trial.settings)
    )
    write_record(folder, record)
    resume = before.status != "waiting"
    order = Order(
        folder, trial.expid, trial.model_params, trial.dataset_params, gpu, threads, resume
    )
    return order, record


def ended(
    folder: Path, trial: Trial, exitcode: int | None, output_from: int, start: float
) -> Record:
    """The record of a trial whose process ended; a failure with its last lines is noted."""
    record = read_record(folder, trial.expid)
    if exitcode == 0 and record.status == "finished":
        return record
    record = replace(
        record,
        status="failed",
        attempts=record.attempts + 1,
        seconds=time.monotonic() - start,
        error=_last_lines(output_file(folder, trial.expid), output_from, exitcode),
    )
    write_record(folder, record)
    return record


def _last_lines(output: Path, start: int, exitcode: int | None) -> list[str]:
    lines = []
    if output.is_file():
        with open(output, "rb") as file:
            file.seek(start)
            text = file.read().decode(errors="replace")
        lines = [line for line in text.splitlines() if line.strip() and not _LOGGED.match(line)]
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        often = " (often for want of memory)" if name == "SIGKILL" else ""
        lines.append(f"ended by {name}{often}")
    return lines[-ERROR_LINES:] or [f"exit code {exitcode}"]


def end(processes: Sequence[BaseProcess], *, by_force: bool) -> None:
    for process in processes:
        if process.is_alive():
            process.kill() if by_force else process.terminate()
