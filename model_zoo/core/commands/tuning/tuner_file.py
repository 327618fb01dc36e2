"""A tuner file, read and checked: every mistake in its keys is told at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_zoo import get_model
from model_zoo.core.commands.config import RunSpec, constructor_arguments
from model_zoo.core.commands.tuning.ranges import is_range, read_range
from model_zoo.core.commands.tuning.space import Space, Values
from model_zoo.core.commands.yaml_files import SUFFIXES, read_dataset, read_experiment, read_yaml
from model_zoo.core.data.spec import DatasetSpec
from model_zoo.core.errors import InputError, suggestion
from model_zoo.core.paths import expanded

FILE_KEYS = {"base_config", "base_expid", "dataset_id", "tuner_space"}
INLINE = ("model_config", "dataset_config")  # FuxiCTR: the base's settings in the file itself
TUNER_KEYS = FILE_KEYS | set(INLINE)


def read_space(config_file: str | Path) -> Space:
    """Read and check a tuner file.

    Raises:
        InputError: With every mistake found in its keys.
    """
    file = Path(config_file)
    if file.suffix not in SUFFIXES:
        raise InputError(f"{file}: expected a name that ends with {' or '.join(SUFFIXES)}")
    tuner = read_yaml(file)
    problems = [
        f"{file}: {key}: unknown key{suggestion(key, TUNER_KEYS)}"
        for key in tuner
        if key not in TUNER_KEYS
    ]
    problems += [
        f"{file}: {key}: this key is missing"
        for key in ("base_expid", "tuner_space")
        if key not in tuner
    ]
    if problems:
        raise InputError(problems)
    space = tuner["tuner_space"]
    if not isinstance(space, dict) or not space:
        raise InputError(f"{file}: tuner_space: expected a mapping of keys to lists")
    expid = str(tuner["base_expid"])
    base = _base(file, tuner, expid)
    dataset_id = tuner.get("dataset_id", base.get("dataset_id"))
    if dataset_id is None:
        raise InputError(f"{file}: dataset_id: neither here nor in experiment '{expid}'")
    if base.get("dataset_id") == "TBD":  # FuxiCTR's experiments for any data set
        expid = f"{base.get('model')}_{dataset_id}"
    shared = {str(key): values for key, values in space.items()}
    names = _listed(shared.pop("dataset_id", dataset_id))
    own = _models(file, shared)
    seeds = _listed(shared.pop("seed")) if "seed" in shared else None
    problems = [f"{file}: tuner_space: seed: no values"] if seeds == [] else []
    varied: dict[str | None, dict[str, Values]] = {}
    for model, settings in own.items():
        merged = {**shared, **settings}
        if "dataset_id" in space:
            merged["dataset_id"] = names
        varied[model] = _varied(file, _class(file, model or base.get("model")), merged, problems)
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    datasets = {str(name): _dataset(file, tuner, str(name)) for name in names}
    return Space(file, expid, base, datasets, str(dataset_id), varied, seeds)


def _base(file: Path, tuner: Mapping[str, Any], expid: str) -> dict[str, Any]:
    if "model_config" not in tuner:
        return read_experiment(_folder(file, tuner), expid)
    return {**_inline(file, tuner, "model_config", expid), "model_id": expid}


def _dataset(file: Path, tuner: Mapping[str, Any], name: str) -> dict[str, Any]:
    if "dataset_config" not in tuner:
        return read_dataset(_folder(file, tuner), name)
    return {**_inline(file, tuner, "dataset_config", name), "dataset_id": name}


def _folder(file: Path, tuner: Mapping[str, Any]) -> str:
    return expanded(str(tuner.get("base_config", os.path.dirname(file) or ".")))


def _inline(file: Path, tuner: Mapping[str, Any], kind: str, name: str) -> dict[str, Any]:
    sections = tuner[kind] if isinstance(tuner[kind], dict) else {}
    section = {str(key): values for key, values in sections.items()}.get(name)
    if not isinstance(section, dict):
        raise InputError(
            f"{file}: {kind}: '{name}' is not a mapping there{suggestion(name, [*sections])}"
        )
    return section


def _listed(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _models(file: Path, shared: dict[str, Any]) -> dict[str | None, dict[str, Any]]:
    """The models that the space names, each with the space of its own, taken out of ``shared``."""
    if "model" not in shared:
        return {None: {}}
    named = shared.pop("model")
    if isinstance(named, dict):
        spaces = dict(named)
    else:
        models = _listed(named)
        problems = [
            f"{file}: tuner_space: model: {model!r}: expected a model's name, each once"
            for i, model in enumerate(models)
            if not isinstance(model, str) or model in models[:i]
        ]
        if not models:
            problems = [f"{file}: tuner_space: model: no values"]
        if problems:
            raise InputError(problems)
        spaces = {model: shared.pop(model, None) for model in models}
    wrong = [model for model, of in spaces.items() if not isinstance(of or {}, dict)]
    if wrong:
        raise InputError(f"{file}: tuner_space: {wrong[0]}: expected a mapping of keys to lists")
    for model in spaces:
        _class(file, model)
    return {model: of or {} for model, of in spaces.items()}


def _class(file: Path, model: Any) -> type:
    try:
        return get_model(str(model))
    except ValueError as error:
        raise InputError(f"{file}: {error}") from None


def _varied(
    file: Path, model_class: type, space: Mapping[str, Any], problems: list[str]
) -> dict[str, Values]:
    """The values of each setting, after adding to ``problems``."""
    fields: dict[str, Any] = {
        name: (field.annotation, field)
        for spec in (DatasetSpec, RunSpec)
        for name, field in spec.model_fields.items()
    }
    fields |= constructor_arguments(model_class)
    # The tuner names the trials; a generated data set has one place for its files.
    known = set(fields) - {"model_id", "demo", "model", "seed"}
    varied: dict[str, Values] = {}
    for key, values in space.items():
        where = f"{file}: tuner_space: {key}"
        if key not in known:
            why = "cannot be varied" if key in fields else "unknown key"
            problems.append(f"{where}: {why}{suggestion(key, known - {key})}")
        elif is_range(values) and key in DatasetSpec.model_fields:
            problems.append(f"{where}: a setting of data takes no range; list its values")
        elif is_range(values):
            found = read_range(where, values, fields[key], problems)
            if found is not None:
                varied[key] = found
        elif values == []:
            problems.append(f"{where}: no values")
        else:
            varied[key] = _listed(values)
    return varied
