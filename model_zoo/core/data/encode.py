"""Raw data, with ids of any kind, becomes the integers that everything else works with.

FuxiCTR's ``FeatureProcessor`` builds the vocabularies, from what occurs in training only.
Items are numbered by their row in item_info instead, so that an item that training has not
seen keeps its own tags and vector: only its *id feature* becomes the out-of-vocabulary id.
In encoded files the target is the column ``item_row`` and the history holds such rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from model_zoo.core.data.encoded_files import Encoders, item_keys, write_items, write_split
from model_zoo.core.data.encoded_spec import encoded_spec
from model_zoo.core.data.encoding_state import (
    STATE,
    differences,
    known_state,
    place_of,
    read_state,
    stamp_and_digest,
    write_state,
)
from model_zoo.core.data.numbers import NumberEncoder, Numbers, fit_numbers
from model_zoo.core.data.parquet import parquet_files
from model_zoo.core.data.schema import missing_files
from model_zoo.core.data.spec import DatasetSpec
from model_zoo.core.data.vocabulary import Encoder, Vocabularies, fit_vocabularies
from model_zoo.core.errors import InputError


def encode_dataset(dataset: DatasetSpec, *, progress: bool = True) -> DatasetSpec:
    """Encode a checked raw data set into ``data_root/dataset_id``, as far as it is not yet.

    Vocabularies and the statistics of numeric features are built once and kept in
    ``encoding.json``. Changed valid or test files and a changed item_info (new items) are encoded
    again with them; a changed configuration or train file is refused, because models trained on
    the vocabularies would not fit.

    Args:
        dataset: Raw data set (``rebuild_dataset: True``) that ``check_dataset`` accepts.
        progress: Show a progress bar, if standard output is a terminal.

    Returns:
        The specification of the encoded data set.

    Raises:
        InputError: If configuration or train file have changed since the encoding, the raw
            files lie where the encoded ones go, or an item is not in item_info.
    """
    folder = Path(dataset.data_root) / dataset.dataset_id
    sources = dataset.sources()
    targets = {
        name: folder / (name if Path(source).is_dir() else f"{name}.parquet")
        for name, source in sources.items()
    }
    places = {target.resolve() for target in targets.values()}
    for source in sources.values():
        if Path(source).resolve() in places:
            raise InputError(
                f"{source}: raw data lies where the encoded goes (data_root/dataset_id); "
                "keep it in another folder"
            )
    state_file = folder / STATE
    state = read_state(state_file)
    prints = {name: stamp_and_digest(source, state, name) for name, source in sources.items()}
    if state is None:
        state = {"configuration": _configuration(dataset), "files": {}}
        state["vocabulary"] = fit_vocabularies(dataset)
    else:
        _refuse_changes(dataset, state, prints, folder)
    if "numbers" not in state and not missing_files(dataset, [dataset.train_data]):
        state["numbers"] = fit_numbers(dataset)  # also where an earlier version encoded
        write_state(state_file, state)
    done = state["files"]
    # Rows of item_info are the ids in the splits: if they change, so do all files.
    all_stale = done.get("item_info", {}).get("sha256") != prints["item_info"]["sha256"]
    stale = [
        name
        for name in sources
        if all_stale
        or not targets[name].exists()
        or done.get(name, {}).get("sha256") != prints[name]["sha256"]
    ]
    if stale:
        # Until the state names them, the files being written do not count as encoded.
        state["files"] = {name: done[name] for name in done if name not in stale}
        write_state(state_file, state)
        _transform(dataset, state, sources, targets, stale, progress=progress)
        state["files"] = prints
        write_state(state_file, state)
    return encoded_spec(dataset, state["vocabulary"], targets)


def read_vocabularies(dataset: DatasetSpec) -> Vocabularies:
    """The vocabularies that :func:`encode_dataset` built for a raw data set.

    Raises:
        InputError: If it has not been encoded yet.
    """
    vocabularies: Vocabularies = known_state(dataset)["vocabulary"]
    return vocabularies


def read_numbers(dataset: DatasetSpec) -> Numbers:
    """The statistics of numeric features that :func:`encode_dataset` kept.

    Raises:
        InputError: If it has not been encoded yet.
    """
    numbers: Numbers = known_state(dataset).get("numbers", {})
    return numbers


def encode_file(dataset: DatasetSpec, source: Path, target: Path) -> None:
    """Encode one more file of a raw data set that :func:`encode_dataset` has encoded.

    Args:
        dataset: The raw data set.
        source: A checked file of rows.
        target: Where the encoded rows go.

    Raises:
        InputError: If an item is not in item_info.
    """
    encoders = _encoders(dataset, known_state(dataset))
    write_split(dataset, encoders, item_keys(dataset), source, target)


def _encoders(dataset: DatasetSpec, state: dict[str, Any]) -> Encoders:
    vocabulary: Vocabularies = state["vocabulary"]
    encoders: Encoders = {
        column.name: Encoder(column, vocabulary[column.name])
        for column in dataset.feature_cols
        if column.name in vocabulary
    }
    for column in dataset.feature_cols:
        if column.type == "numeric":
            encoders[column.name] = NumberEncoder(column, state.get("numbers", {}))
    return encoders


def _configuration(dataset: DatasetSpec) -> dict[str, Any]:
    """What the vocabularies depend on."""
    keys = {
        "list_separator",
        "feature_cols",
        "label_col",
        "item_col",
        "history_col",
        "min_categr_count",
    }
    return dataset.model_dump(mode="json", include=keys, exclude_none=True)


def _refuse_changes(
    dataset: DatasetSpec, state: dict[str, Any], prints: dict[str, dict[str, Any]], folder: Path
) -> None:
    changes = differences(state["configuration"], _configuration(dataset))
    before = state["files"].get("train", {}).get("sha256", prints["train"]["sha256"])
    if before != prints["train"]["sha256"]:
        changes.append(f"{dataset.train_data} has another content")
    if changes:
        raise InputError(
            [
                *(f"data set '{dataset.dataset_id}': {change}" for change in changes),
                f"it was encoded before that; delete {folder / STATE} to encode again "
                "(models trained on it will not fit the new vocabularies)",
            ]
        )


def _transform(
    dataset: DatasetSpec,
    state: dict[str, Any],
    sources: dict[str, str],
    targets: dict[str, Path],
    names: list[str],
    *,
    progress: bool,
) -> None:
    encoders = _encoders(dataset, state)
    keys = item_keys(dataset)
    bar = tqdm(names, desc="Encoding", unit="file", disable=None if progress else True)
    for name in bar:
        source, target = sources[name], targets[name]
        if name == "item_info":
            write_items(dataset, encoders, target)
        elif Path(source).is_dir():
            files = {target / place_of(file, source): file for file in parquet_files(source)}
            for left in set(parquet_files(target)) - set(files) if target.is_dir() else ():
                left.unlink()  # of a part that is gone
            for part, file in files.items():
                write_split(dataset, encoders, keys, file, part)
        else:
            write_split(dataset, encoders, keys, Path(source), target)
