"""``report.html`` opens without a network, and fits a screen of a telephone's width."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from model_zoo.core.commands.tuning import search
from model_zoo.core.commands.tuning.folder import claim, write_configs
from model_zoo.core.commands.tuning.search import report
from model_zoo.core.commands.tuning.trial import Trial
from model_zoo.core.commands.tuning.tuner_file import read_space
from model_zoo.core.errors import InputError
from tests.commands.tuning.made import finished, lines, other, tuner_file, write

SPACE = {
    "learning_rate": [0.0001, 0.001, 0.004, 0.02],
    "num_row": [1, 2, 4],
    "use_features": [None, ["item_id", "item_tags", "item_emb_d128", "likes_level"]],
    "seed": [1, 2],
}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")


def history(trial: Trial, epochs: int, best: float) -> None:
    trial.place.parent.mkdir(parents=True, exist_ok=True)
    rows = ["epoch,train_loss,learning_rate,AUC,logloss"]
    for epoch in range(1, epochs + 1):
        auc = best - 0.2 * math.exp(-epoch / 2)
        rows.append(f"{epoch}.0,0.5,0.001,{auc},{1.1 - auc}")
    trial.place.with_name(f"{trial.expid}.history.csv").write_text("\n".join(rows) + "\n")


def made(folder: Path, space: dict) -> None:
    """Records of a search with a failed, a pruned and a begun trial."""
    read = read_space(tuner_file(f"{folder.name}.yaml", tuner_space=space))
    trials = read.grid()
    write_configs(claim(read), trials)
    for i, trial in enumerate(trials):
        rate = math.log10(trial.settings["learning_rate"])
        best = 0.85 - 0.01 * (rate + 2.4) ** 2 + 0.004 * trial.settings["num_row"]
        best += 0.003 * (-1) ** i - 0.03 * (trial.settings.get("use_features") is not None)
        if trial.settings["learning_rate"] > 0.01:
            error = f"error: {trial.expid}: step 3: loss nan, <b>gradient</b> norm nan"
            write(folder, other(trial, "failed", "[...]", error))
            continue
        epochs = 4 if trial.settings["num_row"] == 1 else 12
        history(trial, epochs, best)
        if epochs == 4:
            write(folder, other(trial, "pruned", AUC=best - 0.03, logloss=0.6))
        else:
            write(folder, finished(trial, AUC=best, logloss=1.1 - best))


def test_the_report_stands_alone_and_tells_everything(workspace: Path) -> None:
    pytest.importorskip("plotly", reason="no plotly: pip install '.[tune]'")
    made(Path("tune"), SPACE)
    places = report("tune.yaml")
    page = Path("tune/report.html").read_text(encoding="utf-8")
    own = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.findall(r"(?:src|href)=", own)  # nothing is loaded from anywhere
    assert page.count("<script") < 20 and len(page) > 3_000_000  # the library is inside
    for place in places:
        assert place.group in own
    assert "48 trials: 24 finished, 12 stopped early, 12 failed" in own
    assert own.count("step 3: loss nan, &lt;b&gt;gradient&lt;/b&gt; norm nan") == 12
    found = lines(Path("tune"))
    assert [float(line["valid AUC"]) for line in found[:2]] == pytest.approx(
        [outcome.value for outcome in places[0].outcomes]
    )
    assert {line["status"] for line in found} == {"finished", "pruned", "failed"}


def test_lists_that_begin_alike_are_different_values(workspace: Path) -> None:
    pytest.importorskip("plotly", reason="no plotly: pip install '.[tune]'")
    shared = ["item_id", "item_tags", "item_emb_d128"]
    space = {"use_features": [shared, [*shared, "likes_level"]], "num_row": [2]}
    made(Path("tune"), {**space, "learning_rate": [0.001]})
    report("tune.yaml")
    page = Path("tune/report.html").read_text(encoding="utf-8")
    (parallel,) = re.findall(r'"dimensions":(\[.*?\]),"line"', page)
    dimension = json.loads(parallel)[0]
    assert dimension["label"] == "use_features"
    assert sorted(dimension["values"]) == dimension["tickvals"] == [0, 1]
    (axis,) = re.findall(r'"tickvals":(\["[^<]*?\]),"ticktext":(\["[^<]*?\])', page)
    assert [json.loads(value) for value in json.loads(axis[0])] in (
        space["use_features"],
        space["use_features"][::-1],
    )
    assert all(len(label) <= 16 for label in json.loads(axis[1]))


def test_no_report_without_a_finished_trial(workspace: Path) -> None:
    space = tuner_file(tuner_space={"num_row": [1, 2]})
    with pytest.raises(InputError, match="tune: no such folder; there was no search"):
        report(space)
    trials = read_space(space).grid()
    write_configs(claim(read_space(space)), trials)
    write(Path("tune"), other(trials[0], "failed", "out of memory"))
    with pytest.raises(InputError, match="no trial finished"):
        report(space)
    assert not Path("tune/report.html").exists()


def test_without_plotly_the_table_is_all(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made(Path("tune"), {"num_row": [1, 2], "learning_rate": [0.001]})
    monkeypatch.setattr(search, "can_draw", lambda: False)
    report("tune.yaml")
    assert "needs plotly: pip install '.[tune]'" in capsys.readouterr().out
    assert Path("tune/trials.csv").is_file()
    assert not Path("tune/report.html").exists()


@chromium
@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_the_report_is_as_wide_as_the_screen(workspace: Path, width: int) -> None:
    """Headless Chromium, without a network, lays it out; what is wider scrolls by itself."""
    pytest.importorskip("plotly", reason="no plotly: pip install '.[tune]'")
    made(Path("tune"), SPACE)
    report("tune.yaml")
    page = Path("tune/report.html")
    # A frame: a headless window is never narrower than 500 pixels.
    probe = f"""<!doctype html><body style="margin:0"><iframe src="report.html" id="f"
    style="width:{width}px;height:5000px;border:0"></iframe><pre id="out"></pre><script>
    document.getElementById("f").onload = () => setTimeout(() => {{
      const d = document.getElementById("f").contentDocument;
      document.getElementById("out").textContent = JSON.stringify({{
        page: d.documentElement.scrollWidth, plots: d.querySelectorAll(".main-svg").length,
        curves: d.querySelectorAll(".scatterlayer .trace").length}});
    }}, 1500)</script>"""
    Path("tune/probe.html").write_text(probe)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    options += ["--virtual-time-budget=20000", "--host-resolver-rules=MAP * ~NOTFOUND"]
    done = subprocess.run(
        [str(CHROMIUM), *options, "--dump-dom", page.with_name("probe.html").resolve().as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    seen = re.search(r'<pre id="out">{"page":(\d+),"plots":(\d+),"curves":(\d+)}', done.stdout)
    assert seen is not None, done.stdout[-500:]
    assert int(seen[1]) <= width
    assert int(seen[2]) >= 5  # parallel coordinates, three settings, learning curves
    assert int(seen[3]) >= 36  # the curves of all trials that had an evaluation
