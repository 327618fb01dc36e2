"""A folded model as a program for other runtimes: torch.export, AOTInductor, ONNX.

The program scores one user: ``history`` (L,) and ``candidates`` (n,), int64 rows of the item
tables, and one tensor with n rows for each row feature (float64 for a number, which the program
standardises); it returns probabilities (n,). L and n are free, from 1 on. Item 0 is padding and
changes nothing wherever it stands in the history.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model_zoo.core.errors import InputError, first_line
from model_zoo.core.files import write_aside
from model_zoo.core.folded import FoldedFeature, FoldedModel

SUFFIX = {"torch": ".export.pt2", "aoti": ".aoti.pt2", "onnx": ".onnx"}
# Of a probability. In bfloat16 another order of the same sums rounds differently.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-1}
Run = Callable[[Sequence[Tensor]], Tensor]


class Program(nn.Module):
    """What is exported: probabilities of one user's candidates, from positional tensors."""

    def __init__(self, folded: FoldedModel) -> None:
        super().__init__()
        self.folded = folded

    def forward(self, history: Tensor, candidates: Tensor, context: list[Tensor]) -> Tensor:
        names = [feature.name for feature in self.folded.row_features]
        logit, _ = self.folded(history, candidates, dict(zip(names, context, strict=True)))
        return torch.sigmoid(logit)


def example_inputs(folded: FoldedModel, *, items: int, rows: int) -> list[Tensor]:
    """Random inputs: ``history`` (items,), ``candidates`` (rows,), then the row features."""
    history = torch.randint(1, folded.num_items, (items,))
    candidates = torch.randint(1, folded.num_items, (rows,))
    return [history, candidates, *(_example(feature, rows) for feature in folded.row_features)]


def _example(feature: FoldedFeature, rows: int) -> Tensor:
    size = feature.weight.shape[0]
    if feature.kind == "categorical":
        return torch.randint(0, size, (rows,))
    if feature.kind == "sequence":
        return torch.randint(0, size, (rows, 4))
    if feature.kind == "embedding":
        return torch.randn(rows, size)
    if feature.scale is None:
        return torch.randn(rows)
    center, factor = feature.scale
    return center + torch.randn(rows, dtype=torch.float64) / (factor or 1.0)


def export_folded(folded: FoldedModel, path: Path, kind: str) -> float:
    """Write the program and check the file that was written against the model.

    Args:
        folded: The model, on the CPU.
        path: File to write.
        kind: ``torch`` (a torch.export program), ``aoti`` (an AOTInductor package, compiled for
            this machine) or ``onnx``.

    Returns:
        The largest difference of a probability from the model's, over several shapes.

    Raises:
        InputError: If a package or a compiler is missing, or the program differs from the model.
    """
    if kind == "onnx":
        _require_onnx(folded)
    with warnings.catch_warnings(), write_aside(path) as partial:
        warnings.simplefilter("ignore")  # of torch's own code
        _WRITERS[kind](folded, partial)
        difference = _largest_difference(folded, _LOADERS[kind](partial))
        tolerance = TOLERANCE[folded.dtype]
        if not difference <= tolerance:
            raise InputError(
                f"{path}: the {kind} program differs from the model by {difference:.2g}, expected "
                f"at most {tolerance:g}; nothing was written"
            )
    return difference


def load_program(path: Path, kind: str) -> Run:
    """The program of a file as a function of its inputs, in order."""
    return _LOADERS[kind](path)


def _require_onnx(folded: FoldedModel) -> None:
    packages = ("onnx", "onnxscript", "onnxruntime")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"onnx needs {', '.join(missing)}: pip install '.[export]'")
    if folded.dtype != torch.float32:
        raise InputError("onnx: expected a float32 model: onnxruntime has no bfloat16 on the CPU")


def _program(folded: FoldedModel) -> torch.export.ExportedProgram:
    history, candidates, *context = example_inputs(folded, items=6, rows=5)
    items, rows = torch.export.Dim("items", min=1), torch.export.Dim("rows", min=1)
    shapes: dict[str, Any] = {
        "history": {0: items},
        "candidates": {0: rows},
        "context": [
            {0: rows, 1: torch.export.Dim.DYNAMIC} if feature.kind == "sequence" else {0: rows}
            for feature in folded.row_features
        ],
    }
    return torch.export.export(
        Program(folded), (history, candidates, context), dynamic_shapes=shapes
    )


def _write_torch(folded: FoldedModel, path: Path) -> None:
    torch.export.save(_program(folded), path)


def _write_aoti(folded: FoldedModel, path: Path) -> None:
    program = _program(folded)
    try:
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    except Exception as error:  # a missing compiler shows in as many ways as there are compilers
        raise InputError(f"aoti: cannot compile here: {first_line(error)}") from error


def _write_onnx(folded: FoldedModel, path: Path) -> None:
    # It warns of operators of packages that are not there.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    program = torch.onnx.export(_program(folded), dynamo=True, verbose=False)
    assert program is not None  # it is, unless told to write a file itself
    names = ["history", "candidates", *(feature.name for feature in folded.row_features)]
    for value, name in zip(program.model.graph.inputs, names, strict=True):
        value.name = name
    program.model.graph.outputs[0].name = "probability"
    program.save(str(path), external_data=False)


def _load_torch(path: Path) -> Run:
    module = torch.export.load(path).module()
    return lambda inputs: module(inputs[0], inputs[1], list(inputs[2:]))


def _load_aoti(path: Path) -> Run:
    module = torch._inductor.aoti_load_package(str(path))
    return lambda inputs: module(inputs[0], inputs[1], list(inputs[2:]))


def _load_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> Tensor:
        feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    return run


_WRITERS: dict[str, Callable[[FoldedModel, Path], None]] = {
    "torch": _write_torch,
    "aoti": _write_aoti,
    "onnx": _write_onnx,
}
_LOADERS: dict[str, Callable[[Path], Run]] = {
    "torch": _load_torch,
    "aoti": _load_aoti,
    "onnx": _load_onnx,
}


@torch.inference_mode()
def _largest_difference(folded: FoldedModel, run: Run) -> float:
    largest = 0.0
    for items, rows in ((1, 1), (3, 1), (1, 7), (64, 100)):
        inputs = example_inputs(folded, items=items, rows=rows)
        expected = Program(folded)(inputs[0], inputs[1], inputs[2:])
        # Not max(): it would pass over what is no number.
        difference = float((run(inputs) - expected).abs().max())
        largest = difference if not difference <= largest else largest
    return largest
