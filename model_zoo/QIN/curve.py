"""Pictures of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from model_zoo.QIN.files import write_aside


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
