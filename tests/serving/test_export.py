"""Programs for other runtimes: the same probabilities, for any number of candidates and items."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model_zoo.core.errors import InputError
from model_zoo.core.folded import FoldedModel
from model_zoo.core.serving import export
from model_zoo.core.serving.export import (
    SUFFIX,
    Program,
    example_inputs,
    export_folded,
    load_program,
)
from tests.conftest import SEQUENCE
from tests.QIN.test_model import ITEM_FEATURES, ROW_FEATURES, build, packed, padded_batch

ROW_KINDS = {
    **ROW_FEATURES,
    "age": {"type": "numeric"},
    "likes": {**SEQUENCE, "vocab_size": 9, "max_len": 4},
    "profile": {"type": "embedding", "pretrain_dim": 5},
}


def folded(tmp_path: Path, *, kinds: dict = ROW_FEATURES, **settings: object) -> FoldedModel:
    model = build(tmp_path, {**kinds, **ITEM_FEATURES}, **settings)
    if model.model_id == "QIN+":
        torch.nn.init.normal_(model.attention.of_place)  # places begin alike
    rows = {"age": torch.randn(9), "likes": torch.randint(0, 9, (9, 4))}
    rows["profile"] = torch.randn(9, 5)
    model.train()(packed(padded_batch()) | rows)
    return model.eval().fold()


def compiles() -> bool:
    return any(shutil.which(compiler) for compiler in ("g++", "clang++"))


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_program_takes_seconds_since_1970(tmp_path: Path, kind: str) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
        pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
    age = {"age": {"type": "numeric"}}
    model = build(tmp_path, {**age, **ITEM_FEATURES}, model="QIN+", model_id="QIN+")
    model.numbers.standardise_by({"age": (1.7e9, 1 / 60), "price": (0.0, 1.0)})
    model.eval()
    assert export_folded(model.fold(), tmp_path / "model", kind) <= 1e-5
    program = load_program(tmp_path / "model", kind)
    history, candidates = torch.tensor([3, 4]), torch.tensor([5, 5])
    seconds = 1.7e9 + torch.tensor([0.0, 60.0], dtype=torch.float64)
    batch = {"item_id": candidates, "item_seq": history.expand(2, 2), "age": seconds}
    expected = model.double()(batch)["y_pred"].squeeze(1)
    assert (expected[0] - expected[1]).abs() > 1e-5  # in float32 both are one number
    found = program([history, candidates, seconds]).double()
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", ["QIN", "QIN+"])
@pytest.mark.parametrize("kind", ["torch", "aoti", "onnx"])
def test_a_program_round_trips(tmp_path: Path, kind: str, name: str) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
        pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
    if kind == "aoti" and not compiles():
        pytest.skip("there is no C++ compiler")
    kinds = ROW_KINDS if kind != "aoti" else ROW_FEATURES
    model = folded(tmp_path, kinds=kinds, model=name, model_id=name)
    path = tmp_path / f"model{SUFFIX[kind]}"
    assert export_folded(model, path, kind) <= 1e-5
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    run = load_program(path, kind)
    for items, rows in ((1, 1), (2, 9), (70, 300)):
        inputs = example_inputs(model, items=items, rows=rows)
        expected = Program(model)(inputs[0], inputs[1], inputs[2:])
        torch.testing.assert_close(run(inputs), expected, atol=1e-5, rtol=0)
    padded = [torch.cat([inputs[0], torch.zeros(3, dtype=torch.long)]), *inputs[1:]]
    torch.testing.assert_close(run(padded), run(inputs), atol=1e-6, rtol=0)


def test_a_program_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(path: Path) -> export.Run:
        def run(inputs: Sequence[Tensor]) -> Tensor:
            return torch.full((len(inputs[1]),), float("nan"))

        return run

    monkeypatch.setitem(export._LOADERS, "torch", load)
    with pytest.raises(InputError, match="differs from the model by nan"):
        export_folded(folded(tmp_path), tmp_path / "model.export.pt2", "torch")
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install '\.\[export\]'"):
        export_folded(folded(tmp_path), tmp_path / "model.onnx", "onnx")


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(*arguments: object, **settings: object) -> None:
        raise RuntimeError("no g++ in sight\nand a long story")

    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", compile)
    with pytest.raises(InputError, match=r"aoti: cannot compile here: no g\+\+ in sight$"):
        export_folded(folded(tmp_path), tmp_path / "model.aoti.pt2", "aoti")


def test_onnx_takes_float32_only(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    model = build(tmp_path).eval().fold(dtype=torch.bfloat16)
    with pytest.raises(InputError, match="onnx: expected a float32 model"):
        export_folded(model, tmp_path / "model.onnx", "onnx")
