"""Records survive a kill; a cut last one does not count, and damage is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model_zoo.core.errors import InputError
from model_zoo.core.serving.network import journal as journal_module
from model_zoo.core.serving.network.journal import Journal

RECORDS: list[dict[str, Any]] = [
    {"ids": [12], "features": {"price": [0.1]}},
    {"ids": ["é\n\u2028"], "features": {}},
    {"ids": [13, 14], "features": {"tags": [[1, 2], []]}},
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    journal = Journal(tmp_path / "a.journal", "abc")
    for record in RECORDS:
        journal.append(record)
    return journal.path


def test_records_come_back_in_order_and_once(path: Path) -> None:
    journal, other = Journal(path, "abc"), Journal(path, "abc")
    assert journal.new() == RECORDS and journal.new() == []
    assert journal.records == 3
    other.new()
    other.append(RECORDS[0])
    assert journal.new() == RECORDS[:1]
    assert Journal(path.with_name("none"), "abc").new() == []


def test_every_cut_keeps_the_records_before_it(path: Path) -> None:
    content = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(0, len(content), 3):
        path.write_bytes(content[:cut])
        journal = Journal(path, "abc")
        whole = sum(end <= cut for end in ends)
        assert journal.new() == RECORDS[: max(whole - 1, 0)]  # the first one is the header
        lost = cut - (ends[whole - 1] if whole else 0)
        assert journal.drop_cut() == lost and journal.drop_cut() == 0
        journal.append(RECORDS[2])
        assert Journal(path, "abc").new() == [*RECORDS[: max(whole - 1, 0)], RECORDS[2]]


def test_damage_is_refused_with_the_way_out(path: Path) -> None:
    content = path.read_bytes()
    ends = [0] + [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    # A broken line break of the last record makes that record a cut one.
    for place in range(0, len(content) - 1, 3):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        sound = max(end for end in ends if end <= place)
        with pytest.raises(InputError, match=rf"is damaged: .* truncate -s \d+ '{path}'") as error:
            Journal(path, "abc").new()
        (size,) = [int(w) for w in str(error.value).split("truncate -s ")[1].split()[:1]]
        assert size <= sound
        path.write_bytes(damaged[:size])
        assert Journal(path, "abc").new() == RECORDS[: max(ends.index(size) - 1, 0)]


def test_a_journal_of_another_file_or_release_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="belongs to the folded file abc, expected xyz"):
        Journal(path, "xyz").new()
    other = Journal(tmp_path / "b.journal", "abc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_module, "VERSION", 2)
        other.append({})
    with pytest.raises(InputError, match="version 2, expected at most 1"):
        Journal(other.path, "abc").new()


def test_a_journal_that_shrinks_or_goes_while_it_is_served_is_refused(path: Path) -> None:
    journal = Journal(path, "abc")
    journal.new()
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match="was cut while it was served"):
        journal.new()
    path.unlink()
    with pytest.raises(InputError, match="was removed while it was served"):
        journal.new()


@pytest.mark.parametrize("records", [0, 2])
def test_a_full_disk_leaves_the_journal_as_it_was(
    tmp_path: Path, records: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "a.journal", "abc")
    for record in RECORDS[:records]:
        journal.append(record)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal_module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        journal.append(RECORDS[2])
    monkeypatch.undo()
    assert Journal(journal.path, "abc").new() == RECORDS[:records]
    journal.append(RECORDS[1])
    assert Journal(journal.path, "abc").new() == [*RECORDS[:records], RECORDS[1]]
