"""What ``prediction.py`` does: score the test split for the leaderboard, or any file."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from fuxictr.pytorch.torch_utils import get_device

from model_zoo import get_model
from model_zoo.core.commands.config import Experiment, load_experiment
from model_zoo.core.commands.experiment import (
    build_feature_map,
    build_model,
    prepare_dataset,
    use_device,
)
from model_zoo.core.commands.folding import fold_model, folded_path, require_folding
from model_zoo.core.commands.kept_columns import KeptColumns
from model_zoo.core.commands.places import experiment_inputs
from model_zoo.core.commands.score_files import (
    EXPLAINED,
    SCORE_COLUMNS,
    probabilities,
    score_tables,
    write_tables,
    write_zip,
)
from model_zoo.core.commands.scoring import (
    ScoreBatch,
    by_folded,
    by_model,
    open_rows,
    score_rows,
)
from model_zoo.core.data.csv_rows import csv_to_parquet
from model_zoo.core.data.encode import encode_file
from model_zoo.core.data.schema import check_dataset
from model_zoo.core.data.spec import DatasetSpec
from model_zoo.core.data.text_files import DELIMITERS, table_suffix
from model_zoo.core.errors import InputError
from model_zoo.core.files import require_apart, require_writable
from model_zoo.core.serving.calibration import Calibration
from model_zoo.core.serving.file import FoldedFile, load_folded

TASKS = ("Task1", "Task2", "Task1&2")
FORMATS = (".parquet", ".csv")
INPUTS = (".parquet", *DELIMITERS)


def write_submission(
    config_dir: str,
    expid: str,
    gpu: int = -1,
    overrides: Sequence[str] = (),
    *,
    task: str = "Task2",
    folder: str | Path = "submission",
    calibrated: bool = False,
) -> Path:
    """Score the test split with the experiment's checkpoint, folded where the model folds.

    Args:
        config_dir: Folder with the YAML files.
        expid: Experiment id.
        gpu: CUDA device, -1 for CPU.
        overrides: ``key=value`` strings that replace settings.
        task: Name of the probability column.
        folder: Where the zip goes.
        calibrated: Apply the calibration map that ``run_expid.py --calibrate`` fitted.

    Returns:
        Path of ``<folder>/<expid>.zip``.

    Raises:
        InputError: If a setting, a file or the checkpoint is wrong, or a score is no
            probability.
    """
    _log_to_console()
    raw = load_experiment(config_dir, expid, overrides)
    if calibrated:
        require_folding(raw, "--calibrated")
    if raw.dataset.test_data is None:
        raise InputError(f"data set '{raw.dataset.dataset_id}' has no test_data")
    path = Path(folder) / f"{expid}.zip"
    require_apart(experiment_inputs(config_dir, raw), {"the submission": path})
    require_writable([path], [path.parent])
    encoded, _ = prepare_dataset(raw, splits=("test",), scoring=True)
    feature_map = build_feature_map(encoded.params)
    score, calibration, _ = _scorer(raw.dataset, encoded, feature_map, gpu, calibrated=calibrated)
    test = open_rows(encoded, feature_map, str(encoded.dataset.test_data))
    scored = score_rows(score, test, source=raw.dataset.test_data, progress=encoded.run.verbose > 0)
    write_zip(path, (probabilities(rows, calibration) for rows in scored), task)
    logging.info("Wrote %s: %d rows, column %s", path, test.num_samples, task)
    return path


def score_file(
    config_dir: str,
    expid: str,
    gpu: int = -1,
    overrides: Sequence[str] = (),
    *,
    source: str | Path,
    target: str | Path,
    calibrated: bool = False,
    explain: bool = False,
    keep: Sequence[str] = (),
) -> Path:
    """Score any file with the data set's columns; neither a label nor user ids are needed.

    Columns that are no input of the model are not looked at, a label neither.

    Args:
        config_dir: Folder with the YAML files.
        expid: Experiment id.
        gpu: CUDA device, -1 for CPU.
        overrides: ``key=value`` strings that replace settings.
        source: Parquet, csv or tsv file of rows; csv and tsv may be compressed.
        target: Parquet or csv file to write: ``ID`` (the row, from 0), ``probability``, and
            with ``explain`` the lists ``history`` and ``attention``: the items that the model
            saw and their weights.
        calibrated: Apply the calibration map that ``run_expid.py --calibrate`` fitted.
        explain: Write the attention weights too.
        keep: Columns of ``source`` to write beside the scores, as they are there.

    Returns:
        ``target``.

    Raises:
        InputError: If a setting, the file or the checkpoint is wrong.
    """
    _log_to_console()
    source, target = Path(source), Path(target)
    problems = [
        f"{path}: expected a file named {expected}"
        for path, expected, good in (
            (source, "*.parquet, *.csv or *.tsv (also .gz)", table_suffix(source) in INPUTS),
            (target, "*.parquet or *.csv", target.suffix in FORMATS),
        )
        if not good
    ]
    if problems:
        raise InputError(problems)
    raw = load_experiment(config_dir, expid, overrides)
    require_apart({"--input": source, **experiment_inputs(config_dir, raw)}, {"--output": target})
    if target.is_dir():
        raise InputError(f"--output {target} is a folder; expected the name of a file")
    require_writable([target])
    for asked, option in ((calibrated, "--calibrated"), (explain, "--explain")):
        if asked:
            require_folding(raw, option)
    kept = KeptColumns(source, keep, target, SCORE_COLUMNS + EXPLAINED * explain)
    encoded, _ = prepare_dataset(raw, splits=())
    with tempfile.TemporaryDirectory() as folder:
        rows = _as_encoded(raw.dataset, source, Path(folder))
        feature_map = build_feature_map(encoded.params)
        score, calibration, keys = _scorer(
            raw.dataset, encoded, feature_map, gpu, calibrated=calibrated
        )
        loader = open_rows(encoded, feature_map, rows)
        scored = score_rows(score, loader, source=source, progress=encoded.run.verbose > 0)
        tables = score_tables(scored, encoded.dataset, keys if explain else None, calibration)
        write_tables(target, kept.beside(tables))
    logging.info("Wrote %s: %d rows", target, loader.num_samples)
    return target


def _log_to_console() -> None:
    # A log file is the training's; this goes to the console only.
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True
    )


def _scorer(
    raw: DatasetSpec, encoded: Experiment, feature_map: Any, gpu: int, *, calibrated: bool
) -> tuple[ScoreBatch, Calibration | None, pl.Series | None]:
    """The experiment's checkpoint on its device: scores, a map if one is to be applied, and the
    data set's id of each row of the item tables, where the model folds.
    """
    use_device(gpu)
    folds = hasattr(get_model(encoded.run.model), "fold")
    model = build_model(encoded, feature_map, -1 if folds else gpu)
    model.load_weights(model.checkpoint)
    if not folds:
        return by_model(model), None, None
    file = fold_model(model, raw, encoded)
    calibration = None
    if calibrated:
        stored = load_folded(folded_path(encoded))
        if stored.checkpoint != file.checkpoint or stored.calibration is None:
            raise InputError(
                f"{folded_path(encoded)}: no calibration map of the checkpoint "
                f"{model.checkpoint}; fit one with run_expid.py --calibrate"
            )
        calibration = stored.calibration
    folded = file.folded.to(get_device(gpu))
    return by_folded(folded, encoded.dataset), calibration, _keys(file)


def _as_encoded(raw: DatasetSpec, source: Path, folder: Path) -> Path:
    """A checked file on integer data; what has to be made for it goes into ``folder``."""
    # Scoring needs no columns but the model's inputs.
    columns = [
        column.model_copy(update={"active": False}) if column in raw.meta_columns() else column
        for column in raw.feature_cols
    ]
    dataset = raw.model_copy(update={"feature_cols": columns, "test_data": str(source)})
    if table_suffix(source) in DELIMITERS:
        rows = folder / "rows.parquet"
        csv_to_parquet(source, rows, dataset)
        dataset = dataset.model_copy(update={"test_data": str(rows)})
    try:
        check_dataset(dataset, splits=("test",), scoring=True)
        if not raw.rebuild_dataset:
            return Path(str(dataset.test_data))
        encode_file(dataset, Path(str(dataset.test_data)), folder / "encoded.parquet")
    except InputError as error:
        # A message about rows of a csv file names that file.
        raise InputError(
            [text.replace(str(dataset.test_data), str(source)) for text in error.problems]
        ) from None
    return folder / "encoded.parquet"


def _keys(file: FoldedFile) -> pl.Series:
    """The data set's id of each row of the item tables."""
    if file.ids.rows is None:
        return pl.Series(range(file.folded.num_items))
    return pl.Series([None, *file.ids.rows])
