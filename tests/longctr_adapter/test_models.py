"""FuxiCTR's ten models on our batches: what they compute, and what they must not look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from model_zoo.longctr_adapter.source import installed_models
from tests.longctr_adapter.made import (
    MAX_LEN,
    SMALL,
    build,
    draw_rows,
    fuxictr_batch,
    fuxictrs_own,
    packed,
    padded,
    ready_to_train,
)

MODELS = sorted(SMALL)
LENGTHS = [0, 1, 2, 3, 5, 7]
# Whatever the batch, these always get max_len slots.
NEEDS_ALL_SLOTS = {"SIM", "ETA", "MIRRN"}
VARIANTS = [
    ("DIN", {"din_use_softmax": True}),
    ("DIN", {"attention_hidden_units": [6, 4], "attention_output_activation": "Sigmoid"}),
    ("DIN", {"attention_hidden_activations": "ReLU", "dnn_activations": "Dice"}),
    ("DIN", {"attention_dropout": 0.5}),
    ("DIEN", {"gru_type": "GRU", "enable_sum_pooling": True}),
    ("DIEN", {"gru_type": "AGRU", "attention_type": "din_attention"}),
    ("DIEN", {"attention_type": "dot_attention", "use_attention_softmax": False}),
    ("SIM", {"topk": MAX_LEN, "num_heads": 2, "alpha": 0.5, "beta": 2.0}),
    ("SDIM", {"use_qkvo": False, "l2_norm": True, "num_heads": 3}),
    ("TransAct", {"num_heads": 2, "transformer_layers": 2, "concat_max_pool": False}),
    ("DCNv2", {"model_structure": "stacked_parallel", "stacked_dnn_hidden_units": [4]}),
    ("DCNv2", {"use_low_rank_mixture": True, "low_rank": 2}),
    ("FinalMLP", {"use_fs": False}),
]


def scores(model: torch.nn.Module, batch: dict) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(batch)["y_pred"]


def test_all_ten_are_here() -> None:
    assert sorted(installed_models()) == MODELS


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("name", "settings"), [*((name, {}) for name in MODELS), *VARIANTS])
def test_the_same_as_fuxictrs_own_on_its_own_batch(
    name: str, settings: dict[str, Any], tmp_path: Path, training: bool
) -> None:
    """Outputs, gradients and batch statistics; FuxiCTR's batch is made row by row."""
    model = build(name, tmp_path, **settings).train(training)
    own = fuxictrs_own(model, name, tmp_path, **settings).train(training)
    rows = draw_rows(LENGTHS)
    slots = max(model.padding.slots, max(LENGTHS))
    batch = fuxictr_batch(rows, model.item_table, slots, side=model.padding.side)
    torch.manual_seed(1)  # MIRRN has a dropout that no setting turns off
    outputs = model(packed(rows))
    torch.manual_seed(1)
    expected = own(batch)
    assert outputs.keys() == expected.keys()
    assert outputs["y_pred"].std() > 1e-3
    for key, value in expected.items():
        torch.testing.assert_close(outputs[key], value, msg=key)
    y_true = model.get_labels(packed(rows))
    for one, output in ((model, outputs), (own, expected)):
        one.add_loss(output, y_true).backward()
    theirs = dict(own.named_parameters())
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[key].grad, atol=1e-6, rtol=1e-4, msg=key)
    statistics = dict(own.named_buffers())
    for key, value in model.named_buffers():
        if not key.startswith("item_table"):
            torch.testing.assert_close(value, statistics[key], msg=key)


@pytest.mark.parametrize("name", MODELS)
def test_padded_and_packed_input_give_the_same(name: str, tmp_path: Path) -> None:
    model = build(name, tmp_path)
    rows = draw_rows(LENGTHS)
    assert torch.equal(scores(model, packed(rows)), scores(model, padded(rows, MAX_LEN)))


@pytest.mark.parametrize("name", MODELS)
def test_the_content_of_padding_never_matters(name: str, tmp_path: Path) -> None:
    model = build(name, tmp_path)
    batch = packed(draw_rows(LENGTHS))
    expected = scores(model, batch)
    with torch.no_grad():
        for column in model.item_table.buffers():
            column[0] = 3
        for table in model.embedding_layer.embedding_layer.embedding_layers.values():
            if isinstance(table, torch.nn.Embedding):
                table.weight[0] = 5.0
    # Tags that are padding are pooled by FuxiCTR, and are no matter of the history.
    with torch.no_grad():
        model.embedding_layer.embedding_layer.embedding_layers["item_tags"].weight[0] = 0.0
    torch.testing.assert_close(scores(model, batch), expected)


@pytest.mark.parametrize("name", MODELS)
def test_rows_do_not_see_each_other(name: str, tmp_path: Path) -> None:
    """Alone, and beside a row with a longer history, so that there are more slots."""
    model = build(name, tmp_path)
    rows = draw_rows(LENGTHS)
    together = scores(model, packed([*rows, *draw_rows([MAX_LEN])]))
    for i, row in enumerate(rows):
        torch.testing.assert_close(scores(model, packed([row]))[0], together[i])


@pytest.mark.parametrize("name", MODELS)
def test_only_where_padding_counts_is_the_number_of_slots_held_fixed(
    name: str, tmp_path: Path
) -> None:
    """FuxiCTR's forward pass over more slots: the three exceptions, and the reason for them."""
    model = build(name, tmp_path, max_len=4 * MAX_LEN)
    own = fuxictrs_own(model, name, tmp_path, max_len=4 * MAX_LEN).eval()
    rows = draw_rows(LENGTHS * 8)
    narrow, wide = (
        own(fuxictr_batch(rows, model.item_table, slots, side=model.padding.side))["y_pred"]
        for slots in (max(LENGTHS), 4 * MAX_LEN)
    )
    assert torch.allclose(narrow, wide, atol=1e-6) == (name not in NEEDS_ALL_SLOTS)
    assert (model.padding.slots == 4 * MAX_LEN) == (name in NEEDS_ALL_SLOTS)


@pytest.mark.parametrize("lengths", [[0, 0], [0, 3], [2], [0]])
@pytest.mark.parametrize("name", MODELS)
def test_batches_almost_without_histories(name: str, tmp_path: Path, lengths: list[int]) -> None:
    """FuxiCTR's DIEN fails on them; each row has the score it has among others."""
    model = build(name, tmp_path)
    rows = draw_rows(lengths)
    expected = scores(model, packed([*rows, *draw_rows(LENGTHS)]))[: len(rows)]
    torch.testing.assert_close(scores(model, packed(rows)), expected)


@pytest.mark.parametrize("name", MODELS)
def test_bf16_is_close_and_its_probabilities_are_float32(name: str, tmp_path: Path) -> None:
    """A whole training step too, which leaves float32 weights."""
    full = build(name, tmp_path)
    half = build(name, tmp_path, precision="bf16")
    half.load_state_dict(full.state_dict())
    half.item_table = full.item_table
    batch = packed(draw_rows(LENGTHS))
    one, other = scores(full, batch), scores(half, batch)
    assert other.dtype == torch.float32
    assert not torch.equal(one, other)
    # A search may find other items.
    atol = 1.0 if name in NEEDS_ALL_SLOTS | {"SDIM", "TWIN"} else 0.05
    torch.testing.assert_close(one, other, atol=atol, rtol=0)
    ready_to_train(half)
    before = {key: value.clone() for key, value in half.state_dict().items()}
    half.train_step(batch)
    after = half.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}


def test_a_wrong_and_certain_row_still_has_a_gradient_in_bf16(tmp_path: Path) -> None:
    """σ(9) in bfloat16 is 1, whose logarithmic loss is flat."""
    model = build("DCNv2", tmp_path, precision="bf16")
    with torch.no_grad():
        model.fc.bias.fill_(9.0)
    batch = packed(draw_rows([2, 3]))
    batch["label"][:] = 0
    model.add_loss(model(batch), model.get_labels(batch)).backward()
    assert model.fc.bias.grad.item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("name", MODELS)
def test_lazy_updates_leave_other_rows_alone(name: str, tmp_path: Path) -> None:
    model = build(name, tmp_path, embedding_update="lazy")
    table = model.embedding_layer.embedding_layer.embedding_layers["item_id"].weight
    before = table.detach().clone()
    rows = draw_rows([2, 3])
    ready_to_train(model)
    model.train_step(packed(rows))
    changed = (table != before).any(dim=1).nonzero().flatten().tolist()
    used = {item for row in rows for item in (*row["history"], row["item_id"])}
    assert set(changed) <= used
    assert {row["item_id"] for row in rows} <= set(changed)


def test_labels_and_groups(tmp_path: Path) -> None:
    model = build("DIN", tmp_path)
    rows = draw_rows(LENGTHS)
    model.feature_map.group_id = "user_id"
    batch = packed(rows)
    assert model.get_labels(batch).tolist() == [[row["label"]] for row in rows]
    assert model.get_group_id(batch).tolist() == [row["user_id"] for row in rows]


def test_sims_auxiliary_loss_is_part_of_the_training(tmp_path: Path) -> None:
    model = build("SIM", tmp_path, alpha=3.0, beta=0.5)
    ready_to_train(model)
    batch = packed(draw_rows(LENGTHS))
    output, y_true = model(batch), model.get_labels(batch)
    loss = torch.nn.functional.binary_cross_entropy
    expected = 3 * loss(output["y_aux"], y_true) + 0.5 * loss(output["y_pred"], y_true)
    torch.testing.assert_close(model.train_step(batch).item(), expected.detach())
