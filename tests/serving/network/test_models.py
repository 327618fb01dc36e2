"""Items and models change, last, and reach the other processes; a wrong change changes nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model_zoo.core.errors import InputError
from model_zoo.core.serving import file as file_module
from model_zoo.core.serving.ids import Ids
from model_zoo.core.serving.network.models import Models
from model_zoo.core.serving.scorer import Scorer
from tests.QIN.test_model import ITEMS
from tests.serving.network.conftest import CONTEXT, write_folded

NEW = {"price": [1.5], "text": [[1.0, -1.0, 0.5, 2.0, 0.0, -2.0]], "tags": [[1, 6, 2]]}
EVERY = list(range(1, ITEMS))


def scores(models: Models | Scorer, candidates: list[Any] = EVERY) -> Tensor:
    scorer = models.served.scorer if isinstance(models, Models) else models
    answer: Tensor = scorer.score([3, 8], candidates, CONTEXT)
    return answer


def journal_of(path: Path) -> Path:
    (journal,) = path.with_name(f"{path.name}.service").glob("*.journal")
    return journal


def test_changes_are_those_of_the_scorer_and_survive_a_restart(folded: Path) -> None:
    models, scorer = Models(folded, writable=True), Scorer.load(folded)
    assert models.change_items([12, 3], {"price": [1.0, 9.0]})[0] == 1
    assert models.change_items([3], NEW)[0] == 0
    assert models.change_items([13, 14], {})[0] == 2
    scorer.add_items([12], {"price": [1.0]})
    scorer.update_items([3], {"price": [9.0]})
    scorer.update_items([3], NEW)
    scorer.add_items([13, 14], {})
    expected = scores(scorer, [*EVERY, 12, 13, 14])
    assert torch.equal(scores(models, [*EVERY, 12, 13, 14]), expected)
    for writable in (True, False):
        again = Models(folded, writable=writable)
        assert torch.equal(scores(again, [*EVERY, 12, 13, 14]), expected)
        assert again.served.journal.records == 3


def test_raw_ids_are_replayed_as_they_were_understood(tmp_path: Path) -> None:
    ids = Ids("item", rows={f"i{row}": row for row in EVERY})
    path = write_folded(tmp_path / "raw.folded", ids=ids)
    models = Models(path, writable=True)
    assert models.change_items(["new", "i3"], {"price": [1.0, 9.0]})[0] == 1
    assert models.change_items(["new"], {"price": [2.0]})[0] == 0
    again = Models(path, writable=True)
    for one in (models, again):
        one.served.scorer.score(["new"], ["i3"], CONTEXT)
    asked = ["new"], ["i3", "new"], CONTEXT
    assert torch.equal(again.served.scorer.score(*asked), models.served.scorer.score(*asked))


@pytest.mark.parametrize(
    ("ids", "features", "message"),
    [
        ([14], {}, r"items: ids \[14\], expected the next ones: \[12\]"),
        ([3, 14], {"price": [1.0, 2.0]}, r"items: ids \[14\], expected the next ones: \[12\]"),
        ([3, 3], {}, "items: item 3 is given twice"),
        ([12, 12], {}, "items: item 12 is given twice"),
        ([3, 12], {"price": [1.0]}, "item feature 'price': 1 values for 2 rows"),
        ([3, 12], {"price": [1.0, float("nan")]}, "'price': position 1: found a number"),
        ([3], {"prize": [1.0]}, "item feature: 'prize' is no such feature"),
        ([0], {}, r"items: ids \[0\], expected the next ones: \[12\]"),
        ([3.5], {}, "items: expected integers"),
        (["a"], {}, "items: expected integers"),
        ([None], {}, "items: expected integers"),
        ([[3]], {}, r"items: expected 1 dimension\(s\)"),
        ([True], {}, "items: expected integers"),
        ([2**70], {}, "items: expected integers"),
    ],
)
def test_a_wrong_change_changes_nothing(
    folded: Path, ids: list[Any], features: dict[str, Any], message: str
) -> None:
    models = Models(folded, writable=True)
    before = scores(models)
    with pytest.raises(InputError, match=message):
        models.change_items(ids, features)
    assert torch.equal(scores(models), before)
    assert not models.served.journal.path.exists()
    assert Models(folded, writable=True).served.scorer.num_items == ITEMS - 1


def test_a_change_that_cannot_be_written_is_not_made(
    folded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Models(folded, writable=True)
    before = scores(models)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("model_zoo.core.serving.network.journal.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        models.change_items([3], NEW)
    monkeypatch.undo()
    assert torch.equal(scores(models), before)
    models.change_items([3], NEW)
    assert torch.equal(scores(Models(folded, writable=True)), scores(models))


def test_a_cut_last_record_is_dropped_and_said_once(
    folded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = Models(folded, writable=True)
    models.change_items([12], NEW)
    expected = scores(models)
    models.change_items([3], NEW)
    journal = journal_of(folded)
    journal.write_bytes(journal.read_bytes()[:-9])
    assert torch.equal(scores(Models(folded, writable=False)), expected)
    for _ in range(2):
        assert torch.equal(scores(Models(folded, writable=True)), expected)
    assert len([r for r in caplog.records if "bytes at its end" in r.getMessage()]) == 1


def test_a_damaged_journal_is_refused(folded: Path) -> None:
    models = Models(folded, writable=True)
    models.change_items([12], NEW)
    models.change_items([3], NEW)
    journal = journal_of(folded)
    content = bytearray(journal.read_bytes())
    content[len(content) // 2] ^= 4
    journal.write_bytes(content)
    for writable in (True, False):
        with pytest.raises(InputError, match=r"record 1 at byte .* truncate -s"):
            Models(folded, writable=writable)


# --- other processes


def test_each_process_follows_the_others(folded: Path) -> None:
    one, other = (Models(folded, writable=True) for _ in range(2))
    reader = Models(folded, writable=False)
    one.change_items([12], NEW)
    other.change_items([13, 3], {"price": [1.0, 2.0]})  # 13 is the next one here too
    for models in (one, reader):
        models.follow()
        assert torch.equal(scores(models, [*EVERY, 12, 13]), scores(other, [*EVERY, 12, 13]))
    write_folded(folded.with_name("b.folded"), seed=1)
    one.change_items([3], NEW)
    one.reload("b.folded")
    other.change_items([12], {"price": [5.0]})  # of the new model
    for models in (one, reader):
        models.follow()
        assert models.served.digest == other.served.digest
        assert torch.equal(scores(models, [*EVERY, 12]), scores(other, [*EVERY, 12]))


# --- reloading


def replace(path: Path, seed: int) -> None:
    fresh = write_folded(path.with_name("fresh"), seed=seed)
    os.replace(fresh, path)


def test_another_model_is_served_and_still_is_after_a_restart(folded: Path) -> None:
    other = write_folded(folded.with_name("b.folded"), seed=1)
    models = Models(folded, writable=True)
    before = models.served
    models.change_items([12], NEW)
    assert models.reload("b.folded").path == other
    assert torch.equal(scores(models), scores(Scorer.load(other)))
    models.change_items([12], {"price": [7.0]})
    expected = scores(models, [*EVERY, 12])
    again = Models(folded, writable=True)
    assert again.served.path == other
    assert torch.equal(scores(again, [*EVERY, 12]), expected)
    # Back again: the changes of the first file are still there.
    back = again.reload(folded.name)
    assert back.digest == before.digest and back.journal.records == 1
    assert torch.equal(scores(again, [12]), before.scorer.score([3, 8], [12], CONTEXT))


def test_the_same_file_is_read_again(folded: Path) -> None:
    models, other = (Models(folded, writable=True) for _ in range(2))
    served = models.served
    assert models.reload() is served  # it has not changed
    models.change_items([3], NEW)
    replace(folded, seed=1)
    assert models.reload().digest != served.digest
    expected = scores(Scorer.load(folded))
    other.follow()
    for one in (models, other, Models(folded, writable=True)):
        assert torch.equal(scores(one), expected)


def test_a_file_that_was_replaced_meanwhile_is_served_after_a_restart(folded: Path) -> None:
    write_folded(folded.with_name("b.folded"), seed=1)
    running = Models(folded, writable=True)
    running.reload("b.folded")
    replace(folded, seed=2)
    again = Models(folded, writable=True)
    assert again.served.path == folded
    running.follow()
    assert running.served.digest == again.served.digest


def test_without_a_token_a_file_is_read_again_all_the_same(folded: Path) -> None:
    models = Models(folded, writable=False)
    replace(folded, seed=1)
    models.reload()
    models.follow()
    assert torch.equal(scores(models), scores(Scorer.load(folded)))
    assert not folded.with_name(f"{folded.name}.service").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../b.folded", "expected the name of a file in the folder"),
        ("/etc/passwd", "expected the name of a file in the folder"),
        ("..", "expected the name of a file in the folder"),
        ("", "expected the name of a file in the folder"),
        ("a\0b", "expected the name of a file in the folder"),
        ("sub/b.folded", "expected the name of a file in the folder"),
        ("none.folded", "none.folded: cannot be read: No such file"),
        ("sub", "sub: cannot be read: Is a directory"),
        ("text.folded", "not a readable folded model"),
        ("cut.folded", "not a readable folded model"),
        ("newer.folded", "version 99, expected at most"),
        ("other.folded", "its context is .* start a service with it instead"),
    ],
)
def test_a_wrong_file_is_refused_and_the_old_one_stays(
    folded: Path, name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folded.parent
    shutil.copy(folded, folder.parent / "b.folded")
    (folder / "sub").mkdir()
    shutil.copy(folded, folder / "sub" / "b.folded")
    (folder / "text.folded").write_text("text")
    (folder / "cut.folded").write_bytes(folded.read_bytes()[:-100])
    with monkeypatch.context() as patch:
        patch.setattr(file_module, "VERSION", 99)
        write_folded(folder / "newer.folded", seed=1)
    content = torch.load(folded, weights_only=True)
    content["row_features"][0]["name"] = "renamed"
    torch.save(content, folder / "other.folded")
    models = Models(folded, writable=True)
    served, before = models.served, scores(models)
    with pytest.raises(InputError, match=message):
        models.reload(name)
    assert models.served is served and torch.equal(scores(models), before)
    assert Models(folded, writable=True).served.path == folded


def test_a_last_served_file_that_is_gone_is_not_replaced_silently(folded: Path) -> None:
    other = write_folded(folded.with_name("b.folded"), seed=1)
    Models(folded, writable=True).reload("b.folded")
    other.unlink()
    with pytest.raises(InputError, match=r"b.folded: not there; .*current.json"):
        Models(folded, writable=True)
    current = folded.with_name(f"{folded.name}.service") / "current.json"
    for content in ("{", "[]", json.dumps({"file": "a"})):
        current.write_text(content)
        with pytest.raises(InputError, match=r"current\.json: damaged"):
            Models(folded, writable=True)
    current.unlink()
    assert Models(folded, writable=True).served.path == folded
