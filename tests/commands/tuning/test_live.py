"""The table of a running search, and the lines where there is no terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from model_zoo.core.commands.tuning import live
from model_zoo.core.commands.tuning.live import Progress
from tests.commands.tuning.made import finished, grid, other, write
from tests.commands.tuning.test_report import history


def test_one_table_of_what_runs(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = pytest.importorskip("rich.console", reason="no rich: pip install '.[tune]'")
    screen = io.StringIO()
    terminal = console.Console(file=screen, force_terminal=True, width=140)
    monkeypatch.setattr(live, "_live_display", lambda: live_on(terminal))
    trials = grid({"num_row": [1, 2], "epochs": [10]})
    with Progress(Path("tune"), 3, 1) as progress:
        for trial in trials:
            begun = other(trial, "started")
            write(Path("tune"), begun)
            progress.noted(trial, begun.record)
        history(trials[0], 4, 0.8)
        progress.look()
        ended = finished(trials[1], seconds=30.0, AUC=0.7)
        progress.noted(trials[1], ended.record)
        progress.look()
    text = screen.getvalue()
    assert "0 of 3 trials, ? left" in text and "1 of 3 trials, 1 min 0 s left" in text
    last = text[text.rindex("1 of 3") :]
    assert trials[0].expid in last and trials[1].expid not in last
    assert "num_row=1, epochs=10" in last and "4/10" in last
    assert "0.772933" in last  # the best evaluation so far


def live_on(terminal: object) -> object:
    from rich.live import Live

    return Live(auto_refresh=False, console=terminal)  # type: ignore[arg-type]


def test_lines_where_there_is_no_terminal(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = grid({"num_row": [1, 2]})
    with Progress(Path("tune"), 2, 1) as progress:
        failed = other(trials[0], "failed", "Traceback", "killed")
        for entry in (other(trials[0], "started"), failed, other(trials[0], "started"), failed):
            progress.noted(entry.trial, entry.record)
        progress.noted(trials[1], finished(trials[1], AUC=0.75).record)
        progress.look()
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["1/2", "1/2", "2/2"]
    assert said[0].endswith("failed on : killed") and "num_row=1" in said[0]
    assert said[2].endswith("AUC: 0.750000")
