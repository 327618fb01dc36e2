"""Files to score: labels and further columns are not looked at, kept ones carried along."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import prediction
from model_zoo.core.commands.experiment import run_experiment
from model_zoo.core.commands.submission import score_file, write_submission
from model_zoo.core.errors import InputError
from tests.conftest import ROOT
from tests.data.odd_forms import plain_tables, put, rows, spec, write

ODD = "a [v2] {x} *?%20#'é 数=1"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """One trained experiment in a folder of a plain name, one in a folder of an odd name."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("plain", ODD):
            folder = tmp_path_factory.mktemp("place") / name
            folder.mkdir()
            patch.chdir(folder)
            write(plain_tables())
            train(folder)
            made[name] = folder
        yield made


@pytest.fixture
def place(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(places["plain"])
    return places["plain"]


def train(folder: Path) -> None:
    """Every path of the configuration is absolute, so that the folder's name is in it."""
    entry = spec().model_dump(exclude_none=True, exclude={"dataset_id"})
    for key in ("data_root", "train_data", "valid_data", "test_data", "item_info"):
        entry[key] = str(folder / entry[key])
    models = yaml.safe_load((ROOT / "config" / "model_config.yaml").read_text())
    models["QIN_test"] |= {"dataset_id": "D", "batch_size": 8, "epochs": 1}
    models["QIN_test"]["model_root"] = str(folder / "checkpoints")
    config = folder / "config"
    config.mkdir()
    (config / "dataset_config.yaml").write_text(yaml.safe_dump({"D": entry}))
    (config / "model_config.yaml").write_text(yaml.safe_dump(models))
    run_experiment(str(config), "QIN_test")


def scores(source: Path | str, target: str = "out.parquet", **options: object) -> pl.DataFrame:
    score_file("config", "QIN_test", source=source, target=target, **options)
    if target.endswith(".csv"):
        return pl.read_csv(target, glob=False, infer_schema=False)
    return pl.read_parquet(target, glob=False)


INPUTS = rows(7, 2).drop(["user", "label"])


def test_no_character_of_a_path_is_a_pattern(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for folder in places.values():
        monkeypatch.chdir(folder)
        pq.write_table(INPUTS, folder / "in.parquet")
        by_parquet = scores(folder / "in.parquet", str(folder / "out.parquet"), keep=["hour"])
        lists = [" ".join(map(str, ids)) for ids in INPUTS["seq"].to_pylist()]
        frame = pl.DataFrame(put(INPUTS, seq=pa.array(lists)))
        frame.write_csv(folder / "in.csv")
        by_csv = scores(folder / "in.csv", str(folder / "out.csv"), keep=["hour"])
        zipped = write_submission(str(folder / "config"), "QIN_test", folder=folder / "sent")
        history = (folder / "checkpoints" / "D" / "QIN_test.history.csv").read_text()
        assert by_csv["probability"].cast(pl.Float64).to_list() == pytest.approx(
            by_parquet["probability"].to_list(), abs=1e-12
        )
        found.append((by_parquet.to_dict(as_series=False), zipped.stat().st_size, history))
    assert found[0][0] == found[1][0]
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize(
    "label",
    [[0.0] * 7, [1.0] * 7, [None] * 7, [-1] * 7, ["?"] * 7, [float("nan")] * 7, [[1]] * 7],
)
def test_labels_of_rows_to_score_change_nothing(place: Path, label: list[object]) -> None:
    pq.write_table(INPUTS, "in.parquet")
    expected = scores("in.parquet")
    pq.write_table(put(INPUTS, label=pa.array(label), user=pa.array(["x"] * 7)), "in.parquet")
    assert scores("in.parquet").equals(expected)


def test_one_row_and_a_placeholder_in_the_test_split(place: Path) -> None:
    pq.write_table(INPUTS, "in.parquet")
    expected = scores("in.parquet")
    one = put(INPUTS.slice(3, 1), label=pa.array([1.0]))
    pq.write_table(one, "in.parquet")
    assert scores("in.parquet")["probability"][0] == pytest.approx(expected["probability"][3])
    before = write_submission("config", "QIN_test").read_bytes()
    test = pq.read_table("raw/test.parquet")
    odd = put(test, label=pa.array([None] * len(test)), extra=pa.array(["x"] * len(test)))
    pq.write_table(odd, "raw/test.parquet")
    try:
        after = write_submission("config", "QIN_test").read_bytes()
    finally:
        pq.write_table(test, "raw/test.parquet")
    assert len(after) == len(before)


def test_kept_columns_are_what_they_were(place: Path) -> None:
    """Text of a csv file verbatim, in the order of the rows, whatever the types of the inputs."""
    lists = ["^".join(map(str, ids)) for ids in INPUTS["seq"].to_pylist()]
    texts = ["007", "", " a ", 'say "x"', "1,5", "two\nlines", "é 数"]
    source = put(
        INPUTS,
        seq=pa.array(lists),
        request=pa.array(texts),
        label=pa.array(["?"] * 7),
        price=pa.array([f"{k}.50" for k in range(7)]),
    )
    frame = pl.DataFrame(source)
    header = ",,"  # two unnamed indices of a pandas table
    text = frame.write_csv()
    lines = [header + text.partition("\n")[0]]
    for k in range(7):
        lines.append(f"{k},0{k}," + frame[k].write_csv(include_header=False).rstrip("\n"))
    Path("in.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    plain = scores("in.csv")
    assert plain.columns == ["ID", "probability"]
    kept = scores("in.csv", keep=["request", "price", "label"])
    assert kept.select(plain.columns).equals(plain)
    assert kept["request"].to_list() == texts
    assert kept["price"].to_list() == [f"{k}.50" for k in range(7)]
    as_csv = scores("in.csv", "out.csv", keep=["request", "price"], explain=True)
    assert as_csv.columns == ["ID", "probability", "history", "attention", "request", "price"]
    assert as_csv["request"].fill_null("").to_list() == texts
    assert '""\n' not in Path("out.csv").read_text(encoding="utf-8")


def test_kept_columns_of_parquet_over_many_batches(place: Path) -> None:
    many = pa.concat_tables([INPUTS] * 5)
    ids = pa.array([f"{k:04}" for k in range(35)])
    extra = {
        "__index_level_0__": pa.array(range(35)),
        "request": ids.dictionary_encode(),
        "pair": pa.array([[k, k + 1] for k in range(35)], pa.list_(pa.int32(), 2)),
        "words": pa.array([["a", "b c"]] * 35),
    }
    pq.write_table(put(many, **extra), "in.parquet", row_group_size=11)
    kept = scores("in.parquet", keep=["request", "__index_level_0__", "seq", "pair"])
    assert kept["request"].cast(pl.String).to_list() == ids.to_pylist()
    assert kept["__index_level_0__"].to_list() == list(range(35)) == kept["ID"].to_list()
    assert kept["seq"].to_list() == many["seq"].to_pylist()
    as_csv = scores("in.parquet", "out.csv", keep=["request", "pair", "words"])
    assert as_csv["request"].to_list() == ids.to_pylist()
    assert as_csv["pair"][1] == "1 2"
    assert as_csv["words"][1] == '["a", "b c"]'


@pytest.mark.parametrize(
    ("keep", "problem"),
    [
        (["reqest"], "--keep: no column 'reqest'; found seq, item, hour, is_new, price, request"),
        (["reqest"], "did you mean 'request'"),
        (["ID"], "--keep: no column 'ID'"),
        (["probability"], "'probability' has the name of a column of the output"),
        (["nested"], "--keep: column 'nested' has type Struct({'a': Int64}), which csv cannot"),
    ],
)
def test_columns_that_cannot_be_kept(
    place: Path, keep: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = {"request": ["a"] * 7, "probability": [0.5] * 7, "nested": [{"a": 1}] * 7}
    table = put(INPUTS, **{name: pa.array(values) for name, values in extra.items()})
    pq.write_table(table, "in.parquet")
    Path("kept.csv").unlink(missing_ok=True)
    arguments = ["--config", "config", "--expid", "QIN_test", "--keep", *keep]
    assert prediction.main([*arguments, "--input", "in.parquet", "--output", "kept.csv"]) == 2
    assert problem in capsys.readouterr().err
    assert not Path("kept.csv").exists()
    assert prediction.main(arguments) == 2
    assert "--keep needs --input and --output" in capsys.readouterr().err


def test_explained_outputs_have_more_names(place: Path) -> None:
    pq.write_table(put(INPUTS, history=pa.array(["x"] * 7)), "in.parquet")
    assert scores("in.parquet", keep=["history"])["history"].to_list() == ["x"] * 7
    with pytest.raises(InputError, match="column 'history' has the name of a column of the"):
        scores("in.parquet", keep=["history"], explain=True)
