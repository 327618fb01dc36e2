"""A journal is replaced by a shorter one that says the same, whoever reads it, whenever it ends."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from model_zoo.core import files
from model_zoo.core.errors import InputError
from model_zoo.core.serving.network import journal as journal_module
from model_zoo.core.serving.network.compaction import compacted
from model_zoo.core.serving.network.journal import Journal, Rewritten
from model_zoo.core.serving.network.models import Models
from tests.serving.network.conftest import CONTEXT, write_folded
from tests.serving.network.test_models import EVERY, NEW, journal_of, replace, scores

WORTH = 6
Record = dict[str, Any]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "WORTH", WORTH)


def change(*ids: Any, **features: Any) -> Record:
    return {
        "ids": list(ids),
        "features": {name: [value] * len(ids) for name, value in features.items()},
    }


def draw_changes(draw: random.Random, count: int) -> list[Record]:
    items = [*range(8), "8", 9.0]
    return [
        change(
            *draw.sample(items, draw.randint(0, 3)),
            **{name: value for name in "abc" if draw.random() < 0.5},
        )
        for value in range(count)
    ]


def state(records: Sequence[Record]) -> list[tuple[Any, dict[str, Any]]]:
    """Items in the order in which they came, each with what was last said of it."""
    items: dict[Any, dict[str, Any]] = {}
    for record in records:
        for place, item in enumerate(record["ids"]):
            found = items.setdefault((type(item), item), {})
            found |= {name: values[place] for name, values in record["features"].items()}
    return list(items.items())


def test_fewer_changes_leave_all_items_the_same() -> None:
    draw = random.Random(0)
    for count in [*range(10), *[100] * 20]:
        records = draw_changes(draw, count)
        kept = compacted(records)
        assert state(kept) == state(records)
        assert len(kept) <= 10 * (3 + 1)
        # Nothing is made up, and all that is kept stays in its order.
        rest = iter(records)
        for one in kept:
            assert any(
                one["ids"] == r["ids"] and one["features"].items() <= r["features"].items()
                for r in rest
            )


def test_a_change_that_adds_keeps_its_place() -> None:
    records = [change(12, a=1), change(13), change(13, 12, a=2), change(12, a=3), change(13, a=4)]
    assert compacted(records) == [change(12), change(13), change(12, a=3), change(13, a=4)]


def test_ids_that_are_spelt_differently_stay_in_their_order() -> None:
    records = [change(7, a=1), change("7", a=2), change(7.0, a=3), change(7, a=4), change("7", a=5)]
    kept = [change(7), change("7"), change(7.0, a=3), change(7, a=4), change("7", a=5)]
    assert compacted(records) == kept


# --- the file


def written(path: Path, records: Sequence[Record]) -> Journal:
    journal = Journal(path, "abc")
    journal.new()
    for record in records:
        journal.append(record)
    return journal


def read(path: Path) -> tuple[list[Record], int]:
    journal = Journal(path, "abc")
    return journal.new(), journal.records


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "abc.journal"


CHANGES = [change(12, price=float(n)) for n in range(WORTH)]


def test_whoever_has_read_all_goes_on_and_others_begin_anew(path: Path) -> None:
    writer = written(path, CHANGES[:-1])
    behind = Journal(path, "abc")
    behind.new()
    writer.append(CHANGES[-1])
    ahead, late = Journal(path, "abc"), Journal(path, "abc")
    assert ahead.new() == CHANGES
    assert Journal(path, "abc").compact() and not Journal(path, "abc").compact()
    assert read(path) == ([change(12), CHANGES[-1]], WORTH)
    assert late.new() == [change(12), CHANGES[-1]] and late.records == WORTH
    for journal in (ahead, writer):
        assert journal.new() == [] and journal.records == WORTH
    for _ in range(2):
        with pytest.raises(Rewritten):
            behind.new()
    writer.append(change(13))
    assert ahead.new() == late.new() == [change(13)]
    assert read(path) == ([change(12), CHANGES[-1], change(13)], WORTH + 1)


def test_it_is_compacted_again_when_it_has_grown_enough(path: Path) -> None:
    many = [change(item, price=1.0) for item in range(2 * WORTH)]
    writer = written(path, many)
    assert writer.compact() and writer.records == len(many)
    follower = Journal(path, "abc")
    follower.new()
    for number, record in enumerate(many):
        assert not Journal(path, "abc").compact(), number
        writer.append(record)
    assert follower.new() == many
    assert Journal(path, "abc").compact()
    assert follower.new() == writer.new() == []
    assert read(path)[1] == follower.records == writer.records == 2 * len(many)
    # Two compactions between two looks: what lies between is not known.
    slow = Journal(path, "abc")
    slow.new()
    for _ in range(2):
        writer.new()
        for record in many:
            writer.append(record)
            writer.append(record)
        assert Journal(path, "abc").compact()
    with pytest.raises(Rewritten):
        slow.new()


def test_a_cut_record_is_not_dropped_unsaid(path: Path) -> None:
    writer = written(path, [*CHANGES, change(13)])
    path.write_bytes(path.read_bytes()[:-4])
    assert not Journal(path, "abc").compact()
    journal = Journal(path, "abc")
    journal.new()
    assert journal.drop_cut() > 0 and journal.compact()
    with pytest.raises(InputError, match="was cut while it was served"):
        Journal.new(cut_of(path, journal))
    with pytest.raises(Rewritten):
        writer.new()


def cut_of(path: Path, journal: Journal) -> Journal:
    path.write_bytes(path.read_bytes()[:-4])
    return journal


def killed_at(line: int, run: Callable[[], object]) -> bool:
    """Runs it in a process that ends, as by a kill, before the line of that number."""
    codes = {Journal.compact.__code__, journal_module.sync_folder.__code__}
    codes.add(files.write_aside.__wrapped__.__code__)  # type: ignore[attr-defined]
    count = 0

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            if count == line:
                os._exit(9)
        return trace

    child = os.fork()
    if child == 0:
        try:
            sys.settrace(lambda frame, event, _: trace if frame.f_code in codes else None)
            run()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_kill_at_any_line_leaves_the_old_file_or_the_new_one(path: Path) -> None:
    changes = draw_changes(random.Random(1), 40)
    written(path, changes)
    content = path.read_bytes()
    outcomes = []
    for line in range(1, 1_000):
        path.write_bytes(content)
        follower = Journal(path, "abc")
        follower.new()
        if not killed_at(line, Journal(path, "abc").compact):
            break
        found, count = read(path)
        assert found in (changes, compacted(changes)) and count == len(changes)
        outcomes.append(found == changes)
        # Whoever was there goes on, and the next start makes up for it.
        assert follower.new() == []
        follower.append(change(99))
        Journal(path, "abc").compact()
        assert state(read(path)[0]) == state([*changes, change(99)])
        if found == changes:
            assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert len(outcomes) > 20 and outcomes == sorted(outcomes, reverse=True)
    assert {True, False} == set(outcomes)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_file_as_it_was(
    path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(path, CHANGES)
    content = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space"):
        Journal(path, "abc").compact()
    assert path.read_bytes() == content and len(list(path.parent.iterdir())) == 1


# --- what is served


def grow(models: Models, count: int = WORTH) -> None:
    """Changes of which the last ones count."""
    models.change_items([12], NEW)
    models.change_items([13, 14], {})
    for number in range(count - 2):
        models.change_items([12, 3], {"price": [float(number), 1.0]})


ALL = [*EVERY, 12, 13, 14]


def test_a_start_compacts_and_serves_the_same(folded: Path) -> None:
    models, reader = Models(folded, writable=True), Models(folded, writable=False)
    grow(models)
    reader.follow()
    served = models.served, reader.served
    size = journal_of(folded).stat().st_size
    again = Models(folded, writable=True)
    assert journal_of(folded).stat().st_size < size
    models.follow()
    reader.follow()
    assert (models.served, reader.served) == served  # none had to be read anew
    for one in (models, reader, again, Models(folded, writable=False)):
        assert one.served.journal.records == WORTH
        assert torch.equal(scores(one, ALL), scores(models, ALL))
    models.change_items([15], NEW)
    again.change_items([3], NEW)
    reader.follow()
    models.follow()
    for one in (models, reader, Models(folded, writable=True)):
        assert torch.equal(scores(one, [*ALL, 15]), scores(again, [*ALL, 15]))


@pytest.mark.parametrize("writes", [True, False])
def test_a_process_that_is_behind_reads_all_of_it_anew(folded: Path, writes: bool) -> None:
    models, behind = Models(folded, writable=True), Models(folded, writable=writes)
    grow(models, 3)
    behind.follow()
    before, old = behind.served, scores(behind, ALL)
    for number in range(WORTH):
        models.change_items([12], {"price": [2.0 + number]})
    Models(folded, writable=True)
    if writes:
        behind.change_items([3], NEW)
        models.follow()
    else:
        behind.follow()
    assert behind.served is not before
    assert torch.equal(before.scorer.score([3, 8], ALL, CONTEXT), old)
    assert torch.equal(scores(behind, ALL), scores(models, ALL))


def test_a_process_that_is_behind_an_exchanged_file_says_so(folded: Path) -> None:
    models, behind = Models(folded, writable=True), Models(folded, writable=True)
    grow(models, 3)
    behind.follow()
    grow(models)
    assert Journal(models.served.journal.path, models.served.digest).compact()
    kept = folded.read_bytes()
    replace(folded, seed=1)
    with pytest.raises(InputError, match="has changed on disk, and so has its journal"):
        behind.follow()
    folded.write_bytes(kept)
    behind.follow()
    assert torch.equal(scores(behind, ALL), scores(models, ALL))


def test_a_reload_compacts_too(folded: Path) -> None:
    write_folded(folded.with_name("b.folded"), seed=1)
    models = Models(folded, writable=True)
    grow(models)
    expected, path = scores(models, ALL), models.served.journal.path
    before = path.stat().st_size
    assert models.reload() is models.served and path.stat().st_size < before
    assert torch.equal(scores(models, ALL), expected)
    grow(models, 2 * WORTH)
    expected, before = scores(models, ALL), path.stat().st_size
    models.reload("b.folded")
    models.reload(folded.name)
    assert path.stat().st_size < before and models.served.journal.records == 3 * WORTH
    assert torch.equal(scores(models, ALL), expected)


def test_a_journal_that_cannot_be_compacted_is_served_as_it_is(
    folded: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    models = Models(folded, writable=True)
    grow(models)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    again = Models(folded, writable=True)
    assert torch.equal(scores(again, ALL), scores(models, ALL))
    assert "not compacted: No space left on device" in caplog.text
