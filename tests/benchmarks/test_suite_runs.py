"""A suite's runs: what one leaves, how a killed suite goes on, baselines and submissions."""

from __future__ import annotations

import json
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.suite import main
from benchmarks.suite.baselines import fit_baseline
from benchmarks.suite.command import predict, run_suite, write_report
from benchmarks.suite.plan import Plan, Run, Suite
from benchmarks.suite.run import Runner
from benchmarks.suite.store import Store, best_trial
from model_zoo.core.commands.config import load_experiment
from model_zoo.core.errors import InputError
from tests.benchmarks.made import CONFIG, SUITES, line, plan

SMALL = Suite(
    compare_with="best peer",
    settings={"group_id": "user_id", "metrics": ["AUC", "logloss", "gAUC"]},
    rows={
        "a peer": {"expid": "QIN_test"},
        "fails": {"expid": "QIN_test"},
        "clicks": {"expid": "QIN_test", "baseline": "popularity"},
    },
)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Runs that a runner executes, without executing them; odd seeds fail."""
    runs: list[Run] = []

    def execute(self: Runner, run: Run, key: str) -> dict[str, Any]:
        runs.append(run)
        if run.seed % 2:
            return {"status": "failed", "error": "too odd", "metrics": {}, "command": ""}
        auc = 0.6 + len(runs) / 100
        return {"status": "finished", "metrics": {"AUC": auc}, "command": f"command {run.seed}"}

    monkeypatch.setattr(Runner, "_experiment", execute)
    return runs


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_killed_suite_goes_on(tmp_path: Path, executed: list[Run], jobs: int) -> None:
    store = Store(tmp_path / "a.jsonl")
    runs = plan("plus", "ML_100k").seeds("QIN+", [2, 3, 4, 6])
    Runner(store, tmp_path, CONFIG).run(runs[:2])
    with store.path.open("ab") as file:
        file.write(b'{"key": "cut of')  # killed while it wrote
    assert [one["seed"] for one in store.lines()] == [2, 3]
    Runner(store, tmp_path, CONFIG, jobs=jobs).run(runs)
    assert sorted(run.seed for run in executed) == [2, 3, 4, 6]  # each once, also what failed
    assert sorted(json.loads(text)["seed"] for text in store.path.read_text().splitlines()) == [
        2,
        3,
        4,
        6,
    ]
    Runner(store, tmp_path, CONFIG, retry=True).run(runs)
    assert [run.seed for run in executed[4:]] == [3]
    assert len(store.lines()) == 4


def test_a_broken_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"key": \n{"key": "b"}\n')
    with pytest.raises(InputError, match="line 1: not JSON"):
        Store(path).lines()


def test_the_seeds_run_with_what_the_search_chose(workspace: Path, executed: list[Run]) -> None:
    searched = SMALL.model_copy(
        update={
            "search": {"MicroLens_demo": [{"num_row": rows, "dropout": 0.0} for rows in (1, 2)]},
            "rows": {"a peer": SMALL.rows["a peer"]},
        }
    )
    arguments = _arguments(workspace, search=True, seeds=[4, 6, 4])
    store = Store(workspace / "out" / "plus.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.suite.plan.SEARCH_SEED", 2024)  # odd seeds fail here
        run_suite(arguments, searched, store)
    assert [(run.phase, run.seed) for run in executed] == [
        ("search", 2024),
        ("search", 2024),
        ("seeds", 4),
        ("seeds", 6),
    ]
    best = best_trial(store.lines(), "MicroLens_demo", "a peer")
    assert best is not None and "num_row=2" in best["settings"]  # the later, so the better one
    assert list(executed[-1].settings) == best["settings"]
    text = (workspace / "out" / "plus.md").read_text()
    assert "| a peer | 2 | 0.6200 | `num_row=2` |" in text


def _arguments(workspace: Path, **changed: Any) -> Namespace:
    values = {"suite": "plus", "datasets": ["MicroLens_demo"], "out": workspace / "out"}
    values |= {"config": "config", "rows": [], "search": False, "seeds": [1], "retry": False}
    return Namespace(**(values | {"jobs": 2, "gpu": -1} | changed))


def test_a_run_and_one_that_fails(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes as a user runs them; then the report, and the submissions."""
    store = Store(workspace / "out" / "plus.jsonl")
    run_suite(_arguments(workspace, rows=["a peer", "clicks"]), SMALL, store)
    script = "import sys; print('loading', file=sys.stderr); sys.exit('error: loss nan')"
    (workspace / "run_expid.py").write_text(script)
    monkeypatch.setattr("benchmarks.suite.run.ROOT", workspace)
    run_suite(_arguments(workspace), SMALL, store)
    lines = {one["name"]: one for one in store.lines()}
    good, bad = lines["a peer"], lines["fails"]
    assert good["status"] == "finished"
    assert list(good["metrics"]) == ["AUC", "logloss", "gAUC"]
    assert (good["best_epoch"], good["epochs"]) == (1.0, 1.0)
    assert good["rows_per_s"] == pytest.approx(600 / good["training_seconds"], rel=0.1)
    assert good["parameters"] > 1000
    assert good["command"].startswith("python run_expid.py --expid QIN_test --gpu -1 --set seed=1")
    assert (bad["status"], bad["error"], bad["metrics"]) == ("failed", "error: loss nan", {})
    text = (workspace / "out" / "plus.md").read_text()
    assert "- fails, seeds, seed 1: `error: loss nan`" in text
    assert "| fails | – | – | – | – | – | – | – | – | – | 0, 1 failed |" in text
    assert (workspace / "out" / "plus.png").stat().st_size > 1000
    assert not list((workspace / "out").rglob("*.state*"))
    predict(Plan("plus", SMALL, "MicroLens_demo", "config"), store, workspace / "out")
    made = {path.name: path for path in (workspace / "out" / "predictions").iterdir()}
    assert set(made) == {"MicroLens_demo_a_peer_1.zip", "MicroLens_demo_clicks_1.zip"}
    for path in made.values():
        with zipfile.ZipFile(path) as archive, archive.open("prediction.csv") as file:
            assert pl.read_csv(file).shape == (100, 2)
    with pytest.raises(InputError, match="no finished run of fails on MicroLens_demo"):
        predict(Plan("plus", SMALL, "MicroLens_demo", "config", ["fails"]), store, workspace)


def test_a_run_that_stops_with_the_suite_leaves_no_line(tmp_path: Path) -> None:
    store = Store(tmp_path / "a.jsonl")
    runner = Runner(store, tmp_path, CONFIG)

    def interrupted(run: Run, key: str) -> None:
        raise KeyboardInterrupt

    runner._experiment = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        runner.run(plan("plus", "ML_100k").seeds("QIN+", [1, 2, 3]))
    assert store.lines() == []


@pytest.mark.parametrize("kind", ["popularity", "logistic_regression"])
def test_baselines(workspace: Path, kind: str) -> None:
    """Popularity by counting; a regression that has learnt, on all the target's features."""
    experiment = load_experiment("config", "QIN_test")
    fitted = fit_baseline(kind, experiment, [] if kind == "popularity" else ["C=0.5"])
    metrics = fitted.result["metrics"]
    train, valid = (
        pl.read_parquet(f"data/MicroLens_demo/{split}.parquet") for split in ("train", "valid")
    )
    assert fitted.test is not None and len(fitted.test) == 100
    assert ((fitted.test >= 0) & (fitted.test <= 1)).all()
    clicked = train.filter(pl.col("label") == 1)["item_id"].to_list()
    expected = roc_auc_score(valid["label"], [clicked.count(item) for item in valid["item_id"]])
    if kind == "popularity":
        assert metrics["AUC"] == pytest.approx(expected)
        assert "logloss" not in metrics
        order = np.argsort(fitted.test)
        assert np.all(np.diff(fitted.test[order]) >= 0)
    else:
        assert metrics["AUC"] > 0.52
        # one-hot levels, items and tags, 128 numbers of a vector, and the bias
        assert fitted.result["parameters"] == 2 * 11 + 120 + 301 + 128 + 1


def test_the_report_alone_runs_nothing(tmp_path: Path, executed: list[Run]) -> None:
    store = Store(tmp_path / "plus.jsonl")
    for seed in (1, 2):
        store.add(line("QIN+", seed, 0.7 + seed / 100))
    assert main(["--suite", "plus", "--out", str(tmp_path), "--report"]) == 0
    assert executed == []
    assert "| QIN+ | 0.7150 ± 0.0071 |" in (tmp_path / "plus.md").read_text()
    write_report("plus", SUITES["plus"], Store(tmp_path / "none.jsonl"), tmp_path)
    assert "nothing has run yet" in (tmp_path / "plus.md").read_text()
