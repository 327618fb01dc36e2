"""Vectors become a column of item_info: alignment, the map itself, and the command."""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.decomposition import PCA

from model_zoo.core.prepare import embed as module
from model_zoo.core.prepare import projection
from model_zoo.core.prepare.embed import embed
from model_zoo.core.prepare.projection import Projection
from tests.prepare.embed_helpers import IDS, ITEMS, column, h5, problem, standard, vectors


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Raw: ids are text, no order, no padding."""
    path = tmp_path / "raw" / "item_info.parquet"
    path.parent.mkdir()
    pl.DataFrame({"item_id": ["b7", "a1", "0", "c9"], "price": [1.0, 0.0, 2.0, 3.0]}).write_parquet(
        path
    )
    return path


def test_the_column_is_pca_of_the_standardised_vectors(item_info: Path, tmp_path: Path) -> None:
    before = pl.read_parquet(item_info)
    shuffled = np.random.default_rng(1).permutation(ITEMS)
    done = embed(
        item_info,
        vectors=[h5(tmp_path / "v.h5", IDS[shuffled], vectors()[shuffled])],
        dim=3,
        column="e",
    )
    frame = pl.read_parquet(item_info)
    assert frame.schema["e"] == pl.List(pl.Float32)
    assert frame.drop("e").equals(before)
    got = column(item_info, "e")
    assert not got[0].any()
    pca = PCA(3).fit(standard(vectors()))
    expected = pca.transform(standard(vectors()))
    signs = np.sign((got[1:] * expected).sum(0))
    np.testing.assert_allclose(got[1:], expected * signs, atol=1e-5)
    np.testing.assert_allclose(done.projection.explained, pca.explained_variance_ratio_, atol=1e-9)
    components = done.projection.components
    assert (components[range(3), np.abs(components).argmax(1)] > 0).all()
    assert {p.name for p in tmp_path.iterdir()} == {
        "item_info.parquet",
        "item_info.e.projection.npz",
        "v.h5",
    }


def test_several_modalities_with_gaps(item_info: Path, tmp_path: Path) -> None:
    title, image = vectors(6, 1), vectors(5, 2)[: ITEMS - 2]
    title[4] = 0  # item 5: all zeros
    np.savez(tmp_path / "image.npz", item=IDS[2:], emb=image)  # items 1 and 2 have none
    done = embed(
        item_info,
        vectors=[h5(tmp_path / "t.h5", IDS[1:], title[1:]), tmp_path / "image.npz"],
        dim=11,
        column="both",
    )
    got = column(item_info, "both")
    has_title = [i for i in IDS - 1 if i not in (0, 4)]
    assert not got[:2].any()  # padding, and item 1 which has neither
    assert not got[2, 6:].any()
    assert not got[5, :6].any()
    np.testing.assert_allclose(
        got[1:][has_title][:, :6], standard(title[has_title]), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(got[3:, 6:], standard(image), rtol=1e-5, atol=1e-6)
    first, second = done.modalities
    assert (first.missing, first.zero, second.missing) == (["1"], ["5"], ["1", "2"])
    assert (done.items, done.without) == (ITEMS, 1)
    assert done.projection.components.shape == (0, 11)  # as wide as the vectors: no PCA


def test_a_missing_item_is_exactly_zero_after_pca(item_info: Path, tmp_path: Path) -> None:
    embed(item_info, vectors=[h5(tmp_path / "v.h5", IDS[3:], vectors()[3:])], dim=4, column="e")
    got = column(item_info, "e")
    assert not got[:4].any()
    assert got[4:].any(axis=1).all()


def test_raw_ids_have_no_padding_row(raw: Path, tmp_path: Path) -> None:
    ids = np.array(["0", "a1", "b7", "c9", "zz"], dtype="S2")
    values = vectors(3, rows=5)
    done = embed(raw, vectors=[h5(tmp_path / "v.h5", ids, values)], dim=3, column="e")
    got = column(raw, "e")
    order = [2, 1, 0, 3]
    np.testing.assert_allclose(got, standard(values[order]), rtol=1e-5, atol=1e-6)
    assert pl.read_parquet(raw)["item_id"].to_list() == ["b7", "a1", "0", "c9"]
    assert (done.items, done.modalities[0].unused) == (4, 1)


def test_the_saved_map_gives_new_items_the_same_vectors(item_info: Path, tmp_path: Path) -> None:
    file = h5(tmp_path / "v.h5")
    done = embed(item_info, vectors=[file], dim=4, column="e")
    with np.load(done.saved, allow_pickle=False) as saved:
        assert {"mean", "scale", "components", "names", "widths", "versions"} <= set(saved.files)
    new = tmp_path / "new" / "item_info.parquet"
    new.parent.mkdir()
    # Half of the items only: another mean, but the same map.
    pl.DataFrame({"item_id": list(range(31))}).write_parquet(new)
    again = embed(new, vectors=[file], projection=done.saved)
    assert again.column == "e"
    np.testing.assert_allclose(column(new, "e"), column(item_info, "e")[:31], atol=1e-5)
    assert again.saved == new.parent / "item_info.e.projection.npz"
    assert len(list(new.parent.iterdir())) == 2
    np.testing.assert_array_equal(Projection.load(again.saved).mean, done.projection.mean)


def test_equal_input_equal_output(item_info: Path, tmp_path: Path) -> None:
    file = h5(tmp_path / "v.h5")
    embed(item_info, vectors=[file], dim=4, column="e")
    first = item_info.read_bytes()
    embed(item_info, vectors=[file], dim=4, column="e", replace=True)
    assert item_info.read_bytes() == first


def test_beyond_the_memory_limit_pca_goes_in_chunks(
    item_info: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "_BLOCK", 7)
    file = h5(tmp_path / "v.h5")
    exact = embed(item_info, vectors=[file], dim=4, column="exact").projection
    chunked = embed(
        item_info, vectors=[file], dim=4, column="chunked", memory_limit=0.005
    ).projection
    assert chunked.explained.sum() == pytest.approx(exact.explained.sum(), rel=1e-3)
    overlap = np.linalg.svd(exact.components @ chunked.components.T)[1]
    assert overlap.min() > 0.99  # the same four directions
    np.testing.assert_allclose(chunked.mean, exact.mean)
    assert not [p for p in tmp_path.iterdir() if "tmp" in p.name]


def test_a_constant_dimension_becomes_zero(item_info: Path, tmp_path: Path) -> None:
    values = vectors(3)
    values[:, 1] = 0.1
    embed(item_info, vectors=[h5(tmp_path / "v.h5", IDS, values)], dim=3, column="e")
    assert np.abs(column(item_info, "e")[:, 1]).max() < 1e-6


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("kind", ["npy", "h5"])
def test_vectors_in_row_order(item_info: Path, tmp_path: Path, kind: str, padding: bool) -> None:
    values = vectors(3)
    given = np.pad(values, ((1, 0), (0, 0))) if padding else values
    file = tmp_path / f"v.{kind}"
    if kind == "npy":
        np.save(file, given)
    else:
        h5(file, 1000 + np.arange(len(given)), given)  # raw ids: of no use
    embed(item_info, vectors=[file], row_order=True, dim=3, column="e")
    np.testing.assert_allclose(column(item_info, "e")[1:], standard(values), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("suffix", [".npy", ".txt"])
def test_npy_with_a_file_of_ids(item_info: Path, tmp_path: Path, suffix: str) -> None:
    np.save(tmp_path / "v.npy", vectors(3)[::-1])
    ids = tmp_path / f"ids{suffix}"
    if suffix == ".npy":
        np.save(ids, IDS[::-1])
    else:
        ids.write_text("".join(f"{i}\n" for i in IDS[::-1]))
    embed(item_info, vectors=[tmp_path / "v.npy"], ids_files=[ids], dim=3, column="e")
    np.testing.assert_allclose(
        column(item_info, "e")[1:], standard(vectors(3)), rtol=1e-5, atol=1e-6
    )


LINES = [str(i) for i in IDS[::-1]]


@pytest.mark.parametrize(
    ("name", "content", "keys"),
    [
        ("ids.txt", "item_id\n" + "\n".join(LINES), []),
        ("ids.csv", "itemID\n" + "\n".join(LINES) + "\n\n", []),  # the only one that is no integer
        ("ids.csv.gz", gzip.compress("\r\n".join(["asin", *LINES]).encode(), mtime=0), ["asin"]),
        ("ids.txt", "\ufeff" + "\r\n".join(f" {line} " for line in LINES), []),
        ("map.csv", "".join(f'"{i}",{k}\n' for k, i in enumerate(["asin", *LINES])), ["asin"]),
        ("map.tsv", "".join(f"{k}\t{i}\n" for k, i in enumerate(["item_id", *LINES])), []),
    ],
)
def test_text_files_of_ids(
    item_info: Path, tmp_path: Path, name: str, content: str | bytes, keys: list[str]
) -> None:
    np.save(tmp_path / "v.npy", vectors(3)[::-1])
    ids = tmp_path / name
    ids.write_bytes(content.encode() if isinstance(content, str) else content)
    embed(
        item_info,
        vectors=[tmp_path / "v.npy"],
        ids_files=[ids],
        ids_keys=keys,
        dim=3,
        column="e",
    )
    np.testing.assert_allclose(
        column(item_info, "e")[1:], standard(vectors(3)), rtol=1e-5, atol=1e-6
    )


def test_two_columns_of_one_parquet_file(item_info: Path, tmp_path: Path) -> None:
    file = tmp_path / "feature.parquet"
    a, b = vectors(3, 1), vectors(2, 2)
    pl.DataFrame(
        {
            "item_id": IDS,
            "item_title": ["x"] * ITEMS,
            "item_tags": [[1, 2]] * ITEMS,
            "text": a.tolist(),
            "image": pl.Series(b.tolist(), dtype=pl.Array(pl.Float32, 2)),
        }
    ).write_parquet(file)
    assert "2 candidates for the vectors" in problem(item_info, vectors=[file], dim=2)
    done = embed(
        item_info, vectors=[file, file], vectors_keys=["text", "image"], dim=5, column="e", names=()
    )
    assert done.projection.names == ["text", "image"]
    expected = np.hstack([standard(a), standard(b)])
    np.testing.assert_allclose(column(item_info, "e")[1:], expected, rtol=1e-5, atol=1e-6)


def test_the_command(item_info: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    file = h5(tmp_path / "v.h5", np.r_[IDS[1:], 900])
    argv = [
        "--item-info",
        str(item_info),
        "--vectors",
        str(file),
        "--dim",
        "4",
        "--column",
        "e",
    ]
    module.run(parser.parse_args(argv))
    printed = capsys.readouterr().out
    assert "59 of 60 items have a vector" in printed
    assert "1 items (1.67%) without a vector: 1\n" in printed
    assert "1 vectors belong to no item" in printed
    assert "equal ids are not equal items" in printed
    assert "PCA 12 -> 4: " in printed
    assert "- {name: e, active: True, dtype: float, type: embedding, source: item, " in printed
    assert Projection.load(tmp_path / "item_info.e.projection.npz").dim == 4


def test_the_real_title_vectors(shared: Path, tmp_path: Path) -> None:
    """Rows of the release are items 1, 2, ...; the shipped column was made from the same titles."""
    item_info = tmp_path / "item_info.parquet"
    real = shared / "data" / "MicroLens_50k_x1" / "item_info.parquet"
    item_info.write_bytes(real.read_bytes())
    file = shared / "data" / "MicroLens_50k_raw" / "title_embedding.h5"
    done = embed(item_info, vectors=[file], column="mine", row_order=True)
    assert (done.items, done.without, done.projection.names) == (19_220, 0, ["txt_emb_MiniLM"])
    assert 0.7 < done.projection.explained.sum() < 0.9
    some = np.random.default_rng(0).choice(np.arange(1, 19_221), 300, replace=False)
    mine, shipped = (
        np.corrcoef(column(item_info, name)[some]) for name in ("mine", "item_emb_d128")
    )
    assert np.corrcoef(mine.ravel(), shipped.ravel())[0, 1] > 0.9
