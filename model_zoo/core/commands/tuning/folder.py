"""The configuration folder of a search: each trial's settings, and what became of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from model_zoo.core.commands.tuning.space import Space
from model_zoo.core.commands.tuning.trial import Trial
from model_zoo.core.commands.yaml_files import read_yaml
from model_zoo.core.data.schema import SPLITS
from model_zoo.core.errors import InputError
from model_zoo.core.files import write_aside

END = 1 << 16
MARKER = ".made_by_tuner"  # in the folder: whose it is, and which space its trials are of


def config_folder(space: Space) -> Path:
    """The folder beside the tuner file, named like it."""
    return space.file.with_suffix("")


def claim(space: Space) -> Path:
    """Make the folder that the trials' settings go into, or know it again.

    Values may have come or gone since; what the trials share, and which settings are varied,
    may not: the trials of before could not be ranked with those of now.

    Raises:
        InputError: Another space's folder, or none of the tuner's, is there.
    """
    folder = config_folder(space)
    marker, now = folder / MARKER, _mark(space)
    try:
        folder.mkdir()
    except FileExistsError:
        before = _read_mark(marker)
        if before is None or before.get("tuner_file") != space.file.name:
            raise InputError(
                f"{space.file}: the trials' settings go into {folder}, which is there and was "
                "not made by this tuner file; rename the file, or move what is there"
            ) from None
        changes = _changes(before, now)
        if changes:
            remedy = "remove that folder to begin anew, or rename the tuner file"
            raise InputError(
                [f"{folder}: made for an older space: {c}; {remedy}" for c in changes]
            ) from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from None
    with write_aside(marker) as partial:
        partial.write_text(json.dumps(now, indent=1, default=str) + "\n", encoding="utf-8")
    return folder


def write_configs(folder: Path, trials: Sequence[Trial]) -> None:
    """Add the trials' YAML; trials that the space had before stay, and can be run again.

    Each file appears whole, and has every data set before an experiment names it.
    """
    datasets = {t.experiment.dataset.dataset_id: t.dataset_params for t in trials}
    experiments = {t.expid: t.model_params for t in trials}
    for kind, sections in (("dataset_config", datasets), ("model_config", experiments)):
        path = folder / f"{kind}.yaml"
        written = read_yaml(path) if path.is_file() else {}
        with write_aside(path) as partial:
            partial.write_text(as_yaml({**written, **sections}), encoding="utf-8")


def as_yaml(content: Mapping[str, Any]) -> str:
    """YAML in which nothing refers to another place."""
    text: str = yaml.dump(dict(content), Dumper=_PlainDumper, sort_keys=False, width=10_000)
    return text


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _mark(space: Space) -> dict[str, Any]:
    """What the trials of one folder have in common."""
    mark = {
        "tuner_file": space.file.name,
        "base_expid": space.base_expid,
        "dataset_id": space.dataset_id,
        "base": dict(space.base),
        "datasets": {name: dict(dataset) for name, dataset in space.datasets.items()},
        "varied": {model or "": sorted(of) for model, of in space.varied.items()},
        "repeated": space.seeds is not None,
        "files": {
            path: _print(Path(path))
            for dataset in space.datasets.values()
            for path in (dataset.get(key) for key in ("item_info", *(f"{n}_data" for n in SPLITS)))
            if path is not None and Path(path).is_file()
        },
    }
    # As it will be read: a date is a text there.
    read: dict[str, Any] = json.loads(json.dumps(mark, default=str))
    return read


def _print(path: Path) -> list[Any]:
    """Size of a file and a digest of its end: a parquet file has its statistics there."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - END))
        return [size, hashlib.sha256(file.read()).hexdigest()[:16]]


def _read_mark(marker: Path) -> dict[str, Any] | None:
    """``None`` where there is none; of an earlier version the file's name is known."""
    if not marker.is_file():
        return None
    text = marker.read_text(encoding="utf-8")
    try:
        mark = json.loads(text)
    except ValueError:
        mark = {"tuner_file": text.strip()}
    return mark if isinstance(mark, dict) else {"tuner_file": text.strip()}


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    if before.keys() != now.keys():
        return ["an earlier version wrote it"]
    changes = [
        f"{key} was {before[key]} and is {now[key]}"
        for key in ("base_expid", "dataset_id")
        if before[key] != now[key]
    ]
    if before["repeated"] != now["repeated"]:
        changes.append(f"it had {'' if before['repeated'] else 'no '}seeds in its space")
    # Models and data sets may have come or gone, as any value.
    for key in before["varied"].keys() & now["varied"].keys():
        if before["varied"][key] != now["varied"][key]:
            changes.append(
                f"it varied {', '.join(before['varied'][key])}, now {', '.join(now['varied'][key])}"
            )
    changes += [
        f"{path} has changed since"
        for path in before["files"].keys() & now["files"].keys()
        if before["files"][path] != now["files"][path]
    ]
    pairs = [(f"experiment '{now['base_expid']}'", before["base"], now["base"])]
    pairs += [
        (f"data set '{name}'", before["datasets"][name], now["datasets"][name])
        for name in before["datasets"].keys() & now["datasets"].keys()
    ]
    for where, old, new in pairs:
        changes += [
            f"{where}: {key} was {old.get(key)!r} and is {new.get(key)!r}"
            for key in sorted({*old, *new})
            if old.get(key) != new.get(key)
        ]
    return changes
