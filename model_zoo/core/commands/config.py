"""From YAML files and ``--set`` to checked settings: every mistake is reported, none ignored."""

from __future__ import annotations

import functools
import inspect
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml

from model_zoo import get_model
from model_zoo.core.commands.setting_rules import cross_check
from model_zoo.core.commands.yaml_files import parse_overrides, read_dataset, read_experiment
from model_zoo.core.data.spec import DatasetSpec, PathText, Pooling, Spec, one_entry_per_column
from model_zoo.core.errors import InputError, suggestion
from model_zoo.core.training.engine import TrainableModel
from model_zoo.core.training.resume import ResumableModel
from model_zoo.core.training.settings import Count, Seed

# pydantic's errors whose own words speak of Python.
_PLAIN = dict.fromkeys(("sequence_str", "is_instance_of"), "Input should be a list")


class FeatureOverride(Spec):
    """An entry of FuxiCTR's ``feature_specs``: another embedding for this experiment."""

    name: str | list[str]
    embedding_dim: Count | None = None
    feature_encoder: Pooling | None = None


class RunSpec(Spec):
    """Settings of an experiment that are not the model's own constructor arguments."""

    model: str
    model_id: str
    dataset_id: str
    model_root: PathText = "./checkpoints/"
    seed: Seed = 2025
    verbose: Literal[0, 1] = 1
    debug_mode: bool = False  # FuxiCTR's autotuner reads it
    # data
    batch_size: Count
    max_len: Count = 64
    shuffle: bool = True
    buffer_size: Count = 262_144
    data_on_device: bool | Literal["auto"] = "auto"
    group_id: str | None = None
    use_features: Annotated[list[str], pydantic.Field(min_length=1)] | None = None
    feature_specs: list[FeatureOverride] | None = None
    rescale_vectors: bool | None = None
    # training
    task: Literal["binary_classification"] = "binary_classification"
    optimizer: str = "adam"
    loss: Literal["binary_crossentropy", "binary_cross_entropy", "bce"] = "binary_crossentropy"
    epochs: Count
    metrics: list[str] = pydantic.Field(["AUC", "logloss"], min_length=1)
    monitor: str | Annotated[dict[str, float], pydantic.Field(min_length=1)] = "AUC"
    monitor_mode: Literal["max", "min"] = "max"
    early_stop_patience: Count = 2
    eval_steps: Count | None = None
    save_best_only: bool = True
    reduce_lr_on_plateau: bool = True
    max_gradient_norm: float = pydantic.Field(10.0, gt=0, allow_inf_nan=True)  # inf: no clipping


@dataclass(frozen=True)
class Experiment:
    """A checked experiment.

    Attributes:
        dataset: The data set.
        run: The run's settings, with the model's own hyper-parameters as further fields;
            ``model_id`` is the experiment id.
    """

    dataset: DatasetSpec
    run: RunSpec

    @property
    def folder(self) -> Path:
        """Where its checkpoint, log and results go: ``<model_root>/<dataset_id>``."""
        return Path(self.run.model_root) / self.dataset.dataset_id

    @property
    def params(self) -> dict[str, Any]:
        """Everything as FuxiCTR's flat dictionary of keyword arguments."""
        dataset = self.dataset.model_dump(exclude_none=True)
        return {**dataset, **self.run.model_dump(exclude_none=True)}


def load_experiment(
    config_dir: str | Path, expid: str, overrides: Sequence[str] = ()
) -> Experiment:
    """Read an experiment and its data set, and check every key and value.

    Args:
        config_dir: Folder with ``model_config.yaml`` and ``dataset_config.yaml``, or folders
            ``model_config/`` and ``dataset_config/`` of such files, or both; also ``.yml``.
        expid: Experiment id.
        overrides: ``key=value`` strings; the value is read as YAML.

    Raises:
        InputError: With every mistake found.
    """
    model_params = read_experiment(config_dir, expid)
    dataset_keys = set(DatasetSpec.model_fields) - {"dataset_id"}
    changes = parse_overrides(overrides)
    model_params |= {key: value for key, value in changes.items() if key not in dataset_keys}
    if model_params.get("dataset_id") is None:
        raise InputError(f"experiment '{expid}' names no dataset_id")
    dataset_id = model_params["dataset_id"]
    if not isinstance(dataset_id, str):
        raise InputError(f"experiment '{expid}': dataset_id: expected a name, found {dataset_id!r}")
    dataset_params = read_dataset(config_dir, dataset_id)
    dataset_params |= {key: value for key, value in changes.items() if key in dataset_keys}

    return check_experiment(model_params, dataset_params)


def check_experiment(model_params: dict[str, Any], dataset_params: dict[str, Any]) -> Experiment:
    """Check every key and value of an experiment and its data set.

    Args:
        model_params: Settings of the experiment, with ``model_id``.
        dataset_params: Settings of the data set, with ``dataset_id``.

    Raises:
        InputError: With every mistake found.
    """
    expid, dataset_id = model_params["model_id"], dataset_params["dataset_id"]
    known = {*RunSpec.model_fields, *DatasetSpec.model_fields}
    try:
        model_class = get_model(str(model_params.get("model")))
    except ValueError as error:
        raise InputError(f"experiment '{expid}': {error}") from None
    spec = experiment_spec(model_class)
    known |= set(spec.model_fields)
    problems: list[str] = []
    run = validated(spec, model_params, f"experiment '{expid}'", known, problems)
    dataset = validated(DatasetSpec, dataset_params, f"data set '{dataset_id}'", known, problems)
    if run is not None and dataset is not None:
        problems += cross_check(run, dataset)
    if problems or run is None or dataset is None:
        raise InputError(problems)
    return Experiment(dataset=dataset, run=run)


def load_dataset(
    config_dir: str | Path, dataset_id: str, overrides: Sequence[str] = ()
) -> DatasetSpec:
    """Read and check one data set of ``dataset_config.yaml``.

    Raises:
        InputError: With every mistake found.
    """
    values = read_dataset(config_dir, dataset_id) | parse_overrides(overrides)
    problems: list[str] = []
    known = set(DatasetSpec.model_fields)
    dataset = validated(DatasetSpec, values, f"data set '{dataset_id}'", known, problems)
    if problems:
        raise InputError(problems)
    checked: DatasetSpec = dataset
    return checked


def constructor_arguments(model_class: type) -> dict[str, Any]:
    """Name -> (type, default) of a model's own hyper-parameters and those of its training.

    Its own are the arguments of its constructor; the training's are keyword-only arguments of
    the engine. ``feature_map`` and other keyword-only arguments are handed over by the program,
    the column names come from the data set, ``model_id`` and ``gpu`` from the command line.
    """
    elsewhere = {"self", "feature_map", "gpu", *RunSpec.model_fields, *DatasetSpec.model_fields}
    arguments: dict[str, Any] = {}
    for owner, kind in (
        (model_class, inspect.Parameter.POSITIONAL_OR_KEYWORD),
        (ResumableModel, inspect.Parameter.KEYWORD_ONLY),
        (TrainableModel, inspect.Parameter.KEYWORD_ONLY),
    ):
        constructor = vars(owner)["__init__"]
        hints = typing.get_type_hints(constructor, include_extras=True)
        arguments |= {
            name: (hints.get(name, Any), _default(parameter))
            for name, parameter in inspect.signature(constructor).parameters.items()
            if parameter.kind is kind and name not in elsewhere
        }
    return arguments


def _default(parameter: inspect.Parameter) -> Any:
    return ... if parameter.default is parameter.empty else parameter.default


@functools.cache
def experiment_spec(model_class: type) -> type[RunSpec]:
    """What an experiment with this model may say: types and ranges of all its keys."""
    arguments = constructor_arguments(model_class)
    return pydantic.create_model("ExperimentSpec", __base__=RunSpec, **arguments)


def validated(
    spec: type[Spec], values: dict[str, Any], where: str, known: set[str], problems: list[str]
) -> Any:
    """The checked values, or ``None`` after adding to ``problems``.

    Args:
        spec: Types and ranges.
        values: By key, as YAML has them.
        where: What is checked, for the messages.
        known: Keys that a misspelt one may have meant.
        problems: Gets a message for each wrong key.
    """
    try:
        return spec(**values)
    except pydantic.ValidationError as error:
        problems += _messages(error, where, values, known)
        return None


def _messages(
    error: pydantic.ValidationError, where: str, values: Mapping[str, Any], known: set[str]
) -> list[str]:
    """One message for each wrong key; the members of a union type are told together."""
    texts: dict[str, list[str]] = {}
    hints: dict[str, str] = {}
    for item in error.errors():
        key = _key(item["loc"], values)
        text, hint = item["msg"].removeprefix("Value error, "), ""
        if item["type"] == "extra_forbidden":
            text = f"unknown key{suggestion(str(item['loc'][-1]), known)}"
        elif item["type"] == "missing":
            text = "this key is missing"
        elif item["type"] != "value_error":
            text = _PLAIN.get(item["type"], text)
            hint = f", found {item['input']!r}{_number_hint(item['input'])}"
        texts.setdefault(key, []).append(text)
        hints[key] = hint or hints.get(key, "")
    return [f"{where}: {key}: {' or '.join(texts[key])}{hints[key]}" for key in texts]


def _key(location: tuple[int | str, ...], values: Mapping[str, Any]) -> str:
    """``batch_size``, or ``feature_cols[item_tags].vocab_size`` for an entry of a list."""
    if not location:
        return "settings"
    key = str(location[0])
    if len(location) > 1 and isinstance(location[1], int):
        entry = one_entry_per_column(values[key])[location[1]]
        name = entry.get("name", location[1]) if isinstance(entry, dict) else location[1]
        key += f"[{name}]" + "".join(f".{part}" for part in location[2:3])
    return key


def _number_hint(value: Any) -> str:
    if not isinstance(value, str):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    if not math.isfinite(number):
        return ""
    # Of 1e-05 YAML makes a text again.
    return f" (YAML reads {value} as text; write {yaml.safe_dump(number).split()[0]})"
