"""Numbers that are not finite are named where they arise, on a CPU, before torch refuses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_zoo.core.commands.experiment import run_experiment
from model_zoo.core.commands.scoring import by_model, score_rows
from model_zoo.core.commands.submission import score_file, write_submission
from model_zoo.core.errors import InputError
from model_zoo.core.serving.scorer import Scorer
from model_zoo.core.training.origins import first_batch_of, origin_of
from tests.serving.made import make_batch, make_model, make_scorer

WEIGHT = "embedding_layer.embedding_layer.embedding_layers.age.weight"


@pytest.fixture(params=["QIN", "QIN+"])
def model(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    model = make_model(tmp_path, model=request.param)
    model._batch_index, model._steps_per_epoch, model._total_steps = 6, 20, 107
    model.train()
    return model


def batch_of(rows: int = 8, **changes: float) -> dict[str, torch.Tensor]:
    """With its first row's numbers changed."""
    batch = make_batch(rows) | {"label": torch.randint(0, 2, (rows,)).float()}
    for name, value in changes.items():
        batch[name] = batch[name].clone()
        batch[name].view(rows, -1)[0, 0] = value
    return batch


def broken_step(model: Any, batch: dict[str, torch.Tensor]) -> str:
    with pytest.raises(InputError) as error:
        model.train_step(batch)
    return str(error.value)


def test_a_step_names_the_input(model: Any) -> None:
    message = broken_step(model, batch_of(age=float("nan")))
    assert ": step 107, batch 7 of the epoch: " in message
    assert " of 8 predictions are not finite: of the batch's columns age is not finite" in message
    assert message.endswith("; learning_rate 0.01")


def test_a_step_names_the_feature(model: Any) -> None:
    with torch.no_grad():
        model.get_parameter(WEIGHT).fill_(1e10)
    message = broken_step(model, batch_of(age=3e38))
    assert "the first numbers that are not come from feature 'age' (layer embedding" in message


def test_a_step_names_the_weights(model: Any) -> None:
    with torch.no_grad():
        model.get_parameter(WEIGHT)[0] = float("nan")
    message = broken_step(model, batch_of())
    assert f"8 of 8 predictions are not finite: the weights of {WEIGHT} are not finite" in message


def test_a_layer_is_named(model: Any) -> None:
    """Sound weights and inputs whose sum is too large."""
    name, layer = [x for x in model.named_modules() if isinstance(x[1], torch.nn.Linear)][-1]
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(3e38)
        layer.register_forward_hook(lambda module, inputs, output: output * 10)
    message = origin_of(model.eval(), batch_of())
    assert message == f"the first numbers that are not come from layer {name}"


def test_an_evaluation_names_batch_and_layer(model: Any) -> None:
    batches = [batch_of(), batch_of(), batch_of(age=float("inf"))]
    expected = "first in batch 3: of the batch's columns age is not finite"
    assert first_batch_of(model.eval(), batches) == expected
    assert first_batch_of(model, batches[:2]) is None
    model.feature_map.group_id = None
    with pytest.raises(InputError, match=r"of 24 predictions are not finite.*; " + expected):
        model.evaluate(batches)


class Rows(list[dict[str, torch.Tensor]]):
    """Batches as a loader gives them."""

    path, num_samples = "rows.parquet", 24


def test_scoring_names_row_and_origin(model: Any) -> None:
    rows = Rows([batch_of(), batch_of(age=float("nan"))])
    with pytest.raises(InputError) as error:
        list(score_rows(by_model(model), rows, progress=False))  # type: ignore[arg-type]
    assert str(error.value) == (
        "rows.parquet: row 8: found the score nan, expected a finite number (1 such rows in its "
        "batch): of the batch's columns age is not finite"
    )


def test_a_scorer_refuses_a_score_that_is_not_finite(model: Any) -> None:
    with torch.no_grad():
        model.get_parameter(WEIGHT).fill_(1e10)
    scorer: Scorer = make_scorer(model.eval())
    batch = make_batch(2)
    context = {name: batch[name] for name in model.row_features}
    assert scorer.score([3], [4, 5], context).isfinite().all()
    context["age"] = torch.tensor([0.0, 3e38])
    with pytest.raises(InputError, match="candidates: position 1: found the score"):
        scorer.score([3], [4, 5], context)


def test_weights_that_are_not_finite_are_not_folded(workspace: Path) -> None:
    run_experiment("config", "QIN_test")
    path = Path("checkpoints/MicroLens_demo/QIN_test.model")
    weights = torch.load(path, weights_only=True)
    weights["qnn.output.weight"][0, 0] = np.nan
    torch.save(weights, path)
    for command in (
        lambda: write_submission("config", "QIN_test"),
        lambda: score_file(
            "config",
            "QIN_test",
            source="data/MicroLens_demo/test.parquet",
            target="scores.csv",
        ),
    ):
        with pytest.raises(InputError, match=r"QIN_test\.model: found numbers that are not finite"):
            command()
    assert not Path("scores.csv").exists()
