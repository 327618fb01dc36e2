"""Vector files: ids and one vector per id, from HDF5, npz, npy or parquet.

Nothing is ever unpickled: an array of Python objects is refused. HDF5 and npy files are read
block by block; npz and parquet have no rows to seek to, so their vectors are held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile
from zlib import error as ZlibError

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from model_zoo.core.data.readable import unreadable
from model_zoo.core.errors import InputError
from model_zoo.core.prepare.arrow_tables import (
    column_strings,
    is_id_type,
    is_number_list,
    list_matrix,
    refuse_repeats,
)
from model_zoo.core.prepare.ids_file import read_text_ids
from model_zoo.core.prepare.vector_parts import EXPECTED, Role, pick, role_of

_RowIds = Mapping[int, list[str]] | None
# What a file's reader may raise because of the file's content.
NPZ_ERRORS = (OSError, ValueError, EOFError, KeyError, RuntimeError, BadZipFile, ZlibError)
_UNREADABLE = (*NPZ_ERRORS, TokenError, pa.ArrowException)


@dataclass(frozen=True)
class Vectors:
    """One modality: ``ids[k]`` owns row ``k``.

    Attributes:
        path: The file, for messages.
        name: The data set, array or column in it; the file's stem for npy.
        ids: As strings, unique.
        width: Length of every vector.
        read: ``read(start, stop)`` gives the rows ``start..stop - 1``, of any real type,
            shape (stop - start, width).
    """

    path: str
    name: str
    ids: list[str]
    width: int
    read: Callable[[int, int], npt.NDArray[Any]]


def open_vectors(
    path: str | Path,
    *,
    ids_key: str | None = None,
    vectors_key: str | None = None,
    ids_file: str | Path | None = None,
    row_ids: _RowIds = None,
    item_id: str = "item_id",
) -> Vectors:
    """Open one file of vectors; the format goes by the suffix.

    Args:
        path: ``.h5``, ``.hdf5``, ``.npz``, ``.npy`` or ``.parquet``.
        ids_key: Data set, array or column of the ids; by default the one named ``item_id``,
            or else the only one with one dimension of integers or strings.
        vectors_key: The same for the vectors; by default the only floating one of two
            dimensions (parquet: the only column of lists of floats).
        ids_file: For npy, which has no ids: a ``.npy`` file, or text
            (:func:`.ids_file.read_text_ids`), whose header is ``ids_key`` or ``item_id``.
        row_ids: Ids of the rows, by the number of rows; ids in the file are not looked at.
        item_id: The preferred name of the ids.

    Raises:
        InputError: The file is missing, unreadable, or is not ids with equally long vectors.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    kind = file.suffix.lower()
    if kind in (".h5", ".hdf5"):
        opened = _open_hdf5(file, ids_key, vectors_key, item_id, row_ids)
    elif kind == ".npz":
        opened = _open_npz(file, ids_key, vectors_key, item_id, row_ids)
    elif kind == ".npy":
        opened = _open_npy(file, ids_file, ids_key, item_id, row_ids)
    elif kind == ".parquet":
        opened = _open_parquet(file, ids_key, vectors_key, item_id, row_ids)
    else:
        raise InputError(
            f"{file}: vectors in a '{kind}' file; expected .h5, .hdf5, .npz, .npy or .parquet"
        )
    refuse_repeats(opened.ids, opened.path)
    return opened


def _open_hdf5(
    path: Path, ids_key: str | None, vectors_key: str | None, item_id: str, row_ids: _RowIds
) -> Vectors:
    parts: dict[str, str] = {}
    roles: dict[str, Role | None] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            text = h5py.check_string_dtype(node.dtype) is not None
            parts[name] = f"{'string' if text else node.dtype} {node.shape}"
            roles[name] = role_of(node.dtype, node.shape, text=text)

    def read(start: int, stop: int) -> npt.NDArray[Any]:
        try:
            with h5py.File(path, "r") as file:
                block: npt.NDArray[Any] = file[key][start:stop]
        except _UNREADABLE as error:
            raise unreadable(path, "HDF5", error) from None
        return block

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
            key = pick(path, parts, roles, "vectors", vectors_key, None)
            rows, width = file[key].shape
            if row_ids is not None:
                ids = _ids_by_row(path, rows, row_ids)
            else:
                at = pick(path, parts, roles, "ids", ids_key, item_id)
                stored = file[at].asstr() if h5py.check_string_dtype(file[at].dtype) else file[at]
                ids = _strings(path, stored[:])
                _check_lengths(path, at, len(ids), key, rows)
    except InputError:
        raise
    except _UNREADABLE as error:
        raise unreadable(path, "HDF5", error) from None
    return Vectors(str(path), key, ids, width, read)


def _open_npz(
    path: Path, ids_key: str | None, vectors_key: str | None, item_id: str, row_ids: _RowIds
) -> Vectors:
    arrays: dict[str, npt.NDArray[Any]] = {}
    parts: dict[str, str] = {}
    roles: dict[str, Role | None] = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                try:
                    array = file[name]
                except ValueError as error:
                    if "allow_pickle" not in str(error):
                        raise
                    parts[name], roles[name] = "Python objects, which are never unpickled", None
                    continue
                arrays[name] = array
                parts[name] = f"{array.dtype} {array.shape}"
                roles[name] = role_of(array.dtype, array.shape, text=array.dtype.kind in "SU")
    except _UNREADABLE as error:
        raise unreadable(path, "npz", error) from None
    key = pick(path, parts, roles, "vectors", vectors_key, None)
    values = arrays[key]
    if row_ids is not None:
        ids = _ids_by_row(path, len(values), row_ids)
    else:
        at = pick(path, parts, roles, "ids", ids_key, item_id)
        ids = _strings(path, arrays[at])
        _check_lengths(path, at, len(ids), key, len(values))
    return _from_array(path, key, ids, values)


def _open_npy(
    path: Path, ids_file: str | Path | None, ids_key: str | None, item_id: str, row_ids: _RowIds
) -> Vectors:
    values = _load_npy(path)
    if values.ndim != 2 or values.dtype.kind not in "iuf":
        raise InputError(f"{path}: {values.dtype} {values.shape}; expected {EXPECTED['vectors']}")
    if ids_file is not None:
        ids = _read_ids(Path(ids_file), path, len(values), ids_key, item_id)
    elif row_ids is not None:
        ids = _ids_by_row(path, len(values), row_ids)
    else:
        raise InputError(
            f"{path}: an npy file has no ids; name a file of them with --ids-file, or give "
            "--row-order if its rows are in the order of item_info"
        )
    return _from_array(path, path.stem, ids, values)


def _open_parquet(
    path: Path, ids_key: str | None, vectors_key: str | None, item_id: str, row_ids: _RowIds
) -> Vectors:
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            parts = {field.name: str(field.type) for field in schema}
            roles: dict[str, Role | None] = {}
            for field in schema:
                by_list: Role | None = "vectors" if is_number_list(field.type) else None
                roles[field.name] = "ids" if is_id_type(field.type) else by_list
            # Lists of integers are tags or histories; they are vectors only if named so.
            floats = {f.name for f in schema if is_number_list(f.type, floating=True)}
            key = pick(path, parts, roles, "vectors", vectors_key, None, floats)
            at = None
            if row_ids is None:
                at = pick(path, parts, roles, "ids", ids_key, item_id)
            table = file.read(columns=[key] if at is None else [at, key])
    except InputError:
        raise
    except _UNREADABLE as error:
        raise unreadable(path, "parquet", error) from None
    if at is None:
        ids = _ids_by_row(path, table.num_rows, row_ids or {})
    else:
        ids = column_strings(table[at], f"{path}: column '{at}'")
    values = list_matrix(table[key], f"{path}: column '{key}'", ids)
    return _from_array(path, key, ids, values)


def _from_array(path: Path, name: str, ids: list[str], values: npt.NDArray[Any]) -> Vectors:
    return Vectors(str(path), name, ids, values.shape[1], lambda start, stop: values[start:stop])


def _load_npy(path: Path) -> npt.NDArray[Any]:
    """An npy file mapped into memory: read when looked at. It refuses objects by itself."""
    try:
        mapped: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except _UNREADABLE as error:
        raise unreadable(path, "npy", error) from None
    return mapped


def _read_ids(path: Path, vectors: Path, rows: int, key: str | None, item_id: str) -> list[str]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix.lower() != ".npy":
        return read_text_ids(path, vectors, rows, key=key, item_id=item_id)
    ids = _load_npy(path)
    if role_of(ids.dtype, ids.shape, text=ids.dtype.kind in "SU") != "ids":
        raise InputError(f"{path}: {ids.dtype} {ids.shape}; expected {EXPECTED['ids']}")
    _check_lengths(vectors, str(path), len(ids), vectors.name, rows)
    return _strings(path, ids)


def _strings(path: Path, ids: npt.NDArray[Any]) -> list[str]:
    if ids.dtype.kind == "S":
        try:
            return [str(text) for text in np.char.decode(ids, "utf-8")]
        except UnicodeDecodeError as error:
            raise unreadable(path, "text (UTF-8)", error) from None
    return [str(value) for value in ids.tolist()]


def _ids_by_row(path: Path, rows: int, row_ids: Mapping[int, list[str]]) -> list[str]:
    if rows not in row_ids:
        counts = " or ".join(str(count) for count in row_ids)
        raise InputError(f"{path}: {rows} rows; expected {counts}, as in item_info")
    return row_ids[rows]


def _check_lengths(path: Path, at: str, ids: int, key: str, rows: int) -> None:
    if ids != rows:
        raise InputError(f"{path}: {ids} ids in '{at}', but {rows} vectors in '{key}'")
