"""Folded models on disk."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model_zoo.core.errors import InputError
from model_zoo.core.serving.calibration import Calibration
from model_zoo.core.serving.file import FoldedFile, load_folded, save_folded
from model_zoo.core.serving.ids import OUT_OF_VOCABULARY, Ids
from model_zoo.core.serving.scorer import Scorer
from tests.conftest import ROOT
from tests.QIN.test_model import ITEMS
from tests.serving.made import make_model, make_scorer

CONTEXT: dict[str, Any] = {
    "level": "much",
    "hour": 2,
    "age": 0.5,
    "likes": [3, 8],
    "seen": [1, 2],
    "profile": [0.1, 0.2, 0.3, 0.4, 0.5],
}
KEYS = ["a", "ü", "c d", "", "5", *"fghijk"]
IDS = Ids(
    "item_id",
    rows={key: row for row, key in enumerate(KEYS, start=1)},
    unknown=3,
    vocabularies={"level": {"much": 1, "__PAD__": 0, OUT_OF_VOCABULARY: 3}},
    max_lens={"tags": 2},
)
ISOTONIC = Calibration(
    "isotonic", torch.tensor([-1.0, 0.5], dtype=torch.float64), torch.tensor([0.1, 0.8]).double()
)


@pytest.fixture(params=["QIN", "QIN+"])
def model(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    return make_model(tmp_path, model=request.param, rescaled=["text"])


@pytest.fixture
def path(model: Any, tmp_path: Path) -> Path:
    path = tmp_path / "a.folded"
    save_folded(path, FoldedFile(model.fold(), IDS, 3, ISOTONIC, "c0ffee"))
    return path


def scores(scorer: Scorer) -> Tensor:
    history = ["a", "ü", "c d", "k", "5", "f"]
    return torch.cat(
        [
            scorer.score(history, KEYS, CONTEXT),
            scorer.score(history, KEYS, CONTEXT, calibrated=True),
            scorer.score_batch([history] * len(KEYS), KEYS, CONTEXT),
        ]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tabulate", [True, False])
def test_a_folded_file_keeps_everything(
    model: Any, tmp_path: Path, dtype: torch.dtype, tabulate: bool
) -> None:
    folded = model.fold(dtype=dtype, tabulate_first_layer=tabulate)
    before = FoldedFile(folded, IDS, 3, ISOTONIC, "c0ffee")
    save_folded(tmp_path / "new folder" / "a.folded", before)
    assert [file.name for file in (tmp_path / "new folder").iterdir()] == ["a.folded"]
    after = load_folded(tmp_path / "new folder" / "a.folded")
    assert torch.equal(scores(Scorer(after)), scores(Scorer(before)))
    assert scores(Scorer(after)).std() > 0.05
    assert after.ids == IDS
    assert (after.max_len, after.checkpoint) == (3, "c0ffee")
    assert after.folded.dtype == dtype
    assert after.folded.num_items == ITEMS
    assert list(after.folded.item_tables) == list(folded.item_tables)
    for name, buffer in folded.named_buffers():
        assert torch.equal(after.folded.get_buffer(name), buffer), name
        assert after.folded.get_buffer(name).dtype == buffer.dtype, name


def test_a_file_without_raw_ids_and_calibration(model: Any, tmp_path: Path) -> None:
    before = FoldedFile(model.fold(), Ids("item_id"), 50)
    save_folded(tmp_path / "a.folded", before)
    after = load_folded(tmp_path / "a.folded")
    assert after.ids == before.ids
    assert (after.calibration, after.checkpoint, after.max_len) == (None, None, 50)


@pytest.mark.parametrize("tabulate", [True, False])
def test_added_items_are_saved_without_the_room_for_more(
    model: Any, tmp_path: Path, tabulate: bool
) -> None:
    scorer = make_scorer(model, tabulate_first_layer=tabulate)
    context = CONTEXT | {"level": 1}
    scorer.add_items(range(12, 40), {"price": torch.ones(28)})
    scorer.add_items([40, 41], {})
    scorer.update_items([5], {"price": [3.0]})
    assert len(scorer._folded.vectors) > 42
    scorer.save(tmp_path / "a.folded")
    loaded = Scorer.load(tmp_path / "a.folded")
    for table in loaded._folded.item_tables.values():
        assert len(table) == 42
        assert table.untyped_storage().nbytes() == table.nbytes
    assert loaded.num_items == scorer.num_items == 41
    items = range(1, 42)
    assert torch.equal(loaded.score(items, items, context), scorer.score(items, items, context))
    loaded.add_items([42], {})
    assert loaded.num_items == 42 and scorer.num_items == 41


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.folded: no such folded model"):
        load_folded(tmp_path / "absent.folded")
    with pytest.raises(InputError, match=r"not a readable folded model: .*irectory"):
        Scorer.load(tmp_path)


def test_a_truncated_file_is_named(path: Path) -> None:
    whole = path.read_bytes()
    for length in (0, 1, 10, 100, len(whole) // 2, len(whole) - 1000, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"a\.folded: not a readable folded model: ."):
            load_folded(path)


@pytest.mark.parametrize(
    "content", [b"score,me\n1,2\n", b"\x80\x02.", b"{}", b"\xff" * 99, b"G\n."]
)
def test_other_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.folded").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.folded: not a readable folded model: ."):
        load_folded(tmp_path / "a.folded")
    with zipfile.ZipFile(tmp_path / "a.folded", "w") as archive:
        archive.writestr("archive/data.csv", content)
    with pytest.raises(InputError, match=r"a\.folded: not a readable folded model: ."):
        load_folded(tmp_path / "a.folded")


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("place", ["alone", "in the ids", "pickle"])
def test_nothing_in_a_file_is_executed(path: Path, tmp_path: Path, place: str) -> None:
    trap = Trap(tmp_path / "sprung")
    if place == "pickle":
        path.write_bytes(pickle.dumps(trap))
    else:
        content = torch.load(path, weights_only=True)
        content["ids"]["keys"] = trap
        torch.save(trap if place == "alone" else content, path)
    with pytest.raises(InputError, match=r"a\.folded: not a readable folded model"):
        load_folded(path)
    assert not trap.target.exists()
    if place != "pickle":
        torch.load(path, weights_only=False)  # the trap works
        assert trap.target.exists()


@pytest.mark.parametrize("model", ["QIN"], indirect=True)
def test_a_file_of_version_1_is_read(path: Path) -> None:
    """It was written when one model folded, whose values stood flat beside the rest."""
    content = torch.load(path, weights_only=True)
    before = content | content["plain"] | {"version": 1}
    del before["model"], before["plain"]
    old = path.with_name("old.folded")
    torch.save(before, old)
    assert torch.equal(scores(Scorer.load(old)), scores(Scorer.load(path)))


def test_a_file_of_a_model_that_is_not_here(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    torch.save(content | {"model": "Other"}, path)
    with pytest.raises(InputError, match=r"a\.folded: model 'Other' has no folded form; known: "):
        load_folded(path)


def test_a_file_of_a_newer_release_is_refused(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    torch.save(content | {"version": content["version"] + 1, "ids": "changed"}, path)
    with pytest.raises(
        InputError, match=r"version 4, expected at most 3: it was folded by a newer"
    ):
        load_folded(path)


@pytest.mark.parametrize("kind", ["weights", "empty", "list", "tensor", "other format"])
def test_what_is_no_folded_model_is_refused(model: Any, tmp_path: Path, kind: str) -> None:
    content: dict[str, Any] = {
        "weights": model.state_dict(),
        "empty": {},
        "list": [1, 2],
        "tensor": torch.zeros(3),
        "other format": {"format": "other", "version": 1},
    }
    torch.save(content[kind], tmp_path / "a.folded")
    with pytest.raises(InputError, match=r"a\.folded: not a folded model"):
        load_folded(tmp_path / "a.folded")


def test_a_full_disk_leaves_the_old_file(
    model: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, names = path.read_bytes(), sorted(path.parent.iterdir())

    def disk_full(content: object, target: Path) -> None:
        Path(target).write_bytes(before[:100])
        raise OSError(28, "No space left on device")

    scorer = make_scorer(model)
    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="No space"):
        scorer.save(path)
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == names
    monkeypatch.undo()
    scorer.save(path)  # nothing is locked
    assert load_folded(path).ids == Ids("item_id")


ONLY_TORCH = """
import json
import sys

class Blocker:
    names = "fuxictr numpy pandas polars pyarrow pydantic ray scipy sklearn yaml".split()

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
import torch
from model_zoo.core.serving.scorer import Scorer
torch.set_num_threads(1)
path, result, *values = sys.argv[1:]
scorer = Scorer.load(path)
context, keys, history = map(json.loads, values)
scores = [scorer.score(history, keys, context, calibrated=True, explain=True).probability]
scores += [scorer.score_batch([history] * len(keys), keys, context)]
scorer.update_items(["f"], {"price": [2.0]})
scorer.add_items(["new"], {"tags": [[1]]})
scorer.save(path)
torch.save(torch.cat([*scores, scorer.score(history, ["f", "new"], context)]), result)
"""


def test_scoring_needs_torch_alone(path: Path, tmp_path: Path) -> None:
    history = ["a", "ü", "c d", "f"]
    scorer = Scorer.load(path)
    expected = [scorer.score(history, KEYS, CONTEXT, calibrated=True)]
    expected += [scorer.score_batch([history] * len(KEYS), KEYS, CONTEXT)]
    scorer.update_items(["f"], {"price": [2.0]})
    scorer.add_items(["new"], {"tags": [[1]]})
    expected += [scorer.score(history, ["f", "new"], CONTEXT)]
    result = tmp_path / "scores"
    arguments = [str(path), str(result), *map(json.dumps, (CONTEXT, KEYS, history))]
    subprocess.run(
        [sys.executable, "-c", ONLY_TORCH, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        check=True,
    )
    assert torch.equal(torch.load(result), torch.cat(expected))
    assert torch.equal(scores(Scorer.load(path)), scores(scorer))
