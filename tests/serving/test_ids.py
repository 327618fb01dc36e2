"""Raw ids: what the encoding of a data set makes of them, a scorer makes of them too."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from model_zoo.core.commands.config import Experiment, load_experiment
from model_zoo.core.commands.deployment import fold_experiment
from model_zoo.core.commands.experiment import (
    build_feature_map,
    build_model,
    prepare_dataset,
    run_experiment,
)
from model_zoo.core.data.encoded_spec import ITEM_ROW
from model_zoo.core.data.item_table import ItemTable
from model_zoo.core.errors import InputError
from model_zoo.core.serving.file import FoldedFile, load_folded, save_folded
from model_zoo.core.serving.ids import OUT_OF_VOCABULARY, Ids
from model_zoo.core.serving.scorer import Scorer
from model_zoo.QIN.fold import fold
from model_zoo.QIN.folded import FoldedFeature
from model_zoo.QIN.model import QIN
from tests.data.test_encode import ITEMS, ROWS, raw  # noqa: F401
from tests.serving.made import FEATURES, make_model

MAX_LEN = 7
LONG = ["late", "unheard", "food", "food", "late"]  # the first three count
CONTEXT = {"hour": 9, "city": "Ulm"}
LEVEL = {"level": "low"}
SETTINGS = [f"max_len={MAX_LEN}"]


@pytest.fixture
def trained(raw: object) -> tuple[Experiment, QIN, FoldedFile]:  # noqa: F811
    """An experiment whose items have more tags than count, and gaps; folded."""
    tags = [["food"], ["", "late", "food"], LONG, ["late", None, "unheard", "food"], None]
    vectors = [[0.5 * i, 1.0 - i] for i in range(len(ITEMS))]
    items = pl.DataFrame({"item": ITEMS, "tags": tags, "vector": vectors})
    items.write_parquet("raw/item_info.parquet")
    clicked = [["new 1"], ["bread"], [*ITEMS, *ITEMS], []]
    pl.DataFrame(ROWS | {"clicked": clicked}).write_parquet("raw/valid.parquet")
    run_experiment("config", "QIN_test", overrides=SETTINGS)
    experiment, _ = prepare_dataset(load_experiment("config", "QIN_test", SETTINGS))
    model = build_model(experiment, build_feature_map(experiment.params), -1)
    model.load_weights(model.checkpoint)
    for module in model.embedding_layer.modules():
        if isinstance(module, (nn.Embedding, nn.Linear)):
            nn.init.normal_(module.weight)  # one epoch leaves them near 0, where no error shows
        if isinstance(module, nn.Embedding):
            module.weight.data[0] = 0
    model.save_weights(model.checkpoint)
    encoded, file = fold_experiment("config", "QIN_test", SETTINGS)
    assert encoded.dataset == experiment.dataset
    return experiment, model.double().eval(), file


@torch.no_grad()
def expected(model: QIN, rows: pl.DataFrame) -> Tensor:
    """What the model says of encoded rows."""
    batch = {name: torch.tensor(rows[name].to_list()) for name in (ITEM_ROW, "hour", "city")}
    histories = [[item for item in row if item][-MAX_LEN:] for row in rows["clicked"].to_list()]
    batch["clicked"] = torch.tensor([[0] * (MAX_LEN - len(row)) + row for row in histories])
    probability: Tensor = model(batch)["y_pred"].squeeze(1)
    return probability


def assert_close(scores: Tensor, probability: Tensor) -> None:
    torch.testing.assert_close(scores.double(), probability, atol=1e-5, rtol=0)
    assert len(probability) == 1 or probability.std() > 1e-3


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_raw_rows_score_as_the_model_scores_encoded_ones(
    trained: tuple[Experiment, QIN, FoldedFile], split: str
) -> None:
    """With unknown cities, missing ones, and items that training has not seen."""
    experiment, model, file = trained
    rows = pl.read_parquet(f"raw/{split}.parquet")
    encoded = pl.read_parquet(getattr(experiment.dataset, f"{split}_data"))
    scorer = Scorer(file)
    probability = expected(model, encoded)
    columns = {name: rows[name] for name in ("hour", "city")}
    for context in (columns, {name: column.to_list() for name, column in columns.items()}):
        assert_close(scorer.score_batch(rows["clicked"], rows["item"], context), probability)
    for i, row in enumerate(rows.iter_rows(named=True)):
        scores = scorer.score(row["clicked"], [row["item"]], {n: row[n] for n in ("hour", "city")})
        assert_close(scores, probability[i : i + 1])


def test_a_folded_file_knows_what_scoring_needs(
    trained: tuple[Experiment, QIN, FoldedFile], tmp_path: Path
) -> None:
    """The ids of items and features but not of users, after a round trip too."""
    _, model, file = trained
    save_folded(tmp_path / "a.folded", file)
    loaded = load_folded(tmp_path / "a.folded")
    assert loaded.ids == file.ids
    assert set(file.ids.vocabularies) == {"hour", "city", "item", "tags"}
    assert file.ids.rows == {name: row for row, name in enumerate(ITEMS, start=1)}
    assert (file.ids.item_col, file.ids.unknown, file.ids.max_lens) == ("item", 6, {"tags": 3})
    assert file.max_len == MAX_LEN
    assert file.checkpoint == hashlib.sha256(Path(model.checkpoint).read_bytes()).hexdigest()
    assert Scorer(file).num_items == len(ITEMS)


def test_an_unknown_item_is_out_of_vocabulary(
    trained: tuple[Experiment, QIN, FoldedFile],
) -> None:
    """As a candidate and in the history: the id's embedding, no tags and no vector."""
    experiment, model, file = trained
    oov = experiment.dataset.column("item").vocab_size - 1
    columns = {n: torch.cat([c, c[:1]]) for n, c in model.item_table(None).items()}
    columns["item"][6] = oov
    model.item_table = ItemTable(columns)
    scorer = Scorer(file)
    hour, city = (file.ids.vocabularies[name][CONTEXT[name]] for name in ("hour", "city"))
    rows = pl.DataFrame({ITEM_ROW: [6, 1, 5], "clicked": [[2, 6]] * 3})
    rows = rows.with_columns(hour=pl.lit(hour), city=pl.lit(city))
    history = [ITEMS[1], "nobody's"]
    assert_close(
        scorer.score(history, ["nobody's", "bread", "new 2"], CONTEXT), expected(model, rows)
    )
    with_city = scorer.score(history, ["bread"], CONTEXT | {"city": "Oz"})
    oov = experiment.dataset.column("city").vocab_size - 1
    assert_close(with_city, expected(model, rows[1:2].with_columns(city=pl.lit(oov))))
    scorer.add_items(["nobody's"], {})
    assert torch.equal(
        scorer.score(history, ["nobody's"], CONTEXT), scorer.score(history, ["none"], CONTEXT)
    )


def test_a_new_item_is_encoded_like_the_others(
    trained: tuple[Experiment, QIN, FoldedFile], tmp_path: Path
) -> None:
    """With more tags than count; ids of numpy's types are kept as Python's."""
    scorer = Scorer(trained[2])
    tags = [LONG, ["late", None, "unheard", "food"], ["", "late", "food"], None]
    vectors = [[1.0, -1.0], [1.5, -2.0], [0.5, 0.0], [2.0, -3.0]]
    vocabulary = ["a/b^c", "new 1", "früh stück", "new 2"]
    names = ["w", "x", "y", "z"]
    scorer.add_items(np.array(names), {"tags": tags, "vector": vectors, "item": vocabulary})
    assert torch.equal(
        scorer.score(["bread"], names, CONTEXT), scorer.score(["bread"], vocabulary, CONTEXT)
    )
    scorer.update_items(np.array(["x"]), {"tags": [["food", "food", "late", "unheard"]]})
    scorer.update_items(["y"], {"tags": [["food", "food", "late"]], "vector": [[1.5, -2.0]]})
    scorer.update_items(["y"], {"item": ["never seen"]})
    x, y = (scorer.score([*ITEMS, item], [item], CONTEXT) for item in "xy")
    assert torch.equal(x, y)
    scorer.save(tmp_path / "a.folded")
    loaded = Scorer.load(tmp_path / "a.folded")
    assert torch.equal(loaded.score(names, names, CONTEXT), scorer.score(names, names, CONTEXT))
    assert loaded.num_items == scorer.num_items == len(ITEMS) + 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.add_items(["bread"], {}), "add_items: item 'bread' is there already"),
        (lambda s: s.add_items(["x", "x"], {}), "add_items: item 'x' is there already"),
        (lambda s: s.add_items("bread", {}), "add_items: expected a list of ids, found 'bread'"),
        (lambda s: s.update_items(["x"], {}), "update_items: item 'x' is not there"),
        (lambda s: s.update_items("x", {}), "update_items: expected a list of ids, found 'x'"),
        (lambda s: s.update_items(["bread"] * 2, {}), "update_items: item 'bread' is given twice"),
        (lambda s: s.score("bread", ["bread"], LEVEL), "history: expected a list of ids, found"),
        (lambda s: s.score(None, ["bread"], LEVEL), "history: expected a list of ids, found"),
        (lambda s: s.score([], "bread", LEVEL), "candidates: expected a list of ids, found"),
        (lambda s: s.score([["bread"]], ["bread"], LEVEL), "history: expected one list of item"),
        (lambda s: s.score_batch(["bread"], ["bread"], LEVEL), "history of row 0: expected a l"),
        (lambda s: s.update_items(["bread"], {"tags": "food"}), "'tags': expected a list of ids"),
    ],
)
def test_bad_raw_input_is_named(
    tmp_path: Path, change: Callable[[Scorer], Any], message: str
) -> None:
    features = {name: FEATURES[name] for name in ("level", "item_id", "tags")}
    rows = {"bread": 1, "butter": 2, "jam": 3}
    ids = Ids("item_id", rows=rows, unknown=11, vocabularies={"level": {OUT_OF_VOCABULARY: 3}})
    scorer = Scorer(FoldedFile(fold(make_model(tmp_path, features)), ids, 5))
    before = scorer.score(list(rows), list(rows), LEVEL)
    with pytest.raises(InputError, match=message):
        change(scorer)
    assert ids.rows == rows
    assert torch.equal(scorer.score(list(rows), list(rows), LEVEL), before)


def test_without_a_rule_an_unknown_item_is_named() -> None:
    ids = Ids("item", rows={"a": 1, "b": 2})
    assert ids.items(["a", None, "b", ""], 3, "history", padding=True).tolist() == [1, 0, 2, 0]
    for padding in (True, False):
        with pytest.raises(InputError, match="history: position 1: item 'x' is unknown"):
            ids.items(["a", "x"], 3, "history", padding=padding)
    with pytest.raises(InputError, match="candidates: position 0: item None is unknown"):
        ids.items([None], 3, "candidates")


@pytest.mark.parametrize("make", [list, np.array, torch.tensor, pl.Series, tuple])
def test_raw_ids_may_be_numbers(make: Callable[[list[int]], Any]) -> None:
    ids = Ids("item", rows={1000: 1, 7: 2}, unknown=3, vocabularies={"hour": HOURS})
    assert ids.items(make([7, 1000, 5]), 4, "history", padding=True).tolist() == [2, 1, 3]
    hour = FoldedFeature("hour", "categorical", torch.zeros(4, 2))
    assert ids.values(hour, make([9, 7, 8]), "hour").tolist() == [1, 2, 3]


HOURS = {9: 1, 7: 2, "__PAD__": 0, OUT_OF_VOCABULARY: 3}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, [2]),
        (np.int32(7), [2]),
        (torch.tensor(7), [2]),
        (np.array(7), [2]),
        (8, [3]),
        (None, [0]),
        ([None, 9], [0, 1]),
    ],
)
def test_one_token_in_any_form(value: Any, expected: list[int]) -> None:
    hour = FoldedFeature("hour", "categorical", torch.zeros(4, 2))
    ids = Ids("item", vocabularies={"hour": HOURS})
    assert ids.values(hour, value, "hour").tolist() == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["a", "b", "a"], [[1, 2]]),
        ([["b"], ["a", "b", "a"], []], [[2, 0], [1, 2], [0, 0]]),
        ([["b"], None], [[2], [0]]),
        ([None, None], [[0], [0]]),
        (None, [[0]]),
        ([], [[0]]),
        ([[5, "x"]], [[3, 4]]),
        ([[None, "b", ""]], [[2, 0]]),
        (np.array([["a", "b", "b"]]), [[1, 2]]),
        ([np.array(["a", "b"]), np.array(["b"])], [[1, 2], [2, 0]]),
    ],
)
def test_lists_of_tokens_in_any_form(value: Any, expected: list[list[int]]) -> None:
    """At most two tokens count; numbers in a list are text in its vocabulary."""
    tags = FoldedFeature("tags", "sequence", torch.zeros(5, 2))
    tokens = {"a": 1, "b": 2, "5": 3, OUT_OF_VOCABULARY: 4}
    ids = Ids("item", vocabularies={"tags": tokens}, max_lens={"tags": 2})
    assert ids.values(tags, value, "tags").tolist() == expected
