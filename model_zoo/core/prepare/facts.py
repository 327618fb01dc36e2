"""Facts of a data set: counts of its splits and of its items, for the report.

Histories are never held in memory: polars streams each file and keeps hashes and counts,
about 40 bytes for a row. Rows are compared by 64-bit hashes; among ten million distinct rows
two share a hash with a probability of 3 in a million.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import polars as pl
from tqdm import tqdm

from model_zoo.core.data.numbers import Moments, moments_of_files
from model_zoo.core.data.parquet import element_type, parquet_files, scan_file, scan_plain
from model_zoo.core.data.schema import SPLITS, is_label_type
from model_zoo.core.data.spec import DatasetSpec, FeatureSpec
from model_zoo.core.prepare.id_columns import IdKind


@dataclass(frozen=True)
class SplitFacts:
    """Counts of one split; ``None`` where they need labels, users or an earlier split."""

    rows: int
    clicks: int | None  # rows with label 1
    users: int | None  # distinct
    items: int  # distinct targets
    history_mean: float  # length without padding
    history_quartiles: tuple[float, float, float]
    history_max: int
    empty_histories: int  # rows
    repeats: int  # rows whose history holds the target
    clicked_repeats: int | None  # those with label 1
    duplicates: int  # rows that equal an earlier one in user, inputs and label
    contradictory: int | None  # rows that equal one with the other label in user and inputs
    no_target: int  # rows
    unlisted: int  # rows whose target item_info does not list
    cold_items: int | None  # rows whose target train has neither as target nor in a history
    cold_users: int | None  # rows whose user is not in train
    also_in: dict[str, int]  # earlier split -> rows whose user, target and history it has too
    copied: dict[str, int]  # earlier split -> those equal in all other inputs as well
    lengths: dict[int, tuple[int, int]]  # history length -> rows, clicks (0 without labels)
    popularity: dict[int, int]  # times an item is a target -> such items


@dataclass(frozen=True)
class ItemFacts:
    """Counts of item_info, padding left out."""

    items: int  # distinct
    repeated: int  # rows whose item an earlier row describes
    unused: int  # items that no split has as target or in a history
    without: dict[str, int]  # list column -> rows with null, nothing, or padding or zeros only
    same_vector: dict[str, int]  # embedding column -> rows with the vector of an earlier row


@dataclass(frozen=True)
class DatasetReport:
    """What :func:`describe_dataset` found; ``user_column`` is ``None`` if there is none."""

    dataset_id: str
    user_column: str | None
    splits: dict[str, SplitFacts]
    items: ItemFacts
    numbers: dict[str, dict[str, Moments]] = field(default_factory=dict)  # feature -> file


def describe_dataset(dataset: DatasetSpec, *, progress: bool = True) -> DatasetReport:
    """Count everything the report says.

    Encoded ids are integers, 0 is padding. In raw data (``rebuild_dataset``) an integer 0 is
    an id like any other; null and the empty string are none.

    Args:
        dataset: A data set whose files have passed the schema check.
        progress: Show a progress bar, if standard output is a terminal.
    """
    paths = {split: getattr(dataset, f"{split}_data") for split in SPLITS}
    scans = {split: _scan_split(dataset, path) for split, path in paths.items() if path is not None}
    schemas = {split: scan.collect_schema() for split, scan in scans.items()}
    target = dataset.ids(dataset.item_col)
    info = scan_plain(
        dataset.item_info,
        [target, *(f for f in dataset.features(of_items=True) if f.name != target.name)],
    )
    user = _user_column(dataset, schemas["train"])
    used = [
        schema[c] for schema in schemas.values() for c in (dataset.item_col, dataset.history_col)
    ]
    key_type = info.collect_schema()[dataset.item_col]
    items = IdKind.of(key_type, *used, padded=not dataset.rebuild_dataset)
    people = IdKind.of(*(s[user] for s in schemas.values() if user), padded=False)

    quiet = not (progress and sys.stdout.isatty())
    with tqdm(total=2 * len(scans) + 2, disable=quiet, unit=" steps") as bar:
        rows, histories = {}, {}
        for split, scan in scans.items():
            bar.set_description(split)
            rows[split] = _read_rows(scan, dataset, items, user, people)
            bar.update()
            history = items.many(dataset.history_col).explode(empty_as_null=False)
            histories[split] = _distinct(scan.select(history.alias("item")))
            bar.update()
        bar.set_description("item_info")
        table, numbers = _read_items(info, dataset, items), moments_of_files(dataset)
        bar.update()
        bar.set_description("comparison")
        seen = pl.concat([rows["train"].select("item"), histories["train"]]).unique()
        facts = {
            split: _split_facts(
                split,
                rows,
                listed=table.select("item"),
                seen=seen,
                labelled=_is_labelled(rows[split], split, dataset, schemas[split]),
                with_users=user is not None,
            )
            for split in rows
        }
        targets = [frame.select("item") for frame in rows.values()]
        mentioned = pl.concat([*targets, *histories.values()])
        item_facts = _item_facts(table, mentioned.unique(), dataset)
        bar.update()
    return DatasetReport(dataset.dataset_id, user, facts, item_facts, numbers)


def _scan_split(dataset: DatasetSpec, path: str) -> pl.LazyFrame:
    """The columns of a split, with its labels if all of its files have some."""
    roles = [dataset.ids(dataset.item_col), dataset.ids(dataset.history_col)]
    roles += [*dataset.features(of_items=False), *dataset.meta_columns()]
    label = dataset.label_col.name
    schemas = [scan_file(file).collect_schema() for file in parquet_files(path)]
    if all(label in schema and is_label_type(schema[label]) for schema in schemas):
        roles.append(FeatureSpec(name=label, type="numeric", dtype="float"))
    return scan_plain(path, list({column.name: column for column in roles}.values()))


def _user_column(dataset: DatasetSpec, schema: pl.Schema) -> str | None:
    """The first meta column of the splits."""
    return next((c.name for c in dataset.meta_columns() if c.name in schema), None)


def _widest(name: str, schema: pl.Schema) -> pl.Expr:
    """Equal values of two files get one type, and with it one hash."""
    dtype, inner = schema[name], element_type(schema[name])
    kind = pl.Int64 if inner.is_integer() else pl.Float64 if inner.is_float() else pl.String
    wide = kind if inner == dtype else pl.List(kind)
    return pl.col(name).cast(wide, wrap_numerical=True)


def _distinct(scan: pl.LazyFrame) -> pl.DataFrame:
    return scan.drop_nulls().unique().collect(engine="streaming")


def _read_rows(
    scan: pl.LazyFrame, dataset: DatasetSpec, items: IdKind, user: str | None, people: IdKind
) -> pl.DataFrame:
    """One short record for each row: ids, label, history length and hashes."""
    schema, roles = scan.collect_schema(), (user, dataset.item_col, dataset.history_col)
    inputs = [f.name for f in dataset.features(of_items=False) if f.name not in roles]
    others = [_widest(name, schema) for name in inputs]
    label = dataset.label_col.name
    labelled = label in schema
    read = scan.select(
        user=people.one(user) if user else pl.lit(None, pl.Int64),
        item=items.one(dataset.item_col),
        history=items.many(dataset.history_col),
        others=pl.struct(others).hash() if others else pl.lit(0, pl.UInt64),
        click=(pl.col(label).cast(pl.Float64) == 1).fill_null(False) if labelled else pl.lit(False),
    )
    history, person = pl.col("history"), pl.col("user")
    return read.select(
        pl.when(person.is_not_null()).then(person.hash()).alias("user"),
        "item",
        "click",
        length=history.list.len(),
        repeat=history.list.contains(pl.col("item")) & pl.col("item").is_not_null(),
        key=pl.struct("user", "item", "history").hash(),
        features=pl.struct("user", "item", "history", "others").hash(),
    ).collect(engine="streaming")


def _read_items(info: pl.LazyFrame, dataset: DatasetSpec, items: IdKind) -> pl.DataFrame:
    """Each item's id and, for each list column, the hash of what it holds (null: nothing)."""
    schema = info.collect_schema()
    columns = {}
    for feature in dataset.features(of_items=True):
        name, kind = feature.name, feature.type
        if kind == "sequence":
            ids = IdKind.of(schema[name], padded=not dataset.rebuild_dataset)
            values = ids.many(name)
            something = values.list.len() > 0
        elif kind == "embedding":
            # As the model sees it: what float32 rounds to zero is zero.
            values = pl.col(name).cast(pl.List(pl.Float32))
            nonzero = pl.element().is_finite() & (pl.element() != 0)
            something = values.list.filter(nonzero).list.len() > 0
        else:
            continue
        columns[f"value:{name}"] = pl.when(something).then(values.hash())
    read = info.select(items.one(dataset.item_col).alias("item"), **columns)
    return read.filter(pl.col("item").is_not_null()).collect(engine="streaming")


def _is_labelled(rows: pl.DataFrame, split: str, dataset: DatasetSpec, schema: pl.Schema) -> bool:
    """Whether there is something to evaluate, as the schema check sees it."""
    if dataset.label_col.name not in schema:
        return False
    return split != "test" or 0 < int(rows["click"].sum()) < len(rows)


def _split_facts(
    split: str,
    rows: dict[str, pl.DataFrame],
    *,
    listed: pl.DataFrame,
    seen: pl.DataFrame,
    labelled: bool,
    with_users: bool,
) -> SplitFacts:
    frame = rows[split]
    length, click = frame["length"], frame["click"]
    targets = frame.select("item").drop_nulls()
    people = frame.select("user").drop_nulls()
    clicked = pl.col("click")
    alike = frame.group_by("features").agg(pl.len().alias("rows"), clicked.sum())
    both = (clicked > 0) & (clicked < pl.col("rows"))  # labels
    distinct = alike.height + alike.filter(both).height
    lengths = frame.group_by("length").agg(pl.len(), clicked.sum()).sort("length")
    times = targets.group_by("item").len().group_by("len").agg(pl.len().alias("items")).sort("len")
    earlier = list(rows)[: list(rows).index(split)]
    first = not earlier
    quartiles = [float(length.quantile(q, "linear") or 0.0) for q in (0.25, 0.5, 0.75)]
    return SplitFacts(
        rows=frame.height,
        clicks=int(click.sum()) if labelled else None,
        users=people["user"].n_unique() if with_users else None,
        items=targets["item"].n_unique(),
        history_mean=int(length.cast(pl.Int64).sum()) / max(1, frame.height),
        history_quartiles=(quartiles[0], quartiles[1], quartiles[2]),
        history_max=max(length.unique().to_list(), default=0),
        empty_histories=int((length == 0).sum()),
        repeats=int(frame["repeat"].sum()),
        clicked_repeats=int((frame["repeat"] & click).sum()) if labelled else None,
        duplicates=frame.height - distinct,
        contradictory=int(alike.filter(both)["rows"].sum()) if labelled else None,
        no_target=frame.height - targets.height,
        unlisted=targets.join(listed, on="item", how="anti").height,
        cold_items=None if first else targets.join(seen, on="item", how="anti").height,
        cold_users=None
        if first or not with_users
        else people.join(rows["train"], on="user", how="anti").height,
        also_in={e: frame.join(rows[e], on="key", how="semi").height for e in earlier},
        copied={e: frame.join(rows[e], on="features", how="semi").height for e in earlier},
        lengths={row[0]: (row[1], row[2]) for row in lengths.iter_rows()},
        popularity=dict(times.iter_rows()),
    )


def _item_facts(table: pl.DataFrame, mentioned: pl.DataFrame, dataset: DatasetSpec) -> ItemFacts:
    vectors = [f.name for f in dataset.features(of_items=True) if f.type == "embedding"]
    without = {n.removeprefix("value:"): table[n].null_count() for n in table.columns[1:]}
    held = {name: table[f"value:{name}"].drop_nulls() for name in vectors}
    distinct = table.select("item").unique()
    return ItemFacts(
        items=distinct.height,
        repeated=table.height - distinct.height,
        unused=distinct.join(mentioned, on="item", how="anti").height,
        without=without,
        same_vector={name: len(hashes) - hashes.n_unique() for name, hashes in held.items()},
    )
