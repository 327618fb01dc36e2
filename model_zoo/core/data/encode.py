"""Raw data, with ids of any kind, becomes the integers that everything else works with.

FuxiCTR's ``FeatureProcessor`` builds the vocabularies, from what occurs in training only.
Items are numbered by their row in item_info instead, so that an item that training has not
seen keeps its own tags and vector: only its *id feature* becomes the out-of-vocabulary id.
In encoded files the target is the column ``item_row`` and the history holds such rows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from model_zoo.core.data.encoding_state import (
    STATE,
    content_of,
    differences,
    place_of,
    read_state,
    write_state,
)
from model_zoo.core.data.numbers import NumberEncoder, Numbers, fit_numbers
from model_zoo.core.data.parquet import (
    parquet_files,
    plain_pieces,
    scan_plain,
)
from model_zoo.core.data.schema import is_label_type, missing_files
from model_zoo.core.data.spec import LENGTH_SUFFIX, DatasetSpec, FeatureSpec
from model_zoo.core.data.vocabulary import (
    Encoder,
    Vocabularies,
    encode_features,
    fit_vocabularies,
)
from model_zoo.core.errors import InputError
from model_zoo.core.files import write_aside

ITEM_ROW = "item_row"
Encoders = dict[str, Callable[[pl.Series], pl.Series]]


def encode_dataset(dataset: DatasetSpec, *, progress: bool = True) -> DatasetSpec:
    """Encode a checked raw data set into ``data_root/dataset_id``, as far as it is not yet.

    Vocabularies and the statistics of numeric features are built once and kept in
    ``encoding.json``. Changed valid or test files
    and a changed item_info (new items) are encoded again with them; a changed configuration
    or train file is refused, because models trained on the vocabularies would not fit.

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
    prints = {name: content_of(source, state, name) for name, source in sources.items()}
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
    return _encoded_spec(dataset, state["vocabulary"], targets)


def read_vocabularies(dataset: DatasetSpec) -> Vocabularies:
    """The vocabularies that :func:`encode_dataset` built for a raw data set.

    Raises:
        InputError: If it has not been encoded yet.
    """
    vocabularies: Vocabularies = _known_state(dataset)["vocabulary"]
    return vocabularies


def read_numbers(dataset: DatasetSpec) -> Numbers:
    """The statistics of numeric features that :func:`encode_dataset` kept.

    Raises:
        InputError: If it has not been encoded yet.
    """
    numbers: Numbers = _known_state(dataset).get("numbers", {})
    return numbers


def _known_state(dataset: DatasetSpec) -> dict[str, Any]:
    path = Path(dataset.data_root) / dataset.dataset_id / STATE
    state = read_state(path)
    if state is None:
        raise InputError(f"{path}: no such file; the data set has not been encoded")
    return state


def encode_file(dataset: DatasetSpec, source: Path, target: Path) -> None:
    """Encode one more file of a raw data set that :func:`encode_dataset` has encoded.

    Args:
        dataset: The raw data set.
        source: A checked file of rows.
        target: Where the encoded rows go.

    Raises:
        InputError: If an item is not in item_info.
    """
    encoders = _encoders(dataset, _known_state(dataset))
    _write_split(dataset, encoders, item_keys(dataset), source, target)


def item_keys(dataset: DatasetSpec) -> pl.Series:
    """The raw ids of item_info, in the order of its rows."""
    return scan_plain(dataset.item_info, [dataset.ids(dataset.item_col)]).collect().to_series()


def item_row_column(dataset: DatasetSpec) -> str:
    """``item_row``, or a longer name where the data set has a column of that name."""
    name = ITEM_ROW
    while name in _names(dataset):
        name += "_"
    return name


def history_column(dataset: DatasetSpec) -> str:
    """The history's name in encoded files: longer where a column has that of its lengths."""
    name = dataset.history_col
    while name + LENGTH_SUFFIX in _names(dataset):
        name += "_"
    return name


def _names(dataset: DatasetSpec) -> set[str]:
    return {dataset.label_col.name, *(column.name for column in dataset.feature_cols)}


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
            _write_items(dataset, encoders, target)
        elif Path(source).is_dir():
            files = {target / place_of(file, source): file for file in parquet_files(source)}
            for left in set(parquet_files(target)) - set(files) if target.is_dir() else ():
                left.unlink()  # of a part that is gone
            for part, file in files.items():
                _write_split(dataset, encoders, keys, file, part)
        else:
            _write_split(dataset, encoders, keys, Path(source), target)


def _write_items(dataset: DatasetSpec, encoders: Encoders, target: Path) -> None:
    features = dataset.features(of_items=True)
    items = scan_plain(dataset.item_info, features).collect()
    encoded = pl.DataFrame(encode_features(items, features, encoders))
    padding = encoded.head(1).select(
        pl.col(f.name).list.eval(pl.element() * 0)
        if isinstance(encoded.schema[f.name], pl.List)
        else pl.col(f.name) * 0
        for f in features
    )
    table = pl.concat([padding, encoded]).with_row_index(item_row_column(dataset))
    with write_aside(target) as partial:
        table.write_parquet(partial)


def _write_split(
    dataset: DatasetSpec,
    encoders: Encoders,
    keys: pl.Series,
    source: Path,
    target: Path,
) -> None:
    """Encode a file piece by piece.

    Raises:
        InputError: If a target or history item is not in item_info: the first of each
            column, and how many.
    """
    features = [*dataset.features(of_items=False), *dataset.meta_columns()]
    label = dataset.label_col.name
    ids = [dataset.ids(dataset.item_col), dataset.ids(dataset.history_col)]
    item_row, history = item_row_column(dataset), history_column(dataset)
    unknown: dict[str, tuple[int, Any, int]] = {}  # column -> first row, its value, count
    with write_aside(target) as partial, ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        for start, piece in plain_pieces(source, [*ids, *features], [label]):
            columns = []
            for name in (dataset.item_col, dataset.history_col):
                column, missing = _item_rows(piece[name], keys)
                columns.append(column)
                if missing:
                    row, value, count = missing[0][0] + start, missing[0][1], len(missing)
                    before = unknown.get(name, (row, value, 0))
                    unknown[name] = (before[0], before[1], before[2] + count)
            columns = [columns[0].alias(item_row), columns[1].alias(history)]
            columns += encode_features(piece, features, encoders)
            if label in piece.columns and is_label_type(piece.schema[label]):
                columns.append(piece[label].cast(pl.Float32, strict=False))
            # Ids of users and groups only have to be told apart.
            narrow = pl.selectors.by_dtype(pl.Int128).cast(pl.Int64, wrap_numerical=True)
            table = pl.DataFrame(columns).with_columns(narrow).to_arrow()
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(partial, table.schema))
            writer.write_table(table)
        if unknown:
            raise InputError(
                [
                    f"{source}: column '{name}', row {row}: found {value!r}, expected an item of "
                    f"{dataset.item_info} ({count} such values)"
                    for name, (row, value, count) in unknown.items()
                ]
            )


def _item_rows(values: pl.Series, keys: pl.Series) -> tuple[pl.Series, list[tuple[int, Any]]]:
    """Item ids, or lists of them, as rows of item_info; nulls of a list are padding.

    Returns:
        The rows, int32, and the row number and value of each id that is not in ``keys``.
    """
    is_list = values.dtype == pl.List
    flat = values.explode(empty_as_null=False) if is_list else values
    slots = values.list.len().to_numpy() if is_list else np.ones(len(values), dtype=np.int64)
    owner = np.repeat(np.arange(len(values)), slots)
    real = (flat.is_not_null() & (flat.cast(pl.String) != "")).to_numpy()
    flat, owner = flat.filter(pl.Series(real)), owner[real]
    if flat.dtype != keys.dtype:  # some are beyond 64 bits with a sign
        flat, keys = flat.cast(pl.Int128), keys.cast(pl.Int128)
    rows = flat.replace_strict(keys, range(1, len(keys) + 1), default=None, return_dtype=pl.Int32)
    absent = rows.is_null()
    missing = list(zip(owner[absent.to_numpy()].tolist(), flat.filter(absent), strict=True))
    if not is_list:
        return rows.fill_null(0), missing
    ends = np.bincount(owner, minlength=len(values)).cumsum()
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
    lists = pa.ListArray.from_arrays(offsets, rows.fill_null(0).to_arrow())
    return pl.Series(values.name, pl.from_arrow(lists)), missing


def _encoded_spec(
    dataset: DatasetSpec, vocabulary: Vocabularies, targets: dict[str, Path]
) -> DatasetSpec:
    item_row = item_row_column(dataset)
    columns = [
        FeatureSpec(name=item_row, type="meta", dtype="int"),
        FeatureSpec(name=history_column(dataset), type="meta", dtype="int"),
    ]
    for column in [*dataset.meta_columns(), *dataset.features(of_items=False)]:
        columns.append(_encoded_column(column, vocabulary))
    for column in dataset.features(of_items=True):
        columns.append(_encoded_column(column, vocabulary))
    return dataset.model_copy(
        update={
            "rebuild_dataset": False,
            "list_separator": None,
            "feature_cols": [c.model_copy(update={"splitter": None}) for c in columns],
            "item_col": item_row,
            "history_col": history_column(dataset),
            "item_info": str(targets["item_info"]),
            "train_data": str(targets["train"]),
            "valid_data": str(targets["valid"]),
            "test_data": str(targets["test"]) if "test" in targets else None,
        }
    )


def _encoded_column(column: FeatureSpec, vocabulary: Vocabularies) -> FeatureSpec:
    if column.name not in vocabulary:
        return column
    size = max(vocabulary[column.name]["ids"]) + 1
    update: dict[str, Any] = {"dtype": "int"}
    if column.type != "meta":
        update["vocab_size"] = size
    return column.model_copy(update=update)
