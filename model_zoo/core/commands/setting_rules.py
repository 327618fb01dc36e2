"""Rules that tie a setting to others, to the data set's columns, or to what FuxiCTR can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from model_zoo.core.data.spec import DatasetSpec
from model_zoo.core.errors import suggestion
from model_zoo.core.training.metrics import GROUP_METRICS, ROW_METRICS, is_group_metric
from model_zoo.core.training.optimizer import OPTIMIZERS

if TYPE_CHECKING:
    from model_zoo.core.commands.config import RunSpec


def cross_check(run: RunSpec, dataset: DatasetSpec) -> list[str]:
    """A problem for every rule that checked settings break together."""
    problems = [*_metrics(run), *_training(run), *_columns(run, dataset)]
    return [f"experiment '{run.model_id}': {problem}" for problem in problems]


def _metrics(run: RunSpec) -> list[str]:
    problems = []
    weights = {run.monitor: 1.0} if isinstance(run.monitor, str) else run.monitor
    used = list(dict.fromkeys([*run.metrics, *weights]))
    for metric in used:
        if metric not in ROW_METRICS and not is_group_metric(metric):
            known = (*ROW_METRICS, *GROUP_METRICS, "NDCG(k=5)")
            problems.append(
                f"metric '{metric}' is unknown{suggestion(metric, known)}; "
                f"known: {', '.join(known)}"
            )
    if not any(weights.values()):
        problems.append(f"monitor: found {run.monitor}, expected a weight other than 0")
    by_group = [metric for metric in used if is_group_metric(metric)]
    if by_group and run.group_id is None:
        problems.append(f"{', '.join(by_group)} need a group_id, for example user_id")
    expected_mode = "min" if run.monitor == "logloss" else "max"
    if isinstance(run.monitor, str) and run.monitor_mode != expected_mode:
        problems.append(
            f"monitor {run.monitor} improves towards {expected_mode}, "
            f"but monitor_mode is {run.monitor_mode}"
        )
    return problems


def _training(run: RunSpec) -> list[str]:
    """The engine's settings; a model's keys are fields of ``run`` that its class does not say."""
    problems = []
    settings = dict(run)
    name = run.optimizer
    if name.lower() != "adam" and name not in OPTIMIZERS:
        same = {known.lower(): known for known in OPTIMIZERS}
        why = "needs more than weights and a rate" if hasattr(torch.optim, name) else ""
        problems.append(
            f"optimizer '{name}' {why or 'is not in torch.optim'}"
            f"{suggestion(same.get(name.lower(), name), OPTIMIZERS)}; "
            f"known: {', '.join(OPTIMIZERS)}"
        )
    if settings["embedding_update"] == "lazy":
        if name.lower() != "adam":
            problems.append(f"embedding_update: lazy needs optimizer adam, found {name}")
        if settings["weight_average"] is not None:
            problems.append(
                f"weight_average is {settings['weight_average']}: it touches every row, which "
                "embedding_update: lazy spares; use one of them"
            )
        problems += [
            f"{key}: found {settings[key]!r}, expected an L2 norm beside embedding_update: lazy"
            for key in ("embedding_regularizer", "net_regularizer")
            if str(settings[key]).startswith("l1")
        ]
    return problems


def _columns(run: RunSpec, dataset: DatasetSpec) -> list[str]:
    """Names of columns."""
    active = {column.name for column in dataset.feature_cols if column.active}
    items, rows = ([f.name for f in dataset.features(of_items=of)] for of in (True, False))
    names = [("group_id", run.group_id, active)] if run.group_id is not None else []
    features = {*items, *rows}
    names += [("use_features", name, features) for name in run.use_features or []]
    for override in run.feature_specs or []:
        listed = override.name if isinstance(override.name, list) else [override.name]
        names += [("feature_specs", name, features) for name in listed]
    problems = [
        f"{key}: '{name}' is no active column of {dataset.dataset_id}{suggestion(name, known)}"
        for key, name, known in names
        if name not in known
    ]
    groups = [
        *(column.name for column in dataset.meta_columns() if column.dtype != "float"),
        *(f.name for f in dataset.features(of_items=False) if f.type == "categorical"),
    ]
    groups = [name for name in groups if name != dataset.item_col]
    if run.group_id in active and run.group_id not in groups:
        problems.append(
            f"group_id: '{run.group_id}' is not an id of each row; expected a column of type meta "
            "or categorical other than history, target and item features: "
            f"{', '.join(groups) or 'there is none'}"
        )
    if run.use_features is not None and not {*run.use_features} & {*items}:
        problems.append(
            f"use_features: found {run.use_features}, expected at least one feature of "
            f"items: {', '.join(items)}"
        )
    if run.use_features is not None and len({*run.use_features}) < len(run.use_features):
        problems.append(f"use_features: found {run.use_features}, expected each feature once")
    return problems
