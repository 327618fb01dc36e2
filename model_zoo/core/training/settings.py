"""Ranges of the training's settings."""

from __future__ import annotations


def require_in_range(
    accumulation_steps: int, factor: float, weight_average: float | None, embedding_update: str
) -> None:
    """Refuse what :class:`model_zoo.core.training.engine.TrainableModel` cannot train with.

    Raises:
        ValueError: With the setting, its value and what was expected.
    """
    if accumulation_steps < 1:
        raise ValueError(f"accumulation_steps must be at least 1, got {accumulation_steps}")
    if not 0.0 < factor <= 1.0:
        raise ValueError(f"factor must be in (0, 1], got {factor}")
    if weight_average is not None and not 0.0 < weight_average < 1.0:
        raise ValueError(f"weight_average must be in (0, 1), got {weight_average}")
    if weight_average is not None and embedding_update == "lazy":
        raise ValueError("weight_average touches every row; embedding_update: lazy spares that")
