"""csv rows to score, as parquet: streamed, and refused with the file, column, row and text."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from model_zoo.core.commands.score_files import write_tables
from model_zoo.core.data import csv_rows
from model_zoo.core.data.cell_text import read_lists
from model_zoo.core.data.csv_rows import csv_to_parquet
from model_zoo.core.data.spec import DatasetSpec
from model_zoo.core.errors import InputError

pytestmark = pytest.mark.usefixtures("own_folder")


def spec(ids: str = "int") -> DatasetSpec:
    columns = [
        {"name": "item", "type": "categorical", "dtype": ids, "source": "item"},
        {"name": "seq", "type": "meta", "dtype": ids},
        {"name": "hour", "type": "categorical", "dtype": "int"},
        {"name": "city", "type": "categorical", "dtype": "str"},
        {"name": "price", "type": "numeric", "dtype": "float"},
        {"name": "shown", "type": "sequence", "dtype": "int", "max_len": 3},
        {"name": "tags", "type": "sequence", "dtype": "str", "max_len": 3},
        {"name": "vector", "type": "embedding", "dtype": "float", "pretrain_dim": 2},
    ]
    paths = {"train_data": "t", "valid_data": "v", "item_info": "i", "data_root": "d"}
    return DatasetSpec.model_validate(
        {
            **paths,
            "dataset_id": "D",
            "data_format": "parquet",
            "rebuild_dataset": True,
            "feature_cols": columns,
            "label_col": {"name": "label"},
            "item_col": "item",
            "history_col": "seq",
        }
    )


HEADER = "seq,item,hour,city,price,shown,tags,vector,label,note\n"
ROWS = [
    '"[1001.0, 1002.0]",7.0,3,new york,1.5,8|9,new york,0.5 1,1,x\n',
    '1001;1002,np.int64(7),,"a, b",2,"array([8, 9, 10])","[""a b"", ""c""]","[0.5, 1.]",,\n',
    '"[np.int64(1001), 1002]",7, 4 ,,.5,,a^b,0.5^1,0,"x, y"\n',
]


def converted(text: str, dataset: DatasetSpec | None = None) -> pl.DataFrame:
    Path("rows.csv").write_text(text, encoding="utf-8")
    csv_to_parquet(Path("rows.csv"), Path("rows.parquet"), dataset or spec())
    return pl.read_parquet("rows.parquet")


def test_every_column_has_its_type_and_values() -> None:
    rows = converted(HEADER + "".join(ROWS))
    assert rows.to_dict(as_series=False) == {
        "seq": [[1001, 1002]] * 3,
        "item": [7, 7, 7],
        "hour": [3, None, 4],
        "city": ["new york", "a, b", None],
        "price": [1.5, 2.0, 0.5],
        "shown": [[8, 9], [8, 9, 10], []],
        "tags": [["new york"], ["a b", "c"], ["a", "b"]],
        "vector": [[0.5, 1.0]] * 3,
        "label": [1.0, None, 0.0],
        "note": ["x", None, "x, y"],
    }


def test_rows_are_numbered_over_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "_BLOCK", 256)
    rows = converted(HEADER + "".join(ROWS) * 50)
    assert rows["seq"].to_list() == [[1001, 1002]] * 150
    wrong = ROWS[0].replace("1002.0", "nan") + ROWS[1].replace("np.int64(7)", "7.5")
    with pytest.raises(InputError) as caught:
        converted(HEADER + "".join(ROWS) * 50 + wrong * 2)
    assert caught.value.problems == [
        "rows.csv: column 'seq', row 150: found '[1001.0, nan]', expected integers such as 7^8^9, "
        "7 8 9 or [7, 8, 9]: 'nan' is not an integer (2 such rows)",
        "rows.csv: column 'item', row 151: found '7.5', expected an integer (2 such rows)",
    ]


@pytest.mark.parametrize(("line", "fields"), [("1^2,7,3\n", 3), (ROWS[0][:-1] + ",1\n", 11)])
def test_ragged_rows_are_refused(monkeypatch: pytest.MonkeyPatch, line: str, fields: int) -> None:
    monkeypatch.setattr(csv_rows, "_BLOCK", 256)
    with pytest.raises(InputError) as caught:
        converted(HEADER + "".join(ROWS) * 20 + "\n" + line + ROWS[0] + line)
    assert caught.value.problems == [
        f"rows.csv: row 60 (the first is 0): found {fields} fields, expected 10 separated by ',' "
        "(2 such rows)"
    ]


def test_texts_keep_their_blanks() -> None:
    text = 'seq,item\nnew york,new york\nnew york|a b,"a^b"\n"[""new york"", ""a^b""]",7.0\n'
    rows = converted(text, spec("str"))
    assert rows["seq"].to_list() == [["new york"], ["new york", "a b"], ["new york", "a^b"]]
    assert rows["item"].to_list() == ["new york", "a^b", "7.0"]


def test_files_without_rows_or_with_a_column_twice() -> None:
    assert converted("seq,item\n").schema == {"seq": pl.List(pl.Int64), "item": pl.Int64}
    with pytest.raises(InputError, match=r"rows\.csv: not a readable csv file"):
        converted("")
    with pytest.raises(InputError, match="column 'item' appears 2 times; expected once"):
        converted("seq,item,item\n1,2,3\n")


def test_explained_histories_are_read_back_from_csv() -> None:
    texts = [["new york", 'a"b', "c^d"], [], ["é"]]
    table = pl.DataFrame({"ID": [0, 1, 2], "history": texts, "seen": [[1, 2], [], [3]]})
    write_tables(Path("out.csv"), [table, table])
    written = pl.read_csv("out.csv", infer_schema=False)
    assert read_lists(written["history"], "str")[0].to_list() == texts * 2
    assert read_lists(written["seen"], "int")[0].to_list() == [[1, 2], [], [3]] * 2
