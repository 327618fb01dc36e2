"""The map from the vectors of all modalities to one short vector, and how it is fitted.

A matrix holds all items' vectors, float64, (items, W): the modalities lie end to end, zeros
where an item lacks one. ``has`` (items, modalities) says which there are.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from zipfile import is_zipfile

import numpy as np
import numpy.typing as npt

from model_zoo.core.errors import InputError, first_line
from model_zoo.core.files import writing
from model_zoo.core.prepare.vectors import NPZ_ERRORS

_BLOCK = 8192  # rows in hand at a time
_MIB = 1 << 20
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Projection:
    """The fitted map, as saved beside item_info.

    Attributes:
        column: The item_info column it was made for.
        names: Modalities in their order; ``widths`` are their vector lengths.
        mean: (W,) for the total width W, all modalities end to end.
        scale: (W,) standard deviations, 1 where a dimension is constant.
        components: (dim, W), or (0, W) where nothing was reduced.
        explained: Share of the standardised variance that each component carries.
    """

    column: str
    names: list[str]
    widths: list[int]
    mean: Floats
    scale: Floats
    components: Floats
    explained: Floats

    @property
    def dim(self) -> int:
        """Length of the vectors it makes."""
        return len(self.components) or len(self.mean)

    def save(self, path: Path) -> None:
        """Write an npz file without Python objects."""
        versions = {name: version(name) for name in ("numpy", "scikit-learn")}
        np.savez(
            path,
            column=self.column,
            names=np.array(self.names),
            widths=np.array(self.widths),
            mean=self.mean,
            scale=self.scale,
            components=self.components,
            explained=self.explained,
            versions=json.dumps(versions),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Projection:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: No such file, or not such a file.
        """
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file")
        if not is_zipfile(path):
            raise InputError(f"{path}: not a saved projection: cut short, or no npz file")
        try:
            with np.load(path, allow_pickle=False) as file:
                made = cls(
                    str(file["column"]),
                    file["names"].ravel().tolist(),
                    file["widths"].ravel().astype(np.int64).tolist(),
                    *(file[name] for name in ("mean", "scale", "components", "explained")),
                )
        except NPZ_ERRORS as error:
            raise InputError(f"{path}: not a saved projection: {first_line(error)}") from None
        shapes = made.mean.shape, made.scale.shape, made.components.shape[1:]
        if set(shapes) != {(sum(made.widths),)} or len(made.names) != len(made.widths):
            raise InputError(f"{path}: not a saved projection: widths {made.widths}, {shapes}")
        return made


def blocks(rows: int) -> Iterator[slice]:
    """Cut the rows of a matrix into pieces of bounded size."""
    return (slice(start, min(start + _BLOCK, rows)) for start in range(0, rows, _BLOCK))


def spans(widths: list[int]) -> list[slice]:
    """The columns of each modality."""
    ends = np.cumsum(widths).tolist()
    return [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]


def allocate(shape: tuple[int, int], memory_limit: float, near: Path, stack: ExitStack) -> Floats:
    """Zeros in memory, or beyond the limit in a file that goes away with the stack.

    Args:
        shape: (items, W).
        memory_limit: MiB.
        near: The file is made in the same folder.
        stack: Closes the file.

    Raises:
        InputError: The disk is full.
    """
    size = shape[0] * shape[1] * 8
    if size <= memory_limit * _MIB:
        return np.zeros(shape)
    with writing(near.parent):
        # Unbuffered: what the disk refuses is refused here, not when the file is closed.
        opened = tempfile.TemporaryFile(dir=near.parent, buffering=0)  # noqa: SIM115
        scratch = stack.enter_context(opened)
        # A hole in the file would only fail, and then fatally, when the disk is full later.
        while (left := size - scratch.tell()) > 0:
            scratch.write(bytes(min(_MIB, left)))
        mapped: Floats = np.memmap(scratch, dtype=np.float64, mode="r+", shape=shape)
    return mapped


def statistics(
    matrix: Floats, has: npt.NDArray[np.bool_], widths: list[int]
) -> tuple[Floats, Floats]:
    """Mean and standard deviation of every dimension, over the items that have it."""
    mean = np.zeros(matrix.shape[1])
    square = np.zeros(matrix.shape[1])
    for m, span in enumerate(spans(widths)):
        count = max(int(has[:, m].sum()), 1)
        for block in blocks(len(matrix)):
            mean[span] += matrix[block, span][has[block, m]].sum(axis=0) / count
        for block in blocks(len(matrix)):
            centred = matrix[block, span][has[block, m]] - mean[span]
            square[span] += (centred**2).sum(axis=0) / count
    scale = np.sqrt(square)
    # What is left of a constant is rounding; dividing by it would make noise of size one.
    scale[scale <= 1e-6 * np.abs(mean)] = 1.0
    return mean, scale


def standardise(
    matrix: Floats,
    has: npt.NDArray[np.bool_],
    widths: list[int],
    mean: Floats,
    scale: Floats,
) -> None:
    """In place; where a modality is missing the zeros stay."""
    for m, span in enumerate(spans(widths)):
        for block in blocks(len(matrix)):
            part = matrix[block, span]
            part[has[block, m]] = (part[has[block, m]] - mean[span]) / scale[span]


def principal_components(matrix: Floats, dim: int, memory_limit: float) -> tuple[Floats, Floats]:
    """Components (dim, W) and their shares of the variance; none where dim is W.

    Rows of zeros, of padding and of items without vectors, stay in: they lie at the mean, and
    change neither directions nor shares. A matrix in a file (see :func:`allocate`) is read in
    batches that stay within ``memory_limit``.

    Raises:
        InputError: The matrix is zero.
    """
    rows, width = matrix.shape
    if dim == width:
        return np.zeros((0, width)), np.zeros(0)
    if not any(matrix[block].any() for block in blocks(rows)):
        raise InputError("all vectors are equal: there is no direction for PCA to keep")
    from sklearn.decomposition import PCA, IncrementalPCA
    from sklearn.utils import gen_batches

    if isinstance(matrix, np.memmap):
        # Four copies of a batch are alive during its SVD.
        size = max(int(memory_limit * _MIB / (4 * 8 * width)), dim)
        pca = IncrementalPCA(dim)
        for batch in gen_batches(rows, size, min_batch_size=dim):
            pca.partial_fit(np.array(matrix[batch]))
    else:
        # Both solvers are exact, so nothing depends on a random state.
        solver = "covariance_eigh" if rows >= width else "full"
        pca = PCA(dim, svd_solver=solver).fit(matrix)
    components: Floats = pca.components_
    # The sign of a component is free: its largest entry is positive here, whatever the solver.
    largest = components[np.arange(dim), np.abs(components).argmax(axis=1)]
    return components * np.sign(largest)[:, None], pca.explained_variance_ratio_
