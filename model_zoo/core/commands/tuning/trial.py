"""A trial: its settings, a name that says the same settings again, and its experiment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuxictr.utils import Monitor

from model_zoo.core.commands.config import Experiment, check_experiment
from model_zoo.core.data.spec import DatasetSpec
from model_zoo.core.errors import InputError

NOT_IN_THE_NAME = ("model_root", "verbose", "debug_mode")  # they change no result
DIGITS = 12  # of an id: two of a million trials are the same with a chance of 1 in 500


@dataclass(frozen=True)
class Trial:
    """A point of the space, with one of its seeds.

    Attributes:
        expid: Its experiment id.
        group: What its repetitions with other seeds share.
        settings: What the space says of it, the seed apart.
        seed: Its seed, where the space repeats.
        model_params: All settings of the experiment, for its YAML.
        dataset_params: All settings of its data set, likewise.
        experiment: The same, checked.
    """

    expid: str
    group: str
    settings: Mapping[str, Any]
    seed: int | None
    model_params: Mapping[str, Any]
    dataset_params: Mapping[str, Any]
    experiment: Experiment

    @property
    def monitor_mode(self) -> str:
        return self.experiment.run.monitor_mode

    @property
    def place(self) -> Path:
        """Its checkpoint and all beside it, but for the suffix."""
        return self.experiment.folder / self.expid

    def monitor(self, metrics: Mapping[str, float]) -> float:
        """What the trial is ranked by."""
        return float(Monitor(self.experiment.run.monitor).get_value(metrics))

    def text(self) -> str:
        """Its settings in one line."""
        shown = dict(self.settings) | ({} if self.seed is None else {"seed": self.seed})
        return ", ".join(f"{key}={value}" for key, value in shown.items())


def make_trial(
    file: Path,
    base_expid: str,
    base: Mapping[str, Any],
    dataset: Mapping[str, Any],
    settings: Mapping[str, Any],
    seed: Any,
    repeated: bool,
) -> Trial:
    """Join a point of the space with what it is based on, name it and check it.

    The name depends on all settings of the trial and on nothing else: not on the order of keys,
    on other values of the space or on the tuner file. A data set whose settings are varied gets
    a name of its own too: what is encoded with one must not be read with another.

    Args:
        file: The tuner file, for messages.
        base_expid: The base experiment's id.
        base: Its settings.
        dataset: Those of its data set.
        settings: What the space says, the seed apart.
        seed: The seed, if ``repeated``.
        repeated: Whether the space has seeds.

    Raises:
        InputError: If a setting is wrong, or the monitor would not be computed.
    """
    of_data = {k: v for k, v in settings.items() if k in DatasetSpec.model_fields}
    of_data.pop("dataset_id", None)
    dataset_id = str(dataset["dataset_id"])
    changed = {k: v for k, v in of_data.items() if k not in dataset or not _same(v, dataset[k])}
    dataset_params = {k: v for k, v in {**dataset, **of_data}.items() if k != "dataset_id"}
    if changed:
        dataset_id += f"_{digest(dataset_params)}"
    model_params = {**base, **{k: v for k, v in settings.items() if k not in of_data}}
    model_params |= {"dataset_id": dataset_id, **({"seed": seed} if repeated else {})}
    model_params.pop("model_id", None)
    unnamed = {*NOT_IN_THE_NAME, *(["seed"] if repeated else [])}
    named = {key: value for key, value in model_params.items() if key not in unnamed}
    parts = [base_expid, str(settings["model"]).replace("/", "-")] if "model" in settings else []
    group = "_".join([*(parts or [base_expid]), digest({**named, "data set": dataset_params})])
    expid = f"{group}_seed{seed}" if repeated else group
    try:
        experiment = check_experiment(
            {**model_params, "model_id": expid}, {**dataset_params, "dataset_id": dataset_id}
        )
    except InputError as error:
        texts = [p.replace(f"'{expid}'", f"'{base_expid}'") for p in error.problems]
        texts = [p.replace(f"'{dataset_id}'", f"'{dataset['dataset_id']}'") for p in texts]
        hints = [_list_hint(text, settings) for text in texts]
        raise InputError(
            [f"{file}: tuner_space: {t}{h}" for t, h in zip(texts, hints, strict=True)]
        ) from None
    _require_computed(file, experiment)
    return Trial(expid, group, settings, seed, model_params, dataset_params, experiment)


def digest(settings: Mapping[str, Any]) -> str:
    """A number that is the same for the same settings, whatever the order of their keys.

    Example:
        >>> digest({"a": 0.012, "b": [1]}) == digest({"b": [1.0], "a": 0.012})
        True
        >>> digest({"a": 0.012}) == digest({"a": 0.021})
        False
    """
    text = json.dumps(_canonical(settings), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _canonical(value: Any) -> Any:
    """1.0 is 1, as YAML's readers take them to be for any number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _canonical(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(entry) for entry in value]
    return value


def _same(one: Any, other: Any) -> bool:
    return digest({"": one}) == digest({"": other})


def _list_hint(problem: str, settings: Mapping[str, Any]) -> str:
    """``metrics: [AUC, logloss]`` are two values of a setting that is a list itself."""
    forgotten = [key for key in settings if f": {key}: Input should be a valid list" in problem]
    return f"; a list as a value is written {forgotten[0]}: [[...]]" if forgotten else ""


def _require_computed(file: Path, experiment: Experiment) -> None:
    run = experiment.run
    missing = [name for name in Monitor(run.monitor).get_metrics() if name not in run.metrics]
    if missing:
        raise InputError(
            f"{file}: monitor: {', '.join(missing)} is not computed: metrics are "
            f"{', '.join(run.metrics)}"
        )
