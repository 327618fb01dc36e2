"""What ``run_param_tuner.py`` does, step by step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from model_zoo.core.commands.experiment import prepare_dataset
from model_zoo.core.commands.tuning.folder import claim, write_configs
from model_zoo.core.commands.tuning.live import Progress
from model_zoo.core.commands.tuning.local import require_devices, run_local
from model_zoo.core.commands.tuning.ranking import Place, outcome, rank
from model_zoo.core.commands.tuning.records import Record, read_record
from model_zoo.core.commands.tuning.results import (
    drop_losers,
    ranked_table,
    winner,
    write_best,
    write_trials,
)
from model_zoo.core.commands.tuning.space import Space, read_space
from model_zoo.core.commands.tuning.trial import Trial
from model_zoo.core.errors import InputError
from model_zoo.core.locks import held


@dataclass(frozen=True)
class Options:
    """How to search.

    Attributes:
        gpus: Devices, -1 for the CPU; each trains one trial at a time.
        retries: How often a trial that failed is tried again.
        keep_best: How many settings keep their checkpoints; ``None`` keeps all.
    """

    gpus: Sequence[int] = (-1,)
    retries: int = 0
    keep_best: int | None = None


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
    require_devices(options.gpus)
    space = read_space(config_file)
    trials = space.grid()
    with _claimed(space) as folder:
        write_configs(folder, trials)
        for experiment in {_data(trial): trial.experiment for trial in trials}.values():
            prepare_dataset(experiment)  # here, rather than by several trials at once
        _run(trials, folder, options)
        return finish(trials, folder, space, options)


def finish(trials: Sequence[Trial], folder: Path, space: Space, options: Options) -> list[Place]:
    """Rank what there is, and write all that a search leaves."""
    places = ranking(trials, folder)
    write_trials(folder, places)
    best = winner(places)
    write_best(folder, best)
    if options.keep_best is not None:
        drop_losers(places, options.keep_best)
    print(ranked_table(places, space.keys))
    print(f"best: {best.trial.expid}, for --config {folder} --expid {best.trial.expid}")
    return places


def ranking(trials: Sequence[Trial], folder: Path) -> list[Place]:
    return rank([outcome(trial, read_record(folder, trial.expid)) for trial in trials])


def _run(trials: Sequence[Trial], folder: Path, options: Options) -> None:
    records = {trial.expid: read_record(folder, trial.expid) for trial in trials}
    left = [trial for trial in trials if not _is_done(records[trial.expid], options)]
    begun = [trial for trial in left if records[trial.expid].status != "waiting"]
    print(
        f"{len(trials)} trials in {folder}: {len(trials) - len(left)} done, {len(begun)} to go "
        f"on with; {len(options.gpus)} at a time",
        flush=True,
    )
    with Progress(folder, len(trials), len(options.gpus)) as progress:
        progress.skipped([trial for trial in trials if trial not in left])

        def noted(trial: Trial, record: Record) -> None:
            progress.noted(trial, record)
            if record.status == "finished" and options.keep_best is not None:
                drop_losers(ranking(trials, folder), options.keep_best)

        run_local(
            left, folder, options.gpus, retries=options.retries, noted=noted, look=progress.look
        )


def _is_done(record: Record, options: Options) -> bool:
    return record.status == "finished" or (
        record.status == "failed" and record.attempts > options.retries
    )


def _data(trial: Trial) -> str:
    return json.dumps(trial.experiment.dataset.model_dump(mode="json"), sort_keys=True)


@contextmanager
def _claimed(space: Space) -> Iterator[Path]:
    """The folder, which no other search writes meanwhile."""
    folder = claim(space)
    with held(folder / ".lock", f"the search in {folder}"):
        yield folder


def _require_options(options: Options) -> None:
    if options.retries < 0:
        raise InputError(f"--retries {options.retries}: expected 0 or more")
    if options.keep_best is not None and options.keep_best < 1:
        raise InputError(f"--keep-best {options.keep_best}: expected 1 or more")
