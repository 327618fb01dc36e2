"""Each reason to stop or to look, and the command with its picture."""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl
import pytest
from matplotlib.figure import Figure

from model_zoo.core.commands import validate
from model_zoo.core.commands.validate import EXAMPLE, add_arguments, run
from model_zoo.core.errors import InputError
from model_zoo.core.prepare.facts import describe_dataset
from model_zoo.core.prepare.report import doubtful, draw_report, format_report, unsound
from tests.prepare.report_helpers import SPLITS, Change, dataset, edit, read

PICTURE = "MicroLens_demo.report.png"
EMPTY = pl.lit([0] * 100, dtype=pl.List(pl.Int64)).alias("item_seq")
FLIPPED = (1 - pl.col("label")).alias("label")


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def train_rows_in(split: str, count: int) -> Change:
    def change(frame: pl.DataFrame) -> pl.DataFrame:
        known = read("train").head(count).select(frame.columns)
        return pl.concat([frame.head(frame.height - count), known])

    return change


def only_clicked_hold_the_target(frame: pl.DataFrame) -> pl.DataFrame:
    target = pl.col("item_id")
    others = pl.col("item_seq").list.eval(pl.element().replace(0, 1))
    with_target = pl.concat_list(others.list.head(99), target)
    without_target = pl.concat_list(pl.lit([0] * 99), 1 + target % 119)
    return frame.with_columns(
        item_seq=pl.when(pl.col("label") == 1).then(with_target).otherwise(without_target)
    )


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("valid", train_rows_in("valid", 3), "valid: 3 of 200 rows are copies of train rows"),
        ("test", train_rows_in("test", 2), "test: 2 of 100 rows are copies of train rows"),
        ("valid", lambda f: f.filter(label=0), "valid: all labels are 0"),
        ("train", lambda f: f.filter(label=1), "train: all labels are 1"),
        ("valid", lambda f: f.head(0), "valid: no rows"),
        ("train", lambda f: f.with_columns(EMPTY), "600 of 600 histories are empty (100.00%); "),
        (
            "train",
            lambda f: pl.concat([f, f.with_columns(FLIPPED)]),
            "train: 1,200 of 1,200 rows are contradicted",
        ),
        (
            "train",
            only_clicked_hold_the_target,
            "in 100.00% of the clicked rows and in 0.00% of the others, a difference of 100.00%; "
            "expected at most 90%",
        ),
        (
            "train",
            lambda f: f.with_columns(item_id=pl.lit(500)),
            "train: 600 of 600 targets are not in item_info (100.00%); expected at most 50%",
        ),
        (
            "item_info",
            lambda f: f.with_columns(
                pl.when(pl.col("item_id") > 40)
                .then(pl.col("item_emb_d128") * 0)
                .otherwise(pl.col("item_emb_d128"))
            ),
            "item_info: 79 of 119 items have no item_emb_d128 (66.39%); expected at most 50%",
        ),
        ("item_info", lambda f: pl.concat([f, f.tail(2)]), "2 of 119 items are described twice"),
        ("item_info", lambda f: f.head(1), "item_info: no items"),
    ],
)
def test_a_reason_to_stop(clean: Path, name: str, change: Change, expected: str) -> None:
    edit(name, change)
    found = describe_dataset(dataset())
    reasons = [reason for reason in unsound(found) if expected in reason]
    assert len(reasons) == 1, unsound(found)
    assert f"unsound: {reasons[0]}" in format_report(found)


def test_shared_rows_up_to_the_limit_are_only_doubtful(clean: Path) -> None:
    edit("valid", train_rows_in("valid", 2))
    found = describe_dataset(dataset())
    assert unsound(found) == []
    assert any(
        text.startswith("valid: 2 of 200 rows are copies of train rows") for text in doubtful(found)
    )


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("test", lambda f: pl.concat([f, f.head(20)]), "20 of 120 rows repeat an earlier row"),
        ("item_info", lambda f: f.with_columns(item_tags=[0] * 5), "items have no item_tags"),
        (
            "test",
            lambda f: pl.concat([f, read("valid").drop("label").head(1)]),
            "copies of valid rows",
        ),
        (
            "valid",
            lambda f: f.filter((pl.col("label") == 1) | (pl.col("user_id") < 9)),
            "click rate",
        ),
        ("valid", lambda f: f.with_columns(pl.lit(0).alias("item_id")), "targets are not in"),
    ],
)
def test_a_reason_to_look(clean: Path, name: str, change: Change, expected: str) -> None:
    edit(name, change)
    found = describe_dataset(dataset())
    texts = [*doubtful(found), *unsound(found)]
    assert any(expected in text for text in texts), texts


def test_the_command_prints_and_draws(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(clean.rglob("*"))
    run(arguments("MicroLens_demo", "--out", "reports"))
    picture = clean / "reports" / PICTURE
    assert set(clean.rglob("*")) - before == {picture.parent, picture}
    assert picture.read_bytes().startswith(b"\x89PNG")
    output = capsys.readouterr()
    assert output.err == ""  # no progress bar where nobody looks
    header, rows, *lines = output.out.splitlines()
    assert header.split() == ["MicroLens_demo", *SPLITS]
    assert rows.split() == ["rows", "600", "200", "100"]
    assert len(header) == len(rows)
    assert any(line.startswith("history length: quartiles") for line in lines)
    assert EXAMPLE.startswith("qin-data validate ")


def test_the_picture_goes_to_the_working_directory(clean: Path) -> None:
    run(arguments("MicroLens_demo"))
    assert (clean / PICTURE).is_file()


def test_unsound_data_is_drawn_and_refused(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit("valid", train_rows_in("valid", 50))
    with pytest.raises(InputError) as error:
        run(arguments("MicroLens_demo"))
    (problem,) = error.value.problems
    assert problem.startswith("MicroLens_demo: valid: 50 of 200 rows are copies of train rows")
    assert "unsound: valid: 50 of 200" in capsys.readouterr().out
    assert (clean / PICTURE).is_file()


def test_empty_splits_can_be_drawn(clean: Path) -> None:
    edit("test", lambda f: f.head(0))
    draw_report(describe_dataset(dataset()), clean / "empty.png")
    assert (clean / "empty.png").is_file()


def test_a_picture_that_cannot_be_drawn_leaves_no_file(
    clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(self: Figure, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    before = set(clean.rglob("*"))
    monkeypatch.setattr(Figure, "savefig", full_disk)
    with pytest.raises(InputError, match="cannot be written: No space left"):
        run(arguments("MicroLens_demo"))
    assert set(clean.rglob("*")) == before


def test_a_file_where_the_folder_should_be(clean: Path) -> None:
    (clean / "taken").write_text("")
    with pytest.raises(InputError, match="taken"):
        run(arguments("MicroLens_demo", "--out", "taken"))


def test_files_that_break_the_schema_are_not_described(
    clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validate, "describe_dataset", lambda *_: pytest.fail("described"))
    edit("train", lambda f: f.drop("label"))
    with pytest.raises(InputError, match="column 'label' is missing"):
        run(arguments("MicroLens_demo"))


def test_an_unknown_data_set_is_named_with_its_neighbours(clean: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'MicroLens_demo'"):
        run(arguments("MicroLens_dem"))


def test_the_real_data_is_sound(shared: Path, clean: Path) -> None:
    (clean / "data" / "MicroLens_50k_x1").symlink_to(shared / "data" / "MicroLens_50k_x1")
    run(arguments("MicroLens_50k_x1"))
    assert (clean / "MicroLens_50k_x1.report.png").is_file()
