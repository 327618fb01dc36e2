"""Every setting of every model and of the engine, driven with values that it must refuse."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import run_expid
from model_zoo import get_model
from model_zoo.core.commands import experiment as experiment_module
from model_zoo.core.commands.config import (
    RunSpec,
    constructor_arguments,
    experiment_spec,
    load_experiment,
    validated,
)
from model_zoo.core.commands.experiment import build_feature_map
from model_zoo.core.commands.rehearsal import rehearse
from model_zoo.core.errors import InputError
from model_zoo.core.training.optimizer import OPTIMIZERS, build_optimizer
from model_zoo.longctr_adapter.source import installed_models
from tests.conftest import ROOT

OWN = ("QIN", "QIN+", "QINAblation", "TransformerDCN")
Rule = Callable[[Any], bool]


def integer(low: int, high: int = 2**31 - 1) -> Rule:
    return lambda value: type(value) is int and low <= value <= high


def number(good: Callable[[float], bool]) -> Rule:
    return lambda value: type(value) in (int, float) and math.isfinite(value) and good(value)


def one_of(*values: object) -> Rule:
    # YAML's True is no 1 here, but for a Literal of numbers it may be.
    return lambda value: any(type(value) is type(v) and value == v for v in values)


def optional(rule: Rule) -> Rule:
    return lambda value: value is None or rule(value)


def list_of(rule: Rule) -> Rule:
    return lambda value: isinstance(value, list) and len(value) > 0 and all(map(rule, value))


SIZE = integer(1)
SWITCH: Rule = lambda value: type(value) is bool  # noqa: E731
DROPOUT = number(lambda value: 0 <= value < 1)
PENALTY = optional(number(lambda value: value >= 0))

RANGES: dict[str, Rule] = {
    "seed": integer(0, 2**32 - 1),
    "verbose": lambda value: value in (0, 1) and value is not None,
    "debug_mode": SWITCH,
    "batch_size": SIZE,
    "max_len": SIZE,
    "shuffle": SWITCH,
    "buffer_size": SIZE,
    "data_on_device": lambda value: type(value) is bool or value == "auto",
    "rescale_vectors": optional(SWITCH),
    "epochs": SIZE,
    "early_stop_patience": SIZE,
    "eval_steps": optional(SIZE),
    "save_best_only": SWITCH,
    "reduce_lr_on_plateau": SWITCH,
    "max_gradient_norm": lambda value: type(value) in (int, float) and value > 0,
    "accumulation_steps": SIZE,
    "factor": number(lambda value: 0 < value <= 1),
    "precision": one_of("fp32", "bf16"),
    "embedding_update": one_of("dense", "lazy"),
    "embedding_regularizer": PENALTY,
    "net_regularizer": PENALTY,
    "weight_average": optional(number(lambda value: 0 < value < 1)),
    "cuda_graph": SWITCH,
    "tensorboard": SWITCH,
    "checkpoint_minutes": optional(number(lambda value: value > 0)),
    "learning_rate": number(lambda value: value > 0),
    "embedding_dim": SIZE,
    "num_layers": SIZE,
    "num_row": SIZE,
    "net_dropout": DROPOUT,
    "batch_norm": SWITCH,
    "compile": SWITCH,
    "gate_units": SIZE,
    "length_power": number(lambda value: 0 <= value <= 1),
    "order": SWITCH,
    "sparse": SWITCH,
    "product": SWITCH,
    "contrast": number(lambda value: value >= 0),
    "contrast_temperature": number(lambda value: value > 0),
    "contrast_negatives": SIZE,
    "hidden_units": list_of(SIZE),
    "output_units": list_of(SIZE),
    "attention": one_of("asta", "softmax", "relu2", "silu", "mean", "none"),
    "attention_dropout": DROPOUT,
    "residual": SWITCH,
    "tied": SWITCH,
    "network": one_of("qnn", "mlp"),
    "activation": one_of("prelu", "relu"),
    "qnn_norm": one_of("after", "before"),
    "num_heads": SIZE,
    "feed_forward": SIZE,
    "transformer_dropout": DROPOUT,
    "num_last": SIZE,
    "cross_layers": SIZE,
    "task": one_of("binary_classification"),
    "loss": one_of("binary_crossentropy", "binary_cross_entropy", "bce"),
    "monitor_mode": one_of("max", "min"),
}
# Names and lists of names, which the tests below this table drive.
NAMES = {"model", "model_id", "dataset_id", "model_root", "group_id", "use_features"}
NAMES |= {"feature_specs", "optimizer", "metrics", "monitor"}

VALUES: list[Any] = [
    *("word", "", "1.0", "1e-3", [], [1], [0], [1.5], [True], {}, {"a": 1}, None, True, False),
    *(-1, 0, 1, 2, 2**32, 2**70, -0.5, 0.0, 0.5, 1.0, 1.5, math.nan, math.inf, -math.inf),
]
BASE = {
    **{"learning_rate": 1e-3, "batch_size": 64, "epochs": 1, "embedding_dim": 4, "max_len": 8},
    "dataset_id": "MicroLens_demo",
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one experiment for each model, named like it, that sets what it must."""
    folder = tmp_path_factory.mktemp("config")
    data = yaml.safe_load((ROOT / "config" / "dataset_config.yaml").read_text())
    text = yaml.safe_dump({"MicroLens_demo": data["MicroLens_demo"]})
    (folder / "dataset_config.yaml").write_text(text)
    models = [*OWN, *(f"LongCTR/{name}" for name in installed_models())]
    text = yaml.safe_dump({name: BASE | {"model": name} for name in models})
    (folder / "model_config.yaml").write_text(text)
    return folder


@functools.cache
def spec_of(model: str) -> type[RunSpec]:
    return experiment_spec(get_model(model))


def problems(model: str, key: str, value: Any) -> list[str]:
    """Messages about an experiment that gives this key this value."""
    found: list[str] = []
    values = BASE | {"model": model, "model_id": "it", key: value}
    validated(spec_of(model), values, "it", set(), found)
    return found


def unlike(model: str, key: str, rule: Rule) -> list[str]:
    """Values that are accepted and should not be, or the reverse, and messages that say less."""
    wrong = []
    for value in VALUES:
        found = problems(model, key, value)
        if bool(found) == rule(value):
            wrong.append(f"{key}={value!r}: {'refused' if found else 'accepted'}")
        for text in found:
            if ": dropout must be in [0, 1), got " in text:
                continue
            shown = f"found {value!r}" in text or (
                isinstance(value, (list, dict)) and "found" in text
            )
            if not (
                shown and ("should" in text or "exceeded" in text) and text.startswith(f"it: {key}")
            ):
                wrong.append(f"{key}={value!r}: {text}")
    return wrong


@pytest.mark.parametrize("model", OWN)
def test_every_setting_has_a_range(model: str) -> None:
    """Also one that is added later: it is not in the table then."""
    own = constructor_arguments(get_model(model))
    keys = {*RunSpec.model_fields, *own} - NAMES
    assert keys <= set(RANGES)
    # What all models share is driven once.
    driven = keys if model == "QIN" else set(own) - {*constructor_arguments(get_model("QIN"))}
    wrong = [text for key in sorted(driven) for text in unlike(model, key, RANGES[key])]
    assert wrong == []


def rule_of(name: str, default: Any) -> Rule | None:
    """What a default value and a name say of a LongCTR model's argument."""
    if "dropout" in name:
        return DROPOUT
    if name.endswith("regularizer"):
        return PENALTY
    if isinstance(default, bool):
        return SWITCH
    if isinstance(default, int) and default > 0 and name not in ("alpha", "beta"):
        return SIZE
    if isinstance(default, float) or name in ("alpha", "beta"):
        return number(lambda value: value > 0 or name != "learning_rate")
    return None


@pytest.mark.parametrize("name", sorted(installed_models()))
def test_peers_by_their_defaults(name: str) -> None:
    model = f"LongCTR/{name}"
    parameters = inspect.signature(get_model(model).__init__).parameters
    rules = {
        key: rule_of(key, parameters[key].default)
        for key in constructor_arguments(get_model(model))
        if key in parameters
    }
    assert sum(rule is not None for rule in rules.values()) > 5
    wrong = []
    for key, rule in rules.items():
        if rule is not None and key not in ("gru_type", "embedding_regularizer"):
            wrong += unlike(model, key, rule)
        else:
            wrong += [
                f"{key}={value!r}: accepted"
                for value in ({}, {"a": 1}, math.nan, -1.5, [[1]])
                if not problems(model, key, value) and not key.endswith("regularizer")
            ]
    assert wrong == []


def test_nothing_is_begun(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the command line: exit code 2, key and value in the message, no file, no data read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiment_module, "prepare_dataset", lambda *a, **k: pytest.fail("begun"))
    bad = {key: "{a: 1}" for key in RANGES if key in dict(load_experiment(config, "QIN").run)}
    bad |= {"optimizer": "LBFGS", "monitor": "{}", "metrics": "[]", "use_features": "[]"}
    bad |= {"group_id": "item_seq", "feature_specs": "3", "model_root": "''", "dataset_id": "[3]"}
    bad |= {"batch_size": "1", "embedding_regularizer": "l2(x)", "demo": "{num_users: 0}"}
    for key, value in bad.items():
        arguments = ["--config", str(config), "--expid", "QIN", "--set", f"{key}={value}"]
        assert run_expid.main(arguments) == 2, key
        error = capsys.readouterr().err
        shown = value.strip("'{}[]").replace("a: 1", "'a': 1").replace("num_users: ", "")
        assert key in error, error
        assert shown in error, error
        assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer=LBFGS", "optimizer 'LBFGS' needs more than weights and a rate"),
        ("optimizer=SparseAdam", "needs more than"),
        ("optimizer=Muon", "needs more than"),
        ("optimizer=Optimizer", "needs more than"),
        ("optimizer=lr_scheduler", "needs more than"),
        ("optimizer=sgd", "optimizer 'sgd' is not in torch.optim (did you mean 'SGD'?)"),
        ("monitor={AUC: 0}", "monitor: found {'AUC': 0.0}, expected a weight other than 0"),
        ("metrics=['NDCG(k=0)']", "metric 'NDCG(k=0)' is unknown"),
        ("use_features=[likes_level]", "use_features: found ['likes_level'], expected at least"),
        ("use_features=[item_id, item_id]", "expected each feature once"),
        ("group_id=item_seq", "group_id: 'item_seq' is not an id of each row"),
        ("group_id=item_id", "type meta or categorical other than history, target"),
        ("group_id=item_tags", "item features: user_id, likes_level, views_level"),
        (
            "embedding_regularizer=l1_l2(1,-1)",
            "should be finite and from 0 on, found 'l1_l2(1,-1)'",
        ),
    ],
)
def test_rules_between_settings(config: Path, override: str, expected: str) -> None:
    with pytest.raises(InputError) as error:
        load_experiment(config, "QIN", [override])
    assert any(expected in text for text in error.value.problems), error.value.problems


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["optimizer=SGD"], "embedding_update: lazy needs optimizer adam, found SGD"),
        (["weight_average=0.9"], "weight_average is 0.9"),
        (["net_regularizer=l1(1.e-3)"], "net_regularizer: found 'l1(1.e-3)', expected an L2 norm"),
    ],
)
def test_lazy_updates(config: Path, overrides: list[str], expected: str) -> None:
    with pytest.raises(InputError, match=r".") as error:
        load_experiment(config, "QIN", ["embedding_update=lazy", *overrides])
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("model", "overrides", "expected"),
    [
        ("QIN", ["batch_size=1"], "batch_size is 1, expected at least 2"),
        ("LongCTR/DIN", ["batch_size=1", "batch_norm=True"], "batch_size is 1"),
        ("TransformerDCN", ["num_heads=7"], "num_heads"),
        ("QINAblation", ["tied=True", "attention=mean"], "tied: True needs queries and keys"),
    ],
)
def test_a_model_is_tried_before_the_data(
    config: Path, model: str, overrides: list[str], expected: str
) -> None:
    experiment = load_experiment(config, model, overrides)
    with pytest.raises(InputError) as error:
        rehearse(experiment, build_feature_map)
    assert expected in str(error.value)
    assert f"experiment '{model}': " in str(error.value)


def test_a_batch_of_one_without_batch_norm(config: Path) -> None:
    overrides = ["batch_size=1", "batch_norm=False"]
    rehearse(load_experiment(config, "QIN", overrides), build_feature_map)


def test_accepted_optimizers_work_and_no_other_is_left_out() -> None:
    """Each makes a step on a matrix and a vector; torch's others do not."""
    offered = {
        name: kind
        for name, kind in vars(torch.optim).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)
    }
    works = []
    for name in offered:
        weights = [torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(3))]
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        try:
            build_optimizer(name, weights, 0.1).step()
        except (TypeError, ValueError, RuntimeError, NotImplementedError):
            continue
        if all((weight != 1).all() for weight in weights):
            works.append(name)
    assert sorted(works) == sorted(OPTIMIZERS)
