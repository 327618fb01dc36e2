"""QIN as a FuxiCTR model: wiring, training hooks, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model_zoo.core.commands.config import load_experiment
from model_zoo.core.commands.experiment import build_feature_map
from model_zoo.core.data.item_table import ItemTable
from model_zoo.core.errors import InputError
from model_zoo.core.training.items import WHOLE_TABLE
from model_zoo.QIN.model import QIN
from tests import oracles
from tests.conftest import CATEGORICAL, ROOT, SEQUENCE, build_qin, build_small

ITEMS = 12
ITEM_FEATURES = {
    "item_id": {**CATEGORICAL, "source": "item", "vocab_size": ITEMS},
    "tags": {**SEQUENCE, "source": "item", "vocab_size": 7, "max_len": 3},
    "topics": {**SEQUENCE, "source": "item", "vocab_size": 5, "max_len": 2},
    "text": {"type": "embedding", "source": "item", "pretrain_dim": 6},
    "image": {"type": "embedding", "source": "item", "pretrain_dim": 3, "embedding_dim": 2},
    "price": {"type": "numeric", "source": "item"},
}
ROW_FEATURES = {
    "level": {**CATEGORICAL, "vocab_size": 4},
    "hour": {**CATEGORICAL, "vocab_size": 3, "embedding_dim": 2},
}
PADDING_ROWS = (ITEMS, 7, 5, 4, 3)  # sizes of the tables; row 0 of each is padding


def require_same_outputs(model: nn.Module, output: dict[str, Tensor], expected: Tensor) -> None:
    """The logits are those of the formulas (B, 1), and so are all gradients."""
    # FuxiCTR reads numbers and vectors as float32 whatever the model computes in.
    torch.testing.assert_close(output["logit"], expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(output["y_pred"], output["logit"].sigmoid())
    names, parameters = zip(*model.named_parameters(), strict=True)
    got = torch.autograd.grad(output["logit"].sum(), parameters)
    wanted = torch.autograd.grad(expected.sum(), parameters)
    for name, one, other in zip(names, got, wanted, strict=True):
        if "embedding_layers" in name and len(one) in PADDING_ROWS:
            one, other = one[1:], other[1:]  # FuxiCTR does not train padding
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=name)


def item_columns() -> dict[str, Tensor]:
    columns = {
        "item_id": torch.arange(ITEMS),
        "tags": torch.randint(0, 7, (ITEMS, 3)),
        "topics": torch.randint(0, 5, (ITEMS, 2)),
        "text": torch.randn(ITEMS, 6),
        "image": torch.randn(ITEMS, 3),
        "price": torch.randn(ITEMS),
    }
    for name, column in columns.items():
        column[0] = 0
        columns[name] = column
    return columns


def padded_batch(rows: int = 9, slots: int = 5) -> dict[str, Tensor]:
    history = torch.randint(0, ITEMS, (rows, slots))
    history[0] = 0
    return {
        "item_id": torch.randint(1, ITEMS, (rows,)),
        "item_seq": history,
        "level": torch.randint(0, 4, (rows,)),
        "hour": torch.randint(0, 3, (rows,)),
        "label": (torch.arange(rows) % 2).float(),
    }


def packed(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    history = batch["item_seq"]
    return batch | {
        "item_seq": history[history != 0].int(),
        "item_seq_length": (history != 0).sum(1),
    }


def build(tmp_path: Path, features: dict[str, Any] | None = None, **settings: Any) -> Any:
    """A QIN, or another ``model``, with embeddings large enough to be seen."""
    columns = item_columns()
    features = {**ROW_FEATURES, **ITEM_FEATURES} if features is None else features
    wanted = {name: columns[name] for name in features if name in columns}
    model = build_small(features, wanted, tmp_path, **settings)
    for parameter in model.embedding_layer.parameters():
        nn.init.normal_(parameter)  # FuxiCTR's 1e-4 would hide a wrong embedding
    for table in model.embedding_layer.modules():
        if isinstance(table, nn.Embedding):
            table.weight.data[0] = 0
    return model


def test_equals_the_formulas_with_every_kind_of_feature(tmp_path: Path) -> None:
    model = build(tmp_path).double()
    batch = padded_batch()
    model.train()(batch)  # moves the running statistics
    model.eval()
    columns = {n: model.item_table(torch.arange(ITEMS))[n] for n in ITEM_FEATURES}
    expected = oracles.qin_logit(model, columns, batch)
    output = model(packed(batch))
    # FuxiCTR reads numbers and vectors as float32 whatever the model computes in.
    torch.testing.assert_close(output["logit"], expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(output["y_pred"], output["logit"].sigmoid())
    parameters = [p for p in model.parameters() if p.requires_grad]
    got = torch.autograd.grad(output["logit"].sum(), parameters)
    wanted = torch.autograd.grad(expected.sum(), parameters)
    for one, other in zip(got, wanted, strict=True):
        # Row 0 of a table is padding, which FuxiCTR excludes from the gradient.
        if one.shape[0] in (ITEMS, 7, 5, 4, 3) and one.dim() == 2:
            one, other = one[1:], other[1:]
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_padded_and_packed_batches_are_equal(tmp_path: Path) -> None:
    model = build(tmp_path).eval()
    batch = padded_batch()
    torch.testing.assert_close(model(batch)["logit"], model(packed(batch))["logit"])
    on_the_other_side = batch | {"item_seq": batch["item_seq"].flip(1)}
    torch.testing.assert_close(model(batch)["logit"], model(on_the_other_side)["logit"])


@pytest.mark.parametrize("names", [["item_id"], ["tags"], ["text"], ["price"], list(ITEM_FEATURES)])
def test_item_features_in_any_number_and_no_row_features(tmp_path: Path, names: list[str]) -> None:
    model = build(tmp_path, {name: ITEM_FEATURES[name] for name in names}, embedding_dim=3)
    output = model.eval()(packed(padded_batch()))["y_pred"]
    assert output.shape == (9, 1)
    assert torch.isfinite(output).all()


def test_row_features_of_every_kind(tmp_path: Path) -> None:
    features = {
        "item_id": ITEM_FEATURES["item_id"],
        "level": ROW_FEATURES["level"],
        "age": {"type": "numeric"},
        "likes": {**SEQUENCE, "vocab_size": 9, "max_len": 4},
        "profile": {"type": "embedding", "pretrain_dim": 5},
    }
    model = build(tmp_path, features).eval()
    batch = packed(padded_batch())
    batch |= {
        "age": torch.randn(9),
        "likes": torch.randint(0, 9, (9, 4)),
        "profile": torch.randn(9, 5),
    }
    logit = model(batch)["logit"]
    for name in ("level", "age", "likes", "profile"):
        changed = model(batch | {name: batch[name].roll(1, 0)})["logit"]
        assert not torch.allclose(changed, logit), name


def test_without_item_features_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no feature has source: item"):
        build_qin(ROW_FEATURES, {"item_id": torch.arange(ITEMS)}, tmp_path)


def test_a_small_catalogue_is_encoded_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same outputs and gradients as by distinct items."""
    model = build(tmp_path).eval()
    batch = packed(padded_batch())
    results = []
    for whole in (0.0, 100.0):
        monkeypatch.setitem(WHOLE_TABLE, False, whole)
        logit = model(batch)["logit"]
        results.append([logit, *torch.autograd.grad(logit.sum(), list(model.parameters()))])
    assert model._distinct(batch["item_id"])[0] is None
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_each_distinct_item_is_encoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WHOLE_TABLE, False, 0.0)
    model = build(tmp_path).eval()
    encoded: list[int] = []
    text = model.embedding_layer.embedding_layer.feature_encoders["text"]
    text.register_forward_hook(lambda module, inputs, output: encoded.append(len(output)))
    batch = packed(padded_batch(rows=50))
    model(batch)
    distinct = torch.cat([batch["item_id"], batch["item_seq"].long()]).unique()
    assert encoded == [len(distinct)]


def test_the_item_table_is_not_in_the_checkpoint(tmp_path: Path) -> None:
    model = build(tmp_path)
    assert not [name for name in model.state_dict() if "item_table" in name]
    assert {buffer.device for buffer in model.item_table.buffers()} == {model.device}
    with pytest.raises(ValueError, match="one length"):
        ItemTable({"a": torch.zeros(3), "b": torch.zeros(4)})


@pytest.mark.parametrize(("num_row", "expected"), [(4, 31_244_293), (3, 27_045_893)])
def test_parameters_of_the_paper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_row: int, expected: int
) -> None:
    experiment = load_experiment(ROOT / "config", "QIN_MicroLens_1M_x1", [f"num_row={num_row}"])
    monkeypatch.chdir(tmp_path)
    feature_map = build_feature_map(experiment.params)
    table = ItemTable({"item_id": torch.arange(1)})
    model = QIN(feature_map, item_table=table, **experiment.params)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sum(parameter.numel() for parameter in trainable) == expected


def prepare_training(model: QIN, steps: int) -> None:
    model.train()
    model._steps_per_epoch, model._max_gradient_norm = steps, 10.0
    model._batch_index, model._total_steps = 0, 1
    # FuxiCTR's labels are float32; some of these models compute in float64.
    dtype = next(model.parameters()).dtype
    model.get_labels = lambda batch: batch["label"].to(dtype).view(-1, 1)


def test_accumulated_steps_equal_one_large_batch(tmp_path: Path) -> None:
    """Groups of 2 batches over 5, the last group and the last batch incomplete."""
    settings: dict[str, Any] = {"batch_norm": False, "embedding_regularizer": 0.1}
    whole = build(tmp_path, **settings).double()
    parts = build(tmp_path, **settings, accumulation_steps=2).double()
    parts.load_state_dict(whole.state_dict())
    parts.item_table = whole.item_table
    batch = padded_batch(rows=18)
    slices = [slice(i, min(i + 4, 18)) for i in range(0, 18, 4)]
    prepare_training(whole, steps=3)
    prepare_training(parts, steps=len(slices))
    for index, rows in enumerate([slice(0, 8), slice(8, 16), slice(16, 18)]):
        whole._batch_index = index
        whole.train_step({name: value[rows] for name, value in batch.items()})
    for index, rows in enumerate(slices):
        parts._batch_index = index
        parts.train_step({name: value[rows] for name, value in batch.items()})
    for (name, one), other in zip(parts.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


def test_factor_sets_the_learning_rate_decay(tmp_path: Path) -> None:
    model = build(tmp_path, factor=0.25)
    assert model.lr_decay() == pytest.approx(0.25e-2)
    for _ in range(20):
        rate = model.lr_decay()
    assert rate == 1e-6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factor": 0.0}, "factor"),
        ({"accumulation_steps": 0}, "accumulation_steps must be at least 1, got 0"),
        ({"embedding_dim": 0}, "embedding_dim must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **settings)


def test_a_diverged_model_is_reported(tmp_path: Path) -> None:
    model = build(tmp_path)
    with pytest.raises(InputError, match=r"1 of 2 predictions are not finite.*learning_rate"):
        model.evaluate_metrics(np.array([0.0, 1.0]), np.array([0.5, np.nan]), ["AUC"])


def test_group_auc(tmp_path: Path) -> None:
    model = build(tmp_path)
    random = np.random.default_rng(0)
    y_true, groups = random.integers(0, 2, 60).astype(float), random.integers(0, 9, 60)
    y_pred = random.random(60)
    names = ["gAUC", "AUC", "NDCG(k=3)"]
    result = model.evaluate_metrics(y_true, y_pred, names, groups)
    assert list(result) == names
    assert result["gAUC"] == pytest.approx(oracles.group_auc(y_true, y_pred, groups))
    assert 0 < result["NDCG(k=3)"] < 1
    with pytest.raises(ValueError, match="gAUC need a group_id"):
        model.evaluate_metrics(y_true, y_pred, ["gAUC"])


def test_weights_survive_the_round_trip(tmp_path: Path) -> None:
    model, other = build(tmp_path), build(tmp_path)
    model.save_weights(tmp_path / "a.model")
    other.load_weights(tmp_path / "a.model")
    for one, two in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_an_interrupted_save_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(tmp_path)
    path = tmp_path / "a.model"
    model.save_weights(path)
    before = path.read_bytes()

    def disk_full(state: object, target: Path) -> None:
        Path(target).write_bytes(before[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="No space"):
        model.save_weights(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.model"]


def test_unusable_checkpoints_are_named(tmp_path: Path) -> None:
    model = build(tmp_path)
    with pytest.raises(InputError, match=r"missing\.model: no such checkpoint"):
        model.load_weights(tmp_path / "missing.model")
    (tmp_path / "cut.model").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match=r"cut\.model: not a readable checkpoint"):
        model.load_weights(tmp_path / "cut.model")
    wider = build(tmp_path, num_row=5)
    wider.save_weights(tmp_path / "wider.model")
    with pytest.raises(InputError) as error:
        model.load_weights(tmp_path / "wider.model")
    assert len(error.value.problems) == 4  # weight and bias of both layers, at once
    assert "the model expects" in error.value.problems[0]
