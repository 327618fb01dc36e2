"""``qin-data embed``: vectors of any width become the multimodal column of item_info.

Each modality ``x`` (title, cover, ...) is standardised over the items that have it, the
modalities are concatenated, and PCA keeps the leading directions::

    z_m = (x_m - mean_m) / std_m        0 where the item has no x_m; std 1 where it is constant
    y   = C [z_1 ; z_2 ; ...]           C: dim x total width, orthonormal rows

``z`` has mean 0 by construction, so PCA's own centring is left out, and an item that has no
vector at all gets exactly 0, like padding. The map is saved and can be applied to new items.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from pathlib import Path

import numpy as np

from model_zoo.core.errors import InputError
from model_zoo.core.files import require_apart, require_writable, write_aside, writing
from model_zoo.core.paths import path_argument
from model_zoo.core.prepare.arrow_tables import lists_of
from model_zoo.core.prepare.item_file import (
    OTHER_NUMBERING,
    check_new_columns,
    feature_col,
    read_items,
    some,
    write_items,
)
from model_zoo.core.prepare.modalities import Coverage, align, name_modalities, open_all
from model_zoo.core.prepare.projection import (
    Projection,
    allocate,
    blocks,
    principal_components,
    standardise,
    statistics,
)

EXAMPLE = (
    "qin-data embed --item-info data/MicroLens_50k_x1/item_info.parquet "
    "--vectors title_embedding.h5 cover_embedding.npz --dim 128 --column item_emb_title_cover"
)


@dataclass(frozen=True)
class EmbedSummary:
    """What :func:`embed` did.

    Attributes:
        column: The column's name.
        projection: The map.
        saved: Where it lies, beside item_info.
        modalities: In the order of concatenation.
        items: Items (padding excluded); ``without`` of them got the zero vector.
        encoded: item_info has a padding row, so its ids are row numbers.
    """

    column: str
    projection: Projection
    saved: Path
    modalities: list[Coverage]
    items: int
    without: int
    encoded: bool


def embed(
    item_info: str | os.PathLike[str],
    *,
    vectors: Sequence[str | os.PathLike[str]],
    dim: int | None = None,
    column: str | None = None,
    item_id: str = "item_id",
    ids_keys: Sequence[str] = (),
    vectors_keys: Sequence[str] = (),
    names: Sequence[str] = (),
    ids_files: Sequence[str | os.PathLike[str]] = (),
    row_order: bool = False,
    projection: str | os.PathLike[str] | None = None,
    memory_limit: float = 4096,
    replace: bool = False,
    progress: bool = True,
) -> EmbedSummary:
    """Add a column of float32 lists, all of length ``dim``, to ``item_info``.

    Equal arguments give equal values; rows keep their order, and a padding row is all zeros.
    Options that are sequences have one entry for all files, or one for each.

    Args:
        item_info: A parquet file; replaced when the new one is complete.
        vectors: One file for each modality (see :func:`.vectors.open_vectors`).
        dim: Length of the new vectors, 128 by default; equal to the total width: no PCA.
        column: Its name, by default ``item_emb_d{dim}``, or the projection's.
        item_id: The id column of item_info. Ids are compared as strings.
        ids_keys: Data sets, arrays or columns that hold the ids.
        vectors_keys: The same for the vectors.
        names: Names of the modalities, by default those of their data sets.
        ids_files: For npy files, in their order: files with their ids.
        row_order: Vectors are in the row order of item_info (padding may be left out); ids that
            the files hold are not looked at. For raw ids in the files and encoded ones here.
        projection: A saved map to apply, instead of fitting one.
        memory_limit: MiB for the matrix of all vectors (float64). A larger one lies in a scratch
            file beside item_info, and PCA sees it in chunks.
        replace: Allow to write over a column that item_info has.
        progress: Show a progress bar, if standard output is a terminal.

    Raises:
        InputError: Something is wrong with the files or arguments; nothing is written.
    """
    if not vectors:
        raise InputError("no file of vectors; expected one for each modality")
    saved = None if projection is None else Projection.load(projection)
    dim = _choose_dim(dim, saved, projection)
    column = column or (saved.column if saved else f"item_emb_d{dim}")
    if memory_limit <= 0:
        raise InputError(f"--memory-limit is {memory_limit}; expected MiB above 0")
    # Also where a saved map is applied: the file beside is the one that made the column.
    place = Path(item_info)
    beside = place.with_name(f"{place.stem}.{column}.projection.npz")
    inputs = {f"--vectors {k}:": path for k, path in enumerate(vectors, 1)}
    inputs |= {f"--ids-file {k}:": path for k, path in enumerate(ids_files, 1)}
    require_apart(inputs, {"--item-info": item_info, "the map": beside})
    require_apart({"--projection": projection}, {"--item-info": item_info})
    require_writable([item_info, beside])
    items = read_items(item_info, item_id)
    check_new_columns(items, item_id, [column], replace)
    sources = open_all(items, vectors, item_id, ids_keys, vectors_keys, ids_files, row_order)
    labels = name_modalities(sources, names)
    widths = [source.width for source in sources]
    if saved and (saved.names, saved.widths) != (labels, widths):
        raise InputError(
            f"{projection}: made for {_describe(saved.names, saved.widths)}, but the vectors "
            f"are {_describe(labels, widths)}; --names renames them"
        )
    if dim > sum(widths) and not saved:
        raise InputError(
            f"--dim is {dim}, but the vectors have {sum(widths)} dimensions together "
            f"({_describe(labels, widths)}); expected at most {sum(widths)}"
        )

    with ExitStack() as stack:
        quiet = not (progress and sys.stdout.isatty())
        shape = (len(items.ids), sum(widths))
        matrix = allocate(shape, memory_limit, items.path, stack)
        has, modalities = align(matrix, items, sources, quiet)
        with_any = int(has.any(axis=1).sum())
        if saved is None:
            if sum(widths) > dim > with_any:
                raise InputError(
                    f"--dim is {dim}, but only {with_any} items have a vector; expected at most "
                    f"{with_any}"
                )
            mean, scale = statistics(matrix, has, widths)
            standardise(matrix, has, widths, mean, scale)
            components, explained = principal_components(matrix, dim, memory_limit)
            made = Projection(column, labels, widths, mean, scale, components, explained)
        else:
            made = replace_fields(saved, column=column)
            standardise(matrix, has, widths, made.mean, made.scale)
        result = np.zeros((len(matrix), made.dim), dtype=np.float32)
        for block in blocks(len(matrix)):
            part = matrix[block]
            result[block] = part @ made.components.T if len(made.components) else part

        with writing(beside):
            made.save(stack.enter_context(write_aside(beside)))
        write_items(items, {column: lists_of(result)}, command="qin-data embed")
    count = len(items.ids) - items.first
    return EmbedSummary(column, made, beside, modalities, count, count - with_any, items.padding)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``qin-data embed``."""
    add = parser.add_argument
    add("--item-info", type=path_argument, required=True, metavar="FILE", help="replaced in place")
    add(
        "--vectors",
        type=path_argument,
        required=True,
        nargs="+",
        metavar="FILE",
        help="HDF5, npz, npy or parquet; one for each modality (a file may be named twice)",
    )
    add("--dim", type=int, help="length of the new vectors (128)")
    add("--column", metavar="NAME", help="name of the new column (item_emb_d{dim})")
    add("--id", default="item_id", metavar="NAME", help="column of the item ids")
    each = "one for all files, or one for each"
    add("--ids-key", nargs="+", default=[], metavar="NAME", help=f"where the ids are: {each}")
    add("--vectors-key", nargs="+", default=[], metavar="NAME", help=f"and the vectors: {each}")
    add("--names", nargs="+", default=[], metavar="NAME", help="names of the modalities")
    add(
        "--ids-file",
        type=path_argument,
        nargs="+",
        default=[],
        metavar="FILE",
        help="ids of npy files: npy, text with one a line, or csv (also .gz); --ids-key names its "
        "header, by default --id",
    )
    add(
        "--row-order",
        action="store_true",
        help="vectors are in the row order of item_info: look at no ids",
    )
    add(
        "--projection",
        type=path_argument,
        metavar="FILE",
        help="apply this saved map instead of fitting one",
    )
    add(
        "--memory-limit",
        type=float,
        default=4096,
        metavar="MIB",
        help="beyond it the vectors lie in a scratch file and PCA works in chunks (4096)",
    )
    add("--replace", action="store_true", help="write over a column that is there already")


def run(arguments: argparse.Namespace) -> None:
    """Embed, and report coverage, explained variance and the line for the dataset YAML."""
    done = embed(
        arguments.item_info,
        vectors=arguments.vectors,
        dim=arguments.dim,
        column=arguments.column,
        item_id=arguments.id,
        ids_keys=arguments.ids_key,
        vectors_keys=arguments.vectors_key,
        names=arguments.names,
        ids_files=arguments.ids_file,
        row_order=arguments.row_order,
        projection=arguments.projection,
        memory_limit=arguments.memory_limit,
        replace=arguments.replace,
    )
    made = done.projection
    for name, modality in zip(made.names, done.modalities, strict=True):
        missing, zero = modality.missing, modality.zero
        count = done.items - len(missing) - len(zero)
        print(
            f"{modality.vectors.path} ({name}, width {modality.vectors.width}): "
            f"{count} of {done.items} items have a vector"
        )
        for what, ids in (("without a vector", missing), ("with an all-zero vector", zero)):
            if ids:
                print(f"  {len(ids)} items ({len(ids) / done.items:.2%}) {what}: {some(ids)}")
        if modality.unused:
            print(f"  {modality.unused} vectors belong to no item: not used")
            if done.encoded:
                print(f"  warning: {OTHER_NUMBERING}, or see --row-order")
    if done.without:
        print(f"{done.without} items have no vector at all: theirs is zero")
    if len(made.components):
        share = made.explained.sum()
        print(f"PCA {len(made.mean)} -> {made.dim}: {share:.2%} of the variance kept")
    else:
        print(f"no PCA: {made.dim} is the width of the vectors")
    print(f"{done.saved}: the map, for --projection with new items")
    print(
        f"{arguments.item_info}: column {done.column}; feature_cols, to paste into "
        "dataset_config.yaml:"
    )
    print(f"        {feature_col(done.column, np.zeros((1, made.dim), dtype=np.float32))}")


def _choose_dim(
    dim: int | None, saved: Projection | None, path: str | os.PathLike[str] | None
) -> int:
    if dim is not None and dim < 1:
        raise InputError(f"--dim is {dim}; expected at least 1")
    if saved is None:
        return 128 if dim is None else dim
    if dim not in (None, saved.dim):
        raise InputError(f"--dim is {dim}, but {path} makes vectors of length {saved.dim}")
    return saved.dim


def _describe(names: list[str], widths: list[int]) -> str:
    return " + ".join(f"{name} ({width})" for name, width in zip(names, widths, strict=True))
