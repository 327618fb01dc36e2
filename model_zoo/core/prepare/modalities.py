"""Files of vectors, one for each modality: opened, named, and aligned with the items."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from model_zoo.core.errors import InputError
from model_zoo.core.prepare.item_file import ItemFile, no_common_id
from model_zoo.core.prepare.projection import Floats, blocks, spans
from model_zoo.core.prepare.vectors import Vectors, open_vectors

_LARGEST = 1e30  # beyond it the square is no finite float32


@dataclass(frozen=True)
class Coverage:
    """One modality and the items.

    Attributes:
        vectors: The opened file.
        missing: Ids of items without a vector.
        zero: Ids of items whose vector is all zeros, which counts as missing.
        unused: Vectors whose id is no item's.
    """

    vectors: Vectors
    missing: list[str]
    zero: list[str]
    unused: int


def open_all(
    items: ItemFile,
    paths: Sequence[str | os.PathLike[str]],
    item_id: str,
    ids_keys: Sequence[str],
    vectors_keys: Sequence[str],
    ids_files: Sequence[str | os.PathLike[str]],
    row_order: bool,
) -> list[Vectors]:
    """Open the file of every modality; the arguments are those of :func:`.embed.embed`.

    Raises:
        InputError: With the problems of all files.
    """
    files = [Path(path) for path in paths]
    # An npy file holds no ids.
    bare = [i for i, file in enumerate(files) if file.suffix.lower() == ".npy"]
    of_bare = dict(zip(bare, _one_each("--ids-file", ids_files, len(bare)), strict=True))
    at = _one_each("--ids-key", ids_keys, len(files))
    keys = _one_each("--vectors-key", vectors_keys, len(files))
    # Without a row for the padding, the first row is the first item's.
    in_order = {len(items.ids): items.ids, len(items.ids) - items.first: items.ids[items.first :]}
    opened, problems = [], []
    for i, file in enumerate(files):
        try:
            one = open_vectors(
                file,
                ids_key=at[i],
                vectors_key=keys[i],
                ids_file=of_bare.get(i),
                row_ids=in_order if row_order else None,
                item_id=item_id,
            )
            opened.append(one)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return opened


def _one_each(option: str, given: Sequence[Any], count: int) -> list[Any]:
    if not given:
        return [None] * count
    if len(given) not in (1, count):
        raise InputError(
            f"{option} has {len(given)} values for {count} files; expected 1 or {count}"
        )
    return list(given) * (count if len(given) == 1 else 1)


def name_modalities(sources: list[Vectors], names: Sequence[str]) -> list[str]:
    """A name for each modality; the file's name goes before two equal ones."""
    if names:
        labels = list(names)
    else:
        keys = [source.name for source in sources]
        labels = [
            name if keys.count(name) == 1 else f"{Path(source.path).stem}/{name}"
            for name, source in zip(keys, sources, strict=True)
        ]
    if len(labels) != len(sources) or len(set(labels)) < len(labels):
        raise InputError(
            f"names {', '.join(labels)} for {len(sources)} files; expected a different one for "
            "each with --names"
        )
    return labels


def align(
    matrix: Floats, items: ItemFile, sources: list[Vectors], quiet: bool
) -> tuple[npt.NDArray[np.bool_], list[Coverage]]:
    """Put every vector into its item's row.

    Args:
        matrix: (items, W) zeros, to be filled.
        items: Whose rows they are.
        sources: The modalities, of total width W.
        quiet: Show no progress bar.

    Returns:
        Which (item, modality) there are, and each modality's coverage.

    Raises:
        InputError: A file has no item's vector, or a number that is not finite or too large.
    """
    wanted = {item: row for row, item in enumerate(items.ids) if row >= items.first}
    has = np.zeros((len(matrix), len(sources)), dtype=bool)
    modalities, problems = [], []
    total = sum(len(source.ids) for source in sources)
    with tqdm(total=total, unit=" vectors", disable=quiet) as bar:
        columns = spans([source.width for source in sources])
        for m, (source, span) in enumerate(zip(sources, columns, strict=True)):
            rows = np.array([wanted.get(item, -1) for item in source.ids], dtype=np.int64)
            found = rows[rows >= 0]
            if not len(found):
                problems.append(no_common_id(items, source.path, source.ids))
                continue
            for block in blocks(len(rows)):
                used = np.flatnonzero(rows[block] >= 0)
                if len(used):
                    values = source.read(block.start, block.stop)[used].astype(np.float64)
                    target = rows[block][used]
                    _refuse_unsound(source, block.start + used, values)
                    matrix[target, span] = values
                    has[target, m] = values.any(axis=1)
                bar.update(block.stop - block.start)
            there = np.zeros(len(matrix), dtype=bool)
            there[found] = True
            # The padding's own vector is no surprise.
            pad = int(bool(items.first) and items.ids[0] in source.ids)
            missing = [item for item, row in wanted.items() if not there[row]]
            zero = [item for item, row in wanted.items() if there[row] and not has[row, m]]
            modalities.append(Coverage(source, missing, zero, len(rows) - len(found) - pad))
    if problems:
        raise InputError(problems)
    return has, modalities


def _refuse_unsound(source: Vectors, rows: npt.NDArray[np.int64], values: Floats) -> None:
    """Refuse NaN and what is too large; ``values`` are from these rows of the file."""
    sound = np.abs(values) < _LARGEST  # false for NaN, too
    if not sound.all():
        k = int(np.argmin(sound.all(axis=1)))
        bad = values[k][np.argmin(sound[k])]
        raise InputError(
            f"{source.path}: '{source.name}', item {source.ids[rows[k]]}, row {rows[k]}: "
            f"found {bad}; expected finite numbers below {_LARGEST:g}"
        )
