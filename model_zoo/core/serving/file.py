"""Folded models on disk: one file with everything that scoring needs."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from model_zoo import FIRST_FOLDED, folded_name, get_folded
from model_zoo.core.errors import InputError
from model_zoo.core.files import write_aside
from model_zoo.core.folded import FoldedFeature, FoldedModel
from model_zoo.core.saved import read_saved
from model_zoo.core.serving.calibration import Calibration
from model_zoo.core.serving.ids import Ids

FORMAT, VERSION = "qin-folded", 3


@dataclass
class FoldedFile:
    """What a folded file holds.

    Attributes:
        folded: The model.
        ids: The ids of its data set.
        max_len: Most recent history items that the model was trained with.
        calibration: Map from logit to probability, if one was fitted.
        checkpoint: SHA-256 of the checkpoint that was folded.
        metrics: Of the checkpoint's evaluation on valid, where its training left them.
    """

    folded: FoldedModel
    ids: Ids
    max_len: int
    calibration: Calibration | None = None
    checkpoint: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)


def save_folded(path: str | os.PathLike[str], file: FoldedFile) -> None:
    """Write a folded model; the file appears only when it is complete."""
    folded = file.folded
    tensors = folded.state_dict()
    for name, table in folded.item_tables.items():
        tensors[name] = table[: folded.num_items].clone()  # without the room for more
    content = {
        "format": FORMAT,
        "version": VERSION,
        "torch": str(torch.__version__),
        "item_features": [_description(feature) for feature in folded.item_features],
        "row_features": [_description(feature) for feature in folded.row_features],
        "model": folded_name(type(folded)),
        "plain": folded.plain_values(),
        "tensors": tensors,
        "ids": file.ids.state(),
        "max_len": file.max_len,
        "calibration": None if file.calibration is None else file.calibration.state(),
        "checkpoint": file.checkpoint,
        "metrics": file.metrics,
    }
    with write_aside(path) as partial:
        torch.save(content, partial)


def load_folded(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> FoldedFile:
    """Read a folded model; nothing in the file is executed.

    Raises:
        InputError: If the file is missing, unreadable, no folded model, or of a newer version.
    """
    if Path(path).is_file() and not zipfile.is_zipfile(path):  # what torch.save writes
        raise InputError(f"{path}: not a readable folded model: cut short, or of another kind")
    try:
        content = read_saved(path, "folded model", device)
    except FileNotFoundError:
        raise InputError(f"{path}: no such folded model") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: not a folded model")
    version = content.get("version")
    if isinstance(version, int) and version > VERSION:
        raise InputError(
            f"{path}: version {version}, expected at most {VERSION}: it was folded by a newer "
            "release"
        )
    try:
        return _file(content)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path}: not a readable folded model: {error!r}") from None


def _file(content: dict[str, Any]) -> FoldedFile:
    state = content["calibration"]
    return FoldedFile(
        folded=_build(content),
        ids=Ids.from_state(content["ids"]),
        max_len=content["max_len"],
        calibration=None if state is None else Calibration.from_state(state),
        checkpoint=content["checkpoint"],
        metrics=content.get("metrics", {}),  # older files have none
    )


def _description(feature: FoldedFeature) -> dict[str, Any]:
    return {name: getattr(feature, name) for name in ("name", "kind", "mode", "scale")}


def _build(content: dict[str, Any]) -> FoldedModel:
    # Version 1 was written when one model folded: without its name, and with flat values.
    # Version 2 has no scales: its numbers count as they are.
    kind: type[FoldedModel] = get_folded(content.get("model", FIRST_FOLDED))
    features = [
        [
            FoldedFeature(weight=content["tensors"][f"{part}.{i}.weight"], **description)
            for i, description in enumerate(content[part])
        ]
        for part in ("item_features", "row_features")
    ]
    plain = content.get("plain", content)
    return kind.from_parts(features[0], features[1], content["tensors"], plain).eval()
