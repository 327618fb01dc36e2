"""Items that arrive or change while a scorer is at work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model_zoo.core.data.item_table import ItemTable
from model_zoo.core.errors import InputError
from model_zoo.core.serving.scorer import Scorer
from model_zoo.core.serving.shared_lock import SharedLock
from tests.QIN.test_model import ITEM_FEATURES, ITEMS, ROW_FEATURES
from tests.serving.made import FEATURES, make_model, make_scorer, probability

USER = [3, 8, 5, 9]
CONTEXT = {"level": 1, "hour": 2}
NEW = {
    "tags": [[1, 6, 2]],
    "topics": [[4, 0]],
    "text": [[1.0, -1.0, 0.5, 2.0, 0.0, -2.0]],
    "image": [[0.5, 0.0, -1.5]],
    "price": [1.5],
}


@pytest.fixture(params=["QIN", "QIN+", "QIN+ rescaled"])
def model(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    name, _, rescaled = request.param.partition(" ")
    features = {name: FEATURES[name] for name in (*ROW_FEATURES, *ITEM_FEATURES)}
    model = make_model(tmp_path, features, model=name, rescaled=["text", "image"] * bool(rescaled))
    ids = model.embedding_layer.embedding_layer.embedding_layers["item_id"]
    ids.weight.data[0] = 0  # as in training: a missing id is nothing
    return model


@pytest.fixture(params=[True, False], ids=["first", "no first"])
def scorer(model: Any, request: pytest.FixtureRequest) -> Scorer:
    return make_scorer(model, tabulate_first_layer=request.param)


def all_scores(scorer: Scorer) -> Tensor:
    """Of every item for a user who has clicked every item."""
    items = range(1, scorer.num_items + 1)
    return scorer.score(items, items, CONTEXT)


def columns_of(model: Any) -> dict[str, Tensor]:
    return {name: column.clone() for name, column in model.item_table.columns(None).items()}


def expected_scores(model: Any, columns: dict[str, Tensor]) -> Tensor:
    """Of every item for a user who has clicked every item, by a model of other items."""
    before = model.item_table
    model.item_table = ItemTable(columns, [n for n in columns if before.factor(n) is not None])
    model.item_table.load_state_dict(before.state_dict())  # a new item changes no factor
    rows = model.item_table.num_items - 1
    items = torch.arange(1, rows + 1)
    batch = {"item_id": items, "item_seq": items.expand(rows, -1)}
    return probability(model, batch | {n: torch.full((rows,), v) for n, v in CONTEXT.items()})


def test_new_items_are_scored_as_the_model_would(model: Any, scorer: Scorer) -> None:
    """Beyond the spare room, with the features of an item that was there, or none at all."""
    before, old = all_scores(scorer), columns_of(model)
    user = scorer.score(USER, [1, 2], CONTEXT)
    twin = {name: column[[5] * 3] for name, column in old.items() if name != "item_id"}
    scorer.add_items([12], NEW)
    scorer.add_items(np.array([13, 14, 15]), twin)
    scorer.add_items(range(16, 40), {"price": torch.ones(24)})
    scorer.add_items([], {})
    assert scorer.num_items == 39
    assert torch.equal(scorer.score(USER, [1, 2], CONTEXT), user)
    assert torch.equal(scorer.score(range(1, 12), range(1, 12), CONTEXT), before)
    new = {
        name: torch.cat(
            [
                column,
                torch.tensor(NEW[name]) if name in NEW else column[:1],
                twin.get(name, column[[0] * 3]),
                torch.full_like(column[[0] * 24], 1 if name == "price" else 0),
            ]
        )
        for name, column in old.items()
    }
    torch.testing.assert_close(
        all_scores(scorer).double(), expected_scores(model, new), atol=1e-5, rtol=0
    )


def test_a_new_item_may_have_an_id_of_the_vocabulary(scorer: Scorer, model: Any) -> None:
    columns = columns_of(model)
    scorer.add_items([12], {name: column[5:6] for name, column in columns.items()})
    for table in scorer._folded.item_tables.values():
        assert torch.equal(table[12], table[5])
    one, other = (scorer.score([item, *USER], [item], CONTEXT) for item in (5, 12))
    assert torch.equal(one, other)


def test_updated_items_are_scored_as_the_model_would(model: Any, scorer: Scorer) -> None:
    """One feature of several items, all features of one; all else stays, to the last bit."""
    vectors = scorer._folded.vectors.clone()
    columns = columns_of(model)
    scorer.update_items([3, 7], {"price": [9.0, -9.0]})
    scorer.update_items(torch.tensor([4]), NEW)
    columns["price"][[3, 7]] = torch.tensor([9.0, -9.0])
    for name, value in NEW.items():
        columns[name][4] = torch.tensor(value[0])
    changed = (scorer._folded.vectors != vectors).any(dim=1)
    assert changed.nonzero().squeeze(1).tolist() == [3, 4, 7]
    price = scorer._folded.dim - 4
    assert torch.equal(scorer._folded.vectors[[3, 7], :price], vectors[[3, 7], :price])
    torch.testing.assert_close(
        all_scores(scorer).double(), expected_scores(model, columns), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("names", [["tags"], ["text", "price"], list(ITEM_FEATURES), []])
def test_updating_back_restores_the_scores(
    model: Any, dtype: torch.dtype, names: list[str]
) -> None:
    scorer, columns = make_scorer(model, dtype=dtype), columns_of(model)
    before = all_scores(scorer)
    scorer.update_items([3], {name: columns[name][4:5] for name in names})
    assert torch.equal(all_scores(scorer), before) == (not names)
    scorer.update_items([3], {name: columns[name][3:4] for name in names})
    assert torch.equal(all_scores(scorer), before)


def test_tables_made_in_inference_mode_can_be_updated_outside(model: Any) -> None:
    with torch.inference_mode():
        scorer = make_scorer(model)
        scorer.add_items([12, 13], {})
    scorer.update_items([3, 12], {"price": [9.0, 1.0]})
    scorer.add_items([14], NEW)
    assert all_scores(scorer).isfinite().all()


ADD, UPDATE = Scorer.add_items, Scorer.update_items


@pytest.mark.parametrize(
    ("method", "ids", "features", "message"),
    [
        (ADD, [13], {}, r"add_items: ids \[13\], expected the next ones: \[12\]"),
        (ADD, [3], {}, r"add_items: ids \[3\], expected the next ones: \[12\]"),
        (ADD, [13, 12], {}, r"expected the next ones: \[12, 13\]"),
        (ADD, [12, 12], {}, r"expected the next ones: \[12, 13\]"),
        (ADD, 12, {}, "add_items: expected a list of ids, found 12"),
        (ADD, [12], {"text": [[1.0] * 5]}, r"'text': expected shape \(1, 6\), found \(1, 5\)"),
        (ADD, [12], {"image": [[1.0, 2.0, float("nan")]]}, "'image': position 0: found a number"),
        (ADD, [12, 13], {"price": [1.0, float("inf")]}, "'price': position 1: found a number"),
        (ADD, [12, 13], {"price": [1.0]}, "item feature 'price': 1 values for 2 rows"),
        (ADD, [12], {"tags": [[1, 7]]}, r"'tags': position 0, 1: found 7, expected 0\.\.6"),
        (ADD, [12], {"item_id": [12]}, r"'item_id': position 0: found 12, expected 0\.\.11"),
        (ADD, [12], {"prize": [1.0]}, "item feature: 'prize' is no such feature"),
        (ADD, [12], {"level": [1]}, "item feature: 'level' is no such feature"),
        (UPDATE, [12], NEW, r"update_items: position 0: found 12, expected 1\.\.11"),
        (UPDATE, [0], NEW, r"update_items: position 0: found 0, expected 1\.\.11"),
        (UPDATE, [3.0], NEW, r"update_items: expected integers"),
        (UPDATE, [3, 4, 3], {}, "update_items: item 3 is given twice"),
        (UPDATE, 3, NEW, "update_items: expected a list of ids, found 3"),
        (UPDATE, [3], NEW | {"text": [[1.0] * 7]}, r"'text': expected shape \(1, 6\), found"),
        (UPDATE, [3], NEW | {"price": [float("nan")]}, "'price': position 0: found a number"),
        (UPDATE, [3], NEW | {"price": None}, "'price': expected numbers"),
        (UPDATE, [3, 4], NEW, "values for 2 rows"),
        (UPDATE, [3], {"prize": [1.0]}, "item feature: 'prize' is no such feature"),
    ],
)
def test_a_refused_change_changes_nothing(
    model: Any, method: Callable[..., None], ids: Any, features: dict[str, Any], message: str
) -> None:
    scorer = make_scorer(model)
    before = all_scores(scorer)
    tables = {name: table.clone() for name, table in scorer._folded.item_tables.items()}
    with pytest.raises(InputError, match=message):
        method(scorer, ids, features)
    assert scorer.num_items == ITEMS - 1
    assert torch.equal(all_scores(scorer), before)
    for name, table in scorer._folded.item_tables.items():
        assert torch.equal(table, tables[name])
    scorer.add_items([12], NEW)  # nothing is locked
    assert scorer.score(USER, [12], CONTEXT).isfinite().all()


def test_no_score_mixes_two_states_of_an_item(tmp_path: Path) -> None:
    """Two threads score while a third moves an item back and forth."""
    features = {"item_id": FEATURES["item_id"], "text": FEATURES["text"]}
    model = make_model(tmp_path, features, embedding_dim=128)
    scorer = make_scorer(model)
    states = [{"text": torch.randn(1, 6)} for _ in range(2)]
    methods = [
        lambda: scorer.score([3, 5], [3, 4], {}).tolist(),
        lambda: scorer.score_batch([[3, 5]] * 2, [3, 4], {}).tolist(),
    ]
    allowed: list[list[list[float]]] = [[], []]
    for state in states:
        scorer.update_items([3], state)
        for method, values in zip(methods, allowed, strict=True):
            values.append(method())
    assert all(one[0] != other[0] and one[1] != other[1] for one, other in allowed)
    seen: list[list[list[float]]] = [[], []]
    done = threading.Event()

    def look(i: int) -> None:
        while not done.is_set():
            seen[i].append(methods[i]())

    threads = [threading.Thread(target=look, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    updates = 0
    while updates < 200 or min(map(len, seen)) < 200:
        assert all(thread.is_alive() for thread in threads)
        scorer.update_items([3], states[updates % 2])
        updates += 1
    done.set()
    for thread in threads:
        thread.join()
    for scores, values in zip(seen, allowed, strict=True):
        assert all(score in values for score in scores)


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_writer_has_the_lock_alone() -> None:
    lock = SharedLock()
    inside: list[str] = []
    wrong: list[str] = []

    def enter(kind: str) -> None:
        for _ in range(100):
            with lock.shared() if kind == "reader" else lock.exclusive():
                inside.append(kind)
                time.sleep(0)
                if "writer" in inside and len(inside) > 1:
                    wrong.append(str(inside))
                inside.remove(kind)

    threads = [in_thread(lambda k=kind: enter(k)) for kind in ("reader", "writer") * 3]
    for thread in threads:
        thread.join(60)
    assert not wrong and not inside and not any(thread.is_alive() for thread in threads)


def test_readers_share_the_lock_and_let_a_waiting_writer_go_first() -> None:
    lock = SharedLock()
    order: list[str] = []
    both = threading.Barrier(2)

    def read(name: str) -> None:
        with lock.shared():
            order.append(name)

    def write() -> None:
        with lock.exclusive():
            order.append("writer")

    def read_together() -> None:
        with lock.shared():
            both.wait(60)  # fails unless two are in at the same time

    pair = [in_thread(read_together) for _ in range(2)]
    for thread in pair:
        thread.join(60)
    assert not both.broken
    with lock.shared():
        writer = in_thread(write)
        while lock._writers == 0:
            time.sleep(0.001)
        readers = [in_thread(lambda: read("reader")) for _ in range(3)]
        time.sleep(0.05)
        assert order == []  # the writer waits for the reader, and they for the writer
    for thread in (writer, *readers):
        thread.join(60)
    assert order == ["writer", *["reader"] * 3]


def test_a_lock_is_free_again_after_errors() -> None:
    lock = SharedLock()
    for enter in (lock.shared, lock.exclusive):
        with pytest.raises(KeyError), enter():
            raise KeyError
    with lock.shared(), pytest.MonkeyPatch.context() as patch:

        def interrupt(condition: Callable[[], bool]) -> None:
            raise KeyboardInterrupt

        patch.setattr(lock._changed, "wait_for", interrupt)
        with pytest.raises(KeyboardInterrupt), lock.exclusive():
            pass
    thread = in_thread(lambda: [enter().__enter__() for enter in (lock.shared, lock.shared)])
    thread.join(60)
    assert not thread.is_alive()


def test_rows_are_scored_while_the_model_is_saved(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even while an update waits for the end of the saving."""
    scorer = make_scorer(model)
    scores: list[Tensor] = []

    def slow(*_: object) -> None:
        update = in_thread(lambda: scorer.update_items([3], {"price": [9.0]}))
        update.join(0.05)
        assert update.is_alive()
        score = in_thread(lambda: scores.append(scorer.score(USER, [3], CONTEXT)))
        score.join(60)

    before = scorer.score(USER, [3], CONTEXT)
    monkeypatch.setattr("model_zoo.core.serving.scorer.save_folded", slow)
    scorer.save(tmp_path / "a.folded")
    assert torch.equal(scores[0], before)
