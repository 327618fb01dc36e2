"""What ``run_param_tuner.py`` does, step by step."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from model_zoo.core.commands.experiment import build_feature_map, prepare_dataset
from model_zoo.core.commands.places import require_training_places
from model_zoo.core.commands.rehearsal import rehearse
from model_zoo.core.commands.tuning.drawing import Points
from model_zoo.core.commands.tuning.folder import claim, config_folder, write_configs
from model_zoo.core.commands.tuning.live import Progress
from model_zoo.core.commands.tuning.local import require_devices, run_local
from model_zoo.core.commands.tuning.pruning import Rungs
from model_zoo.core.commands.tuning.ranking import Place, outcome, rank
from model_zoo.core.commands.tuning.ray_cluster import Cluster, connected
from model_zoo.core.commands.tuning.ray_trials import recorded, run_on_ray, trials_of
from model_zoo.core.commands.tuning.records import TABLES, Record, read_record
from model_zoo.core.commands.tuning.report import REPORT, can_draw, write_report
from model_zoo.core.commands.tuning.results import (
    drop_losers,
    ranked_table,
    winner,
    write_best,
    write_trials,
)
from model_zoo.core.commands.tuning.sampling import SEED, random_trials, require_extra
from model_zoo.core.commands.tuning.space import Space
from model_zoo.core.commands.tuning.trial import Trial
from model_zoo.core.commands.tuning.tuner_file import read_space
from model_zoo.core.errors import InputError
from model_zoo.core.locks import held


@dataclass(frozen=True)
class Options:
    """How to search.

    Attributes:
        gpus: Devices, -1 for the CPU; each trains one trial at a time.
        retries: How often a trial that failed is tried again.
        keep_best: How many settings keep their checkpoints; ``None`` keeps all.
        sampler: Every combination, points at random, or where the last ones were good.
        trials: How many points the last two draw.
        prune: Stop weak trials early.
        ray: Address of a Ray cluster, or ``auto``; ``None`` stays on this machine.
        trial_cpus: CPUs of each trial on Ray; ``None`` is one.
        trial_gpus: GPUs of each trial on Ray, also a fraction; ``None`` is one, or none.
    """

    gpus: Sequence[int] = (-1,)
    retries: int = 0
    keep_best: int | None = None
    sampler: Literal["grid", "random", "tpe"] = "grid"
    trials: int | None = None
    prune: bool = False
    ray: str | None = None
    trial_cpus: int | None = None
    trial_gpus: float | None = None

    @property
    def cluster(self) -> Cluster | None:
        """What trials need of Ray, if they run there."""
        if self.ray is None:
            return None
        return Cluster(self.ray, self.gpus, self.trial_cpus or 1, self.trial_gpus)


def search(config_file: str | Path, options: Options) -> list[Place]:
    """Train the trials of a tuner file, or those that are left, and rank them.

    Args:
        config_file: Tuner YAML with ``base_expid`` and ``tuner_space``.
        options: How to search.

    Returns:
        The ranking.

    Raises:
        InputError: If the tuner file, a trial's settings or an option is wrong; nothing is run
            then. Also if no trial finished.
        Interrupted: A signal ended the search; the same call goes on from there.
    """
    _require_options(options)
    space = read_space(config_file)
    trials = _planned(space, options)
    if options.prune and space.epochs[0] < 2:
        raise InputError(
            f"--prune: a trial of {space.epochs[0]:g} epoch ends before it could be stopped"
        )
    samples = trials if options.sampler != "tpe" else space.of_data()
    for trial in samples:
        require_training_places(config_folder(space), trial.experiment)
        rehearse(trial.experiment, build_feature_map)
    cluster = options.cluster
    with connected(cluster) if cluster else nullcontext(len(options.gpus)) as slots:
        folder = claim(space)
        with held(folder / ".lock", f"the search in {folder}"):
            write_configs(folder, trials)
            for experiment in {_data(trial): trial.experiment for trial in samples}.values():
                prepare_dataset(experiment)  # here, rather than by several trials at once
            try:
                _run(space, trials, folder, options, slots)
            finally:
                shutil.rmtree(folder / TABLES, ignore_errors=True)
            return finish(_all(space, trials, folder, options), folder, space, options)


def report(config_file: str | Path) -> list[Place]:
    """Rank what a search has finished so far, and write its files; nothing is run.

    Raises:
        InputError: If there is no such search, or no trial finished.
    """
    space = read_space(config_file)
    folder = config_folder(space)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; there was no search of {space.file}")
    claim(space)
    return finish([trial for trial, _ in recorded(space, folder)], folder, space, Options())


def _planned(space: Space, options: Options) -> list[Trial]:
    """The trials that are known before any has run."""
    if options.sampler == "grid":
        return space.grid()
    if options.sampler == "random":
        return random_trials(space, options.trials or 1)
    return []


def _all(space: Space, trials: Sequence[Trial], folder: Path, options: Options) -> Sequence[Trial]:
    if options.sampler != "tpe":
        return trials
    # Of a point that was begun, the repetitions too that were not.
    of_points = [trials_of(space, trial.settings) for trial, _ in recorded(space, folder)]
    return list({trial.expid: trial for trials in of_points for trial in trials}.values())


def finish(trials: Sequence[Trial], folder: Path, space: Space, options: Options) -> list[Place]:
    """Rank what there is, and write all that a search leaves."""
    places = ranking(trials, folder)
    write_trials(folder, places)
    best = winner(places)
    write_best(folder, best)
    if options.keep_best is not None:
        drop_losers(places, options.keep_best)
    print(ranked_table(places, space.keys))
    if can_draw():
        write_report(folder, places, space.keys, f"Search of {space.file.name}")
        print(f"report: {folder / REPORT}")
    else:
        print(f"no {REPORT}: that needs plotly: pip install '.[tune]'")
    print(f"best: {best.trial.expid}, for --config {folder} --expid {best.trial.expid}")
    return places


def ranking(trials: Sequence[Trial], folder: Path) -> list[Place]:
    return rank([outcome(trial, read_record(folder, trial.expid)) for trial in trials])


def _run(
    space: Space,
    planned: Sequence[Trial],
    folder: Path,
    options: Options,
    slots: int,
) -> None:
    known = {trial.expid: trial for trial in _all(space, planned, folder, options)}
    records = {expid: read_record(folder, expid) for expid in known}
    done = [(known[e], record) for e, record in records.items() if _is_done(record, options)]
    ended = {trial.expid for trial, _ in done}
    left = [trial for trial in known.values() if trial.expid not in ended]
    begun = [trial for trial in left if records[trial.expid].status != "waiting"]
    total, points = len(known), 0
    if options.sampler == "tpe":
        whole = {trial.group for trial, _ in done} - {trial.group for trial in left}
        points = max(0, (options.trials or 1) - len(whole))
        total = len(done) + points * len(space.seeds or [None])
    elif options.prune:
        # ASHA compares a trial with those before it. In a grid's own order these are its
        # neighbours: where later values learn faster, it would stop none.
        fresh = [trial for trial in left if records[trial.expid].status == "waiting"]
        left = [*begun, *random.Random(SEED).sample(fresh, len(fresh))]
    print(
        f"{total} trials in {folder}: {len(done)} done, {len(begun)} to go on with; "
        f"{slots} at a time",
        flush=True,
    )
    # On Ray Optuna is asked there; here the points that were begun are in hand.
    to_draw = points - len({trial.group for trial in left}) if options.ray is None else 0
    drawn = Points(space, to_draw, done, left) if to_draw > 0 else None
    with Progress(folder, total, slots) as progress:
        progress.skipped([trial for trial, _ in done])

        def noted(trial: Trial, record: Record) -> None:
            if trial.expid not in known:
                known[trial.expid] = trial
                write_configs(folder, [trial])
            progress.noted(trial, record)
            if drawn is not None and _is_done(record, options):
                drawn.ended(trial, record)
            if record.status == "finished" and options.keep_best is not None:
                drop_losers(ranking(list(known.values()), folder), options.keep_best)

        common: dict[str, Any] = {"retries": options.retries, "noted": noted}
        common |= {"look": progress.look, "rungs": None}
        if options.prune:
            # Ray reports what a trial goes on from anew.
            before = [] if options.ray else [(trial, records[trial.expid]) for trial in begun]
            common["rungs"] = Rungs(int(space.epochs[1]), [*done, *before])
        if options.cluster is None:
            draw = drawn.draw if drawn is not None else list
            run_local(left, folder, options.gpus, draw=draw, **common)
        elif left or points:
            run_on_ray(space, left, folder, options.cluster, points=points, **common)


def _is_done(record: Record, options: Options) -> bool:
    """A pruned trial is done as long as weak ones are stopped; else it goes on."""
    if record.status == "pruned":
        return options.prune
    return record.status == "finished" or (
        record.status == "failed" and record.attempts > options.retries
    )


def _data(trial: Trial) -> str:
    return json.dumps(trial.experiment.dataset.model_dump(mode="json"), sort_keys=True)


def _require_options(options: Options) -> None:
    least = {"retries": 0, "keep_best": 1, "trials": 1, "trial_cpus": 1, "trial_gpus": 0}
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None and value < bound:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} {value}: expected {bound} or more")
    if (options.sampler == "grid") != (options.trials is None):
        said = "a grid has as many as it has" if options.trials else "say how many points to draw"
        raise InputError(f"--sampler {options.sampler} and --trials: {said}")
    if options.sampler != "grid" or options.ray is not None or options.prune:
        option = f"--sampler {options.sampler}" if options.sampler != "grid" else None
        require_extra(option or ("--prune" if options.prune else "--ray"))
    if options.ray is None:
        require_devices(options.gpus)
        for name in ("trial_cpus", "trial_gpus"):
            if getattr(options, name) is not None:
                raise InputError(f"--{name.replace('_', '-')}: that is for trials on --ray")
    if options.ray is not None and len({gpu < 0 for gpu in options.gpus}) > 1:
        raise InputError("--gpu: on Ray all trials run on GPUs, or all on the CPU")
