"""How well an experiment's probabilities are calibrated, and a map that mends them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from model_zoo.core.commands.config import Experiment
from model_zoo.core.commands.curve import draw_reliability_curve
from model_zoo.core.commands.folding import fold_model, folded_path
from model_zoo.core.commands.scoring import by_folded, by_model, logits_and_labels, open_rows
from model_zoo.core.data.spec import DatasetSpec
from model_zoo.core.model import Foldable
from model_zoo.core.serving.calibration import (
    Kind,
    fit_calibration,
    held_out_effect,
    measure_calibration,
)
from model_zoo.core.serving.file import save_folded


def report_calibration(
    model: Any,
    raw: DatasetSpec,
    encoded: Experiment,
    picture: Path,
    *,
    calibrate: Kind | None = None,
) -> None:
    """Log the calibration on the validation set and draw the reliability curve.

    With ``calibrate`` the effect of a map that is fitted on one half of the validation set is
    measured on the other half; the map of the whole set goes into ``<expid>.folded``.

    Args:
        model: The model, with the weights of its checkpoint.
        raw: The data set as configured.
        encoded: The experiment on integer data.
        picture: PNG file to write.
        calibrate: ``platt`` or ``isotonic``, for a model that folds.

    Raises:
        InputError: If the map cannot be fitted.
    """
    folds = isinstance(model, Foldable)
    file = fold_model(model, raw, encoded) if folds else None
    score = by_model(model) if file is None else by_folded(file.folded, encoded.dataset)
    path = encoded.dataset.valid_data
    valid = open_rows(encoded, model.feature_map, path, split="valid", labelled=True)
    logit, label = logits_and_labels(
        score, valid, encoded.dataset, progress=encoded.run.verbose > 0
    )
    report = measure_calibration(torch.from_numpy(logit).sigmoid().numpy(), label)
    logging.info("[Calibration] %s", report.describe())
    reports = {"as trained": report}
    if calibrate is not None and file is not None:
        before, after = held_out_effect(calibrate, logit, label, seed=encoded.run.seed)
        logging.info("[Calibration] half of valid, as trained: %s", before.describe())
        logging.info(
            "[Calibration] that half, %s fitted on the other: %s", calibrate, after.describe()
        )
        reports[f"{calibrate}, held out"] = after
        file.calibration = fit_calibration(calibrate, logit, label)
        path = folded_path(encoded)
        save_folded(path, file)
        logging.info("Wrote %s, with the %s map of all of valid", path, calibrate)
    draw_reliability_curve(reports, picture, title=encoded.run.model_id)
