"""The GPU benchmark: its checks hold on the CPU, can fail, and it says where there is no device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu import checks, command, made, main, measures
from benchmarks.official import MAX_LEN
from model_zoo.core.serving.file import FoldedFile
from model_zoo.core.serving.ids import Ids
from model_zoo.core.serving.scorer import Scorer
from model_zoo.QIN.fold import fold
from tests.conftest import ROOT

QUICK = ["--device", "cpu", "--quick"]
# FuxiCTR and the package are imported as if Ray were not installed.
CHECKS = [
    "formulas",
    *(
        f"{kind}, {model}{recorded}"
        for kind in ("steps", "waits")
        for recorded in ("", ", recorded")
        for model in ("QIN", "QIN+")
    ),
    *("resume", "loading"),
]
WITHOUT_RAY = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "ray" else found(name, *rest)
from benchmarks.gpu import main
code = main(sys.argv[1:])
assert not hasattr(sys.modules["ray"], "__version__")
sys.exit(code)
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # the command sets it for good


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path / "gpu.json")]) == 2
    assert capsys.readouterr().err.startswith("error: there is no CUDA device here; ")
    assert list(tmp_path.iterdir()) == []


def test_the_cpu_has_no_time_to_measure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu"]) == 2
    assert "--device cpu needs --quick" in capsys.readouterr().err


def test_the_checks_hold_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gpu.json"
    assert main([*QUICK, "--checks", "--output", str(path)]) == 0
    found = json.loads(path.read_text())
    assert list(found["checks"]) == CHECKS
    assert all(check["holds"] for part in found["checks"].values() for check in part)
    assert found["left out"] == []
    assert "FAIL" not in capsys.readouterr().out


def test_a_wrong_gradient_and_an_error_are_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parts after the one with the error are tried, as long as there is time."""
    exact = checks.exact

    def wrong(model: Any, padded: Any) -> checks.Exact:
        right = exact(model, padded)
        name = "attention.W_k.weight"
        return right._replace(gradient=right.gradient | {name: 1.2 * right.gradient[name]})

    def broken(*arguments: Any) -> Any:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(checks, "exact", wrong)
    monkeypatch.setitem(checks.CHECKS, "steps, QIN", broken)
    path = tmp_path / "gpu.json"
    assert main([*QUICK, "--checks", "--output", str(path)]) == 1
    found = json.loads(path.read_text())
    failed = [check["name"] for check in found["checks"]["formulas"] if not check["holds"]]
    assert failed == [
        f"gradients, fp32, {history}, {update}"
        for update in ("dense", "lazy")
        for history in ("packed", "padded")
    ]
    assert found["errors"] == {"steps, QIN": "RuntimeError: no such kernel"}
    assert "loading" in found["checks"]
    assert "FAIL RuntimeError: no such kernel" in capsys.readouterr().out


def test_parts_without_time_are_named(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    assert main([*QUICK, "--checks", "--output", str(path), "--minutes", "0"]) == 0
    assert json.loads(path.read_text())["left out"] == ["machine", *CHECKS]


def test_a_recorded_scorer_answers_as_the_scorer_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a recorder that replays by computing again."""

    class Again:
        def __init__(self, device: torch.device) -> None: ...

        def warm_up(self, run: Any) -> Any:
            return run()

        def record(self, run: Any) -> Any:
            outputs = run()

            def replay() -> None:
                for output, value in zip(outputs, run(), strict=True):
                    output.copy_(value)

            return torch.inference_mode()(replay), outputs

    monkeypatch.setattr(measures, "CudaRecorder", Again)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    cpu = torch.device("cpu")
    model = made.model_of(str(tmp_path), made.QUICK, made.catalogue(made.QUICK), cpu).eval()
    folded = fold(model)
    recorded = measures.RecordedScorer(folded, made.QUICK, cpu)
    scorer = Scorer(FoldedFile(folded, Ids("item_id"), MAX_LEN))
    for first in (1, 100):
        history = torch.arange(first, first + MAX_LEN)
        ids = torch.arange(first, first + made.QUICK.candidates)
        context = dict.fromkeys(model.row_features, ids % 7 + 1)
        expected = scorer.score(history, ids, context)
        torch.testing.assert_close(recorded(history, ids, context), expected)


@pytest.mark.parametrize("broken", [None, "bf16, cuda_graph"])
def test_a_variant_that_fails_takes_no_other_with_it(broken: str | None) -> None:
    """Together they are measured first; one by one only if that has no result."""
    content: dict[str, Any] = {}

    def tried(part: str, note: Any, run: Any, *values: Any) -> Any:
        return {"works": True}

    def measured(part: str, run: Any, *values: Any) -> Any:
        if run is not measures.steps:
            return None
        *_, settings = values
        if broken in settings:
            content.setdefault("errors", {})[part] = "it broke"
            return None
        return {name: {"ms": 10.0 - len(name)} for name in settings}

    report = SimpleNamespace(content=content, figures=None)
    best, settings = command._steps(tried, measured, report, made.QUICK, torch.device("cpu"))
    assert best == "bf16, compile, cuda_graph"
    assert settings[best] == {"precision": "bf16", "compile": True, "cuda_graph": True}
    parts = ["steps of 64 rows", "steps of 64 rows, bf16, cuda_graph"]
    assert list(content.get("errors", {})) == (parts if broken else [])


@pytest.mark.slow
def test_everything_runs_without_ray(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    command = [sys.executable, "-c", WITHOUT_RAY, *QUICK, "--output", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ray is not installed: a stand-in takes its place" in done.stdout
    found = json.loads(path.read_text())
    assert "errors" not in found
    steps = {"steps of 64 rows", "steps of 128 rows", "steps of other models"}
    assert {"rates", "requests", *steps} <= set(found)
    assert found["epochs, bf16"]["rows sent ahead"]["rows/s"] > 0
    assert len(found["profile, bf16"]["kernels, us a step"]) == 10
    assert "| steps of 64 rows | ms | noise | rows/s |" in done.stdout
    assert "| requests | p50 ms | p99 ms |" in done.stdout
    assert "| profile" not in done.stdout
