"""The Ray cluster that trials run on."""

from __future__ import annotations

import math
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_zoo.core.commands.tuning.forks import environment, python_path
from model_zoo.core.errors import InputError, first_line

SECONDS_TO_ANSWER = 5.0
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",  # whose table comes at any verbosity
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the search has one of its own
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class Cluster:
    """Where trials run.

    Attributes:
        address: ``auto``, or ``HOST:PORT``.
        gpus: Devices; whether any is a GPU.
        trial_cpus: CPUs for each trial, as many as it has threads.
        trial_gpus: GPUs for each trial, which may be a fraction; ``None`` takes one.
    """

    address: str
    gpus: Sequence[int]
    trial_cpus: int
    trial_gpus: float | None

    @property
    def resources(self) -> dict[str, float]:
        gpus = 1.0 if any(gpu >= 0 for gpu in self.gpus) else 0.0
        return {"cpu": self.trial_cpus, "gpu": gpus if self.trial_gpus is None else self.trial_gpus}


@contextmanager
def connected(cluster: Cluster) -> Iterator[int]:
    """Ray, for the block; gives the number of trials that run at a time.

    Raises:
        InputError: If there is no Ray at the address, or it lacks what a trial needs.
    """
    import ray

    settings: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    settings["runtime_env"] = {"env_vars": {"PYTHONPATH": python_path(), **QUIET}}
    with environment(**QUIET):
        try:
            _require_answer(cluster.address)
            try:
                ray.init(address=cluster.address, **settings)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise InputError(
                    f"--ray {cluster.address}: no Ray answers: {first_line(error)}"
                ) from None
            yield _at_a_time(ray.cluster_resources(), cluster)
        finally:
            ray.shutdown()


def _require_answer(address: str) -> None:
    """Rather than let Ray wait for minutes, also for a head that was killed."""
    at, named = (address, f"--ray {address}:") if address != "auto" else _found()
    if not at:
        return  # Ray looks whether one runs here
    host, _, port = at.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise InputError(f"{named} expected auto, or HOST:PORT of a cluster's head")
    try:
        socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"{named} cannot be reached: {error}") from None


def _found() -> tuple[str, str]:
    """The head that ``auto`` means, if any is noted, and where."""
    at = os.environ.get("RAY_ADDRESS", "auto")
    if at != "auto":
        return at, f"--ray auto: RAY_ADDRESS {at}:"
    folder = os.environ.get("RAY_TMPDIR", tempfile.gettempdir())
    noted = Path(folder, "ray", "ray_current_cluster")
    if not noted.is_file():
        return "", ""
    at = noted.read_text(encoding="utf-8").strip()
    return at, f"--ray auto: {at}, which {noted} names,"


def _at_a_time(there: dict[str, float], cluster: Cluster) -> int:
    slots = math.inf
    for kind, needed in cluster.resources.items():
        has = there.get(kind.upper(), 0.0)
        if needed > has:
            raise InputError(f"a trial needs {needed:g} {kind.upper()}, but Ray has {has:g} in all")
        slots = min(slots, has // needed if needed else math.inf)
    return int(slots)
