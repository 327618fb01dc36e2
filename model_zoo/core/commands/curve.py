"""Pictures of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from model_zoo.core.files import write_aside

if TYPE_CHECKING:
    from model_zoo.core.serving.calibration import CalibrationReport


def draw_training_curve(
    evaluations: Sequence[Mapping[str, float]], path: Path, *, title: str
) -> None:
    """Draw training loss, each metric and the learning rate over the epochs.

    Args:
        evaluations: One mapping for each evaluation with ``epoch``, ``train_loss``,
            ``learning_rate`` and the validation metrics.
        path: PNG file to write.
        title: Heading of the picture.
    """
    # Not at the top: drawing is the last thing a run does, and pyplot is slow to import.
    from matplotlib.figure import Figure

    epochs = [evaluation["epoch"] for evaluation in evaluations]
    names = [name for name in evaluations[0] if name != "epoch"]
    figure = Figure(figsize=(3.2 * len(names), 3), layout="constrained")
    figure.suptitle(title)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        axes.plot(epochs, [evaluation[name] for evaluation in evaluations], marker="o")
        axes.set_title(name if name in ("train_loss", "learning_rate") else f"valid {name}")
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    with write_aside(path) as partial:
        figure.savefig(partial, dpi=120)


def draw_reliability_curve(
    reports: Mapping[str, CalibrationReport], path: Path, *, title: str
) -> None:
    """Draw click rate over predicted probability, and below it the rows behind each point.

    Args:
        reports: A name for each report; each becomes one line.
        path: PNG file to write; the picture is square.
        title: Heading of the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6), layout="constrained")
    figure.suptitle(title)
    curve, counts = figure.subplots(2, sharex=True, height_ratios=[4, 1])
    curve.plot([0, 1], [0, 1], color="grey", linestyle="--", label="perfect")
    for name, report in reports.items():
        curve.plot(report.mean_predicted, report.click_rate, marker="o", label=name)
        counts.bar(report.mean_predicted, report.rows, width=0.02, alpha=0.5)
    curve.set(xlim=(0, 1), ylim=(0, 1), ylabel="click rate")
    # A bin of ten rows and one of a million are both worth seeing.
    most = max(max(report.rows) for report in reports.values())
    counts.set(yscale="log", ylim=(0.5, 2 * most))
    counts.set(xlabel="mean predicted probability", ylabel="rows")
    curve.legend()
    for axes in (curve, counts):
        axes.grid(alpha=0.3)
    with write_aside(path) as partial:
        figure.savefig(partial, dpi=120)
