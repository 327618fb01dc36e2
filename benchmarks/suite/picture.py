"""A suite's picture: the AUC of every seed, by model and data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.suite.plan import Suite
from benchmarks.suite.report import Result
from model_zoo.core.files import write_aside


def draw(suite: Suite, results: Mapping[str, Sequence[Result]], path: Path) -> None:
    """Draw a panel for each data set: a point for each seed, a line at the mean, best on top.

    Args:
        suite: The suite, for its own models, which have another colour.
        results: Rows by data set; those without a finished run are left out.
        path: PNG file to write.
    """
    panels = {
        dataset: [result for result in rows if result.runs] for dataset, rows in results.items()
    }
    panels = {dataset: rows for dataset, rows in panels.items() if rows}
    if not panels:
        return
    most = max(map(len, panels.values()))
    figure = Figure(figsize=(5.5 * len(panels), 1.2 + 0.32 * most), layout="constrained")
    for axes, (dataset, rows) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for place, result in enumerate(rows):
            is_own = suite.rows[result.name].own or result.name == suite.compare_with
            colour = "tab:red" if is_own else "tab:blue"
            values = list(result.values("AUC").values())
            axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.6, markersize=5)
            axes.plot([result.mean()] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=2)
        axes.set_yticks(range(len(rows)), [result.name for result in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(dataset)
        axes.set_xlabel("valid AUC")
        axes.grid(alpha=0.3)
    with write_aside(path) as partial:
        figure.savefig(partial, dpi=120)
