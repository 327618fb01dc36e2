"""A Ray to run trials on: one of this process's own, or a cluster."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from model_zoo.core.commands.tuning.forks import ROOT
from model_zoo.core.commands.tuning.local import threads_for_each
from model_zoo.core.errors import InputError

SECONDS_TO_ANSWER = 5.0
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",  # whose table comes at any verbosity
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class Cluster:
    """Where trials run.

    Attributes:
        address: ``auto``, ``HOST:PORT``, or ``None`` for a Ray of this process's own.
        gpus: Devices of this machine, for a Ray of its own; elsewhere, whether any is a GPU.
        trial_cpus: CPUs for each trial.
        trial_gpus: GPUs for each trial, which may be a fraction; ``None`` takes one, or the
            share that a device named several times leaves.
    """

    address: str | None
    gpus: Sequence[int]
    trial_cpus: int
    trial_gpus: float | None

    @property
    def resources(self) -> dict[str, float]:
        devices = [gpu for gpu in self.gpus if gpu >= 0]
        share = 0.0
        if devices:
            share = len(set(devices)) / len(devices) if self.address is None else 1.0
        gpus = share if self.trial_gpus is None else self.trial_gpus
        return {"cpu": self.trial_cpus, "gpu": gpus}

    @property
    def threads(self) -> int | None:
        """CPU threads of a trial, as many as a search without Ray gives it."""
        if self.address is not None:
            return self.trial_cpus
        named = os.environ.get("OMP_NUM_THREADS")
        return int(named) if named else threads_for_each(len(self.gpus))


@contextmanager
def connected(cluster: Cluster) -> Iterator[int]:
    """Ray, for the block; gives the number of trials that run at a time.

    Raises:
        InputError: If there is no Ray at the address, or it lacks what a trial needs.
    """
    import ray

    settings: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    settings["runtime_env"] = {"env_vars": {"PYTHONPATH": path, **QUIET}}
    before = dict(os.environ)
    os.environ.update(QUIET)
    try:
        if cluster.address is None:
            devices = sorted({gpu for gpu in cluster.gpus if gpu >= 0})
            if devices:
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, devices))
            cpus = cluster.trial_cpus * len(cluster.gpus)
            settings |= {"num_cpus": cpus, "num_gpus": len(devices), "include_dashboard": False}
            settings |= {"address": "local", "_node_ip_address": "127.0.0.1"}
        else:
            _require_answer(cluster.address)
            settings["address"] = cluster.address
        try:
            ray.init(**settings)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = cluster.address or "here"
            raise InputError(
                f"--ray {where}: no Ray answers: {str(error).splitlines()[0]}"
            ) from None
        yield _at_a_time(ray.cluster_resources(), cluster)
    finally:
        ray.shutdown()
        os.environ.clear()
        os.environ.update(before)


def _require_answer(address: str) -> None:
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"--ray {address}: expected auto, or HOST:PORT of a cluster's head")
    try:
        socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--ray {address}: cannot be reached: {error}") from None


def _at_a_time(there: dict[str, float], cluster: Cluster) -> int:
    slots = math.inf
    for kind, needed in cluster.resources.items():
        has = there.get(kind.upper(), 0.0)
        if needed > has:
            raise InputError(f"a trial needs {needed:g} {kind.upper()}, but Ray has {has:g} in all")
        slots = min(slots, has // needed if needed else math.inf)
    return int(slots)
