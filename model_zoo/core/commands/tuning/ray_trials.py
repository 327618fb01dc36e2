"""Trials on a Ray cluster: grids or Optuna's points, weak ones stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model_zoo.core.commands.tuning.local import interruption
from model_zoo.core.commands.tuning.pruning import Rungs, score
from model_zoo.core.commands.tuning.ray_cluster import Cluster
from model_zoo.core.commands.tuning.records import Record, read_record, record_files
from model_zoo.core.commands.tuning.sampling import SEED, drawn_before, known_study, suggest
from model_zoo.core.commands.tuning.space import Space
from model_zoo.core.commands.tuning.trial import Trial
from model_zoo.core.errors import InputError
from model_zoo.core.training.signals import noting_signals

SCRATCH = "ray"  # sub-folder, while a search runs there
INDEX = "__trial_index__"  # Ray's name for the number of a repetition


def run_on_ray(
    space: Space,
    trials: Sequence[Trial],
    folder: Path,
    cluster: Cluster,
    *,
    points: int,
    rungs: Rungs | None,
    retries: int,
    noted: Callable[[Trial, Record], None],
    look: Callable[[], None],
) -> None:
    """Train trials under Ray Tune, which must be connected.

    Args:
        space: The space.
        trials: Those to run; with ``points``, those that an interruption left unfinished.
        folder: The configuration folder, which all machines of the cluster must see.
        cluster: What a trial needs.
        points: How many points Optuna is to draw beside them; 0 draws none.
        rungs: What weak trials are stopped by; ``None`` stops none.
        retries: How often a trial that failed is tried again.
        noted: Called when a trial began or ended.
        look: Called about twice a second.

    Raises:
        Interrupted: After a signal.
        InputError: If a trial's machine was lost.
    """
    from ray import tune

    from model_zoo.core.commands.tuning.ray_trainable import PruneCallback, TunedTrial

    scratch = folder.resolve() / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)  # of a search that was killed
    job = {
        "space": space,
        "folder": str(folder),
        "cwd": os.getcwd(),
        "gpu": 0 if cluster.resources["gpu"] else -1,
        "threads": cluster.trial_cpus,
        "retries": retries,
    }
    config: dict[str, Any] = {"reuse_actors": True}
    if rungs is not None:
        config |= {"scheduler": rungs.scheduler}
    if points:
        repeat = len(space.seeds or [None])
        config |= {"search_alg": _optuna(space, trials, folder, repeat)}
        config |= {"num_samples": points * repeat}
        param_space: dict[str, Any] = {}
    else:
        listed = [json.dumps(_job_of(trial, space)) for trial in trials]
        param_space = {"point": tune.grid_search(listed)}
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(TunedTrial, job=job), cluster.resources),
        param_space=param_space,
        tune_config=tune.TuneConfig(**config),
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(scratch),
            verbose=0,
            callbacks=[PruneCallback(space, folder)],
        ),
    )
    interrupted: list[int] = []
    with _watching(space, trials, folder, noted, look), _interrupting(folder, interrupted):
        try:
            tuner.fit()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    if interrupted:
        raise interruption(interrupted[0])
    lost = [trial.expid for trial, record in recorded(space, folder) if record.status == "started"]
    if lost:
        raise InputError(
            f"Ray lost {len(lost)} trials ({', '.join(lost)}); the same command goes on with them"
        )


def _job_of(trial: Trial, space: Space) -> dict[str, Any]:
    index = list(space.seeds).index(trial.seed) if space.seeds is not None else 0
    return {"settings": dict(trial.settings), "index": index}


def _optuna(space: Space, left: Sequence[Trial], folder: Path, repeat: int) -> Any:
    """Optuna, which knows what was found before, and begins with what was left unfinished."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch
    from ray.tune.search.repeater import Repeater

    groups: dict[str, list[float]] = {}
    settings: dict[str, dict[str, Any]] = {}
    known = recorded(space, folder)
    for trial, record in known:
        if record.status in ("finished", "pruned", "failed"):
            value = score(trial, record.metrics.get("valid", {}))
            groups.setdefault(trial.group, []).append(value)
            settings[trial.group] = dict(trial.settings)
    values = [(settings[name], sum(of) / len(of)) for name, of in groups.items()]
    begun = {trial.group: drawn_before(space, trial.settings) for trial in left}

    searcher = OptunaSearch(
        space=_Draw(space),
        metric="score",
        mode="max",
        points_to_evaluate=[drawn for drawn in begun.values() if drawn is not None],
        storage=known_study(space, values),
        # After a restart, other points than those that the first start drew.
        sampler=optuna.samplers.TPESampler(seed=SEED + len(known)),
    )
    return Repeater(searcher, repeat=repeat) if repeat > 1 else searcher


class _Draw:
    """:func:`suggest` as Ray takes it; of a class, so that Ray can store it."""

    def __init__(self, space: Space) -> None:
        self._space = space

    def __call__(self, optuna_trial: Any) -> dict[str, str]:
        model, point = suggest(self._space, optuna_trial)
        named = point if model is None else {"model": model, **point}
        return {"point": json.dumps({"settings": named})}


def recorded(space: Space, folder: Path) -> list[tuple[Trial, Record]]:
    """The trials of the space that have a record."""
    found = []
    for path in record_files(folder):
        record = read_record(folder, path.stem)
        for trial in trials_of(space, record.settings):
            if trial.expid == record.expid:
                found.append((trial, record))
    return found


def trials_of(space: Space, settings: Any) -> list[Trial]:
    """The trials of recorded settings; none if the space no longer has them."""
    if drawn_before(space, settings) is None:
        return []
    model = settings.get("model") if None not in space.varied else None
    point = {k: v for k, v in settings.items() if k != "model" or model is None}
    return space.trials(model, point)


@contextmanager
def _watching(
    space: Space,
    trials: Sequence[Trial],
    folder: Path,
    noted: Callable[[Trial, Record], None],
    look: Callable[[], None],
) -> Iterator[None]:
    """Call back on whatever the trials' records say, wherever they are written."""
    stop = threading.Event()
    known = {trial.expid: trial for trial in trials}
    seen = {path: path.stat().st_mtime_ns for path in record_files(folder)}

    def watch() -> None:
        last = False
        while not last:
            last = stop.wait(0.5)
            for path in record_files(folder):
                changed = path.stat().st_mtime_ns
                if seen.get(path) == changed:
                    continue
                seen[path] = changed
                record = read_record(folder, path.stem)
                if record.expid not in known:
                    of_point = trials_of(space, record.settings)
                    known.update({trial.expid: trial for trial in of_point})
                noted(known[record.expid], record)
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def _interrupting(folder: Path, noted: list[int]) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the trials after their current step, wherever they run."""

    def end(number: int) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)
        marker = _marker(folder)
        marker.parent.mkdir(exist_ok=True)
        marker.touch()
        os.kill(os.getpid(), signal.SIGUSR1)  # which Ray Tune takes as the end of the search

    with noting_signals(end):
        yield


def was_interrupted(folder: Path) -> bool:
    """Whether the search is to end; told by a file, for its trials may be on any machine."""
    return _marker(folder).exists()


def _marker(folder: Path) -> Path:
    return folder / SCRATCH / "interrupted"
