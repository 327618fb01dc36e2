"""The suites: what they plan and what they report."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import pytest
import yaml

from benchmarks.suite import main
from benchmarks.suite.plan import Suite, load_suites
from benchmarks.suite.report import paired_difference, reference_of, report, results_of
from model_zoo.core.errors import InputError
from model_zoo.core.locks import held
from tests.benchmarks.made import CONFIG, EXPERIMENTS, SUITES, line, plan
from tests.conftest import ROOT

DATASETS = ["MicroLens_demo", "MicroLens_50k_x1", "CoLLM_ML1M", "ML_100k"]


# --- plans ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_row_of_every_suite_is_a_shipped_experiment(dataset: str) -> None:
    for name in SUITES:
        for row in plan(name, dataset).rows:
            (run,) = plan(name, dataset).seeds(row, [1])
            assert EXPERIMENTS[run.expid]["dataset_id"] == dataset


def test_the_settings_of_the_rows_are_accepted(tmp_path: Path) -> None:
    """With a configuration of the few experiments that are needed, which is read faster."""
    names = ["Base", "QIN_ML_100k", "QIN_plus_ML_100k", "FinalMLP_ML_100k", "TransAct_ML_100k"]
    few = {name: EXPERIMENTS[name] for name in names}
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(few))
    datasets = yaml.safe_load((ROOT / "config" / "dataset_config.yaml").read_text())
    (tmp_path / "dataset_config.yaml").write_text(yaml.safe_dump({"ML_100k": datasets["ML_100k"]}))
    runs = [
        plan(name, "ML_100k").seeds(row, [1])[0]
        for name in ("paper", "plus")
        for row in plan(name, "ML_100k").rows
    ]
    for row in ("FinalMLP", "TransAct", "QIN", "QIN+"):
        runs.append(plan("peers", "ML_100k").trials(row)[-1])
    for run in runs:
        assert run.experiment(str(tmp_path)).run.group_id == "user_id"


def test_rows_without_features_name_those_that_stay() -> None:
    (run,) = plan("paper", "ML_100k").seeds("without tags", [7])
    assert (run.seed, run.phase, run.expid) == (7, "seeds", "QIN_ML_100k")
    assert run.settings[-1] == "use_features=[user_id, item_id, year, title_emb]"
    assert "without tags" not in plan("paper", "CoLLM_ML1M").rows  # it has none


def test_a_data_set_may_have_settings_of_its_own() -> None:
    for name in SUITES:
        for dataset in DATASETS:
            (run,) = plan(name, dataset).seeds("QIN+" if name != "paper" else "QIN", [1])
            assert ("precision=bf16" in run.settings) == (dataset == "MicroLens_50k_x1")


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_model_has_the_same_number_of_trials(dataset: str) -> None:
    peers = plan("peers", dataset)
    extra = {"QIN": 1, "popularity": -3}  # vectors as they come; nothing to search
    for row in peers.rows:
        trials = peers.trials(row)
        assert len(trials) == 4 + extra.get(row, 0), row
        assert len({run.settings for run in trials}) == len(trials)
        assert {(run.phase, run.seed) for run in trials} == {("search", 2025)}


def test_dropout_has_the_name_that_a_model_gives_it() -> None:
    peers = plan("peers", "CoLLM_ML1M")
    assert "net_dropout=0.3" in peers.trials("DIN")[1].settings
    assert {"mlp1_dropout=0.3", "mlp2_dropout=0.3"} < set(peers.trials("FinalMLP")[1].settings)
    assert "rescale_vectors=false" in peers.trials("QIN")[-1].settings


def test_a_changed_setting_or_seed_is_another_run() -> None:
    peers = plan("peers", "CoLLM_ML1M")
    keys = [run.key(CONFIG) for run in peers.seeds("DIN", [1, 2])]
    keys += [run.key(CONFIG) for run in peers.seeds("DIN", [1], ["epochs=3"])]
    keys += [run.key(CONFIG) for run in plan("plus", "CoLLM_ML1M").seeds("QIN+", [1])]
    assert len(set(keys)) == 4
    assert peers.seeds("DIN", [1])[0].key(CONFIG) == keys[0]


def test_mistakes_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="suite 'plus' has no row 'no ordr'; known: QIN"):
        plan("plus", "ML_100k", "no ordr")
    with pytest.raises(InputError, match="suite 'plus' has no search for data set 'ML_100k'"):
        plan("plus", "ML_100k").trials("QIN+")
    for text, message in {
        "a: {compare_with: b, rows: {c: {}}}": "a: compare_with: no row 'b'",
        "a: {compare_with: c, rows: {c: {setings: {}}}}": "a: rows.c.setings: Extra inputs",
    }.items():
        (tmp_path / "suites.yaml").write_text(text)
        with pytest.raises(InputError, match=message):
            load_suites(tmp_path / "suites.yaml")
    out = ["--out", str(tmp_path / "out"), "--config", CONFIG]
    assert main(["--suite", "plus", "--datasets", "ML_10k", *out]) == 2
    assert capsys.readouterr().err.startswith("error: data set 'ML_10k' is not in")
    assert main(["--suite", "plus", "--jobs", "0", *out]) == 2
    assert capsys.readouterr().err == "error: --jobs 0: expected at least 1\n"
    with held(tmp_path / "out" / "plus.lock", "the other suite's file"):
        assert main(["--suite", "plus", *out]) == 2
    assert "plus.jsonl is being written by process" in capsys.readouterr().err


# --- reports ----------------------------------------------------------------------------------

MADE = Suite(
    compare_with="best peer",
    rows={"ours": {"own": True}, "first": {}, "second": {}, "fails": {}},
)
LINES = [
    *(line("ours", seed, auc) for seed, auc in {1: 0.80, 2: 0.83, 3: 0.82}.items()),
    *(line("first", seed, auc) for seed, auc in {1: 0.79, 2: 0.79, 3: 0.81}.items()),
    *(line("second", seed, auc) for seed, auc in {1: 0.70, 2: 0.71, 3: 0.72}.items()),
    line("fails", 1, 0.0, status="failed", error="loss nan", metrics={}),
]


def test_means_and_paired_differences() -> None:
    results = results_of(MADE, LINES, "data")
    assert [result.name for result in results] == ["ours", "first", "second", "fails"]
    reference = reference_of(MADE, results)
    assert reference is not None and reference.name == "first"  # ours is no peer
    mean, error, count = paired_difference(results[0], reference)
    differences = [0.01, 0.04, 0.01]
    assert mean == pytest.approx(statistics.fmean(differences))
    assert error == pytest.approx(statistics.stdev(differences) / math.sqrt(3))
    assert count == 3
    text = report("made", MADE, LINES)
    spread = statistics.stdev([0.80, 0.83, 0.82])
    assert f"| ours | 0.8167 ± {spread:.4f} | 0.1833 ± {spread:.4f} | – | – |" in text
    assert f"| +{mean:.4f} ± {error:.4f} | – | – | – | – | 3 |" in text
    assert "- fails, seeds, seed 1: `loss nan`" in text
    assert "2026-11-25; Python v, torch v" in text


def test_the_rate_of_runs_on_a_gpu_says_so() -> None:
    on_gpu = line("second", 1, 0.7, rows_per_s=9000, gpu="A CARD")
    text = report("made", MADE, [line("first", 1, 0.8, rows_per_s=1000), on_gpu])
    assert "| – | – | 1,000 | – | 1 |" in text and "| – | – | 9,000 (GPU) | – | 1 |" in text
    assert text.split("FuxiCTR v; ")[1].startswith("A CARD, v.")


def test_differences_are_of_the_seeds_that_both_have() -> None:
    some = [one for one in LINES if (one["name"], one["seed"]) != ("ours", 2)]
    ours, first, *_ = results_of(MADE, some, "data")
    mean, error, count = paired_difference(ours, first)
    assert (mean, error, count) == (pytest.approx(0.01), pytest.approx(0.0, abs=1e-12), 2)
    one_seed = results_of(MADE, [line("ours", 1, 0.8), line("first", 1, 0.7)], "data")
    mean, error, count = paired_difference(*one_seed)
    assert (mean, count) == (pytest.approx(0.1), 1) and math.isnan(error)


def test_of_several_settings_the_last_count(tmp_path: Path) -> None:
    older = [line("first", seed, 0.9, digest="old") for seed in (1, 2, 3)]
    (result,) = results_of(MADE, [*older, line("first", 1, 0.7)], "data")
    assert result.values("AUC") == {1: 0.7}
