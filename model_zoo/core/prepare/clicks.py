"""Reading and cleaning of a raw click log, and of what is known about its items.

Tables are csv (comma), tsv (tab) or parquet. MicroLens *pairs* files have no header; a line is
``user<TAB>item item item``, oldest first, and the position of an item stands for its time.

Everything in a text table is read as text first, so ids such as ``007`` stay what they are.
Ids lose white space at both ends and are otherwise kept exactly, inner spaces and letters of
any alphabet included; integer ids of a parquet file become text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from model_zoo.core.errors import InputError
from model_zoo.core.prepare.table_files import PAIRS, load, resolve

# Up to white space, or, where white space follows the '#', up to the end of the phrase.
_HASHTAG = r"#(?:[^\s#]+|\s+[^#.,!?;:|。，！？]+)"
_TAG_EDGES = "#.,!?;:|。，！？ \t\r\n"
_TAG_WORDS = 5


@dataclass(frozen=True)
class Clicks:
    """A clean log, its rows as in the file (of a pairs file: item after item)."""

    user: pl.Series  # text
    item: pl.Series  # text
    time: pl.Series  # Int64 or Float64, as in the file; dates in microseconds since 1970
    click: pl.Series  # Boolean
    kept: pl.DataFrame  # further columns, under their own names
    dated: bool  # times came as dates
    from_pairs: bool  # times are positions
    dropped: int = 0  # rows of the file that are not here


@dataclass(frozen=True)
class Metadata:
    """One row per item of the metadata file."""

    item: pl.Series  # text, each once
    tags: pl.Series  # lists of text
    counters: pl.DataFrame  # Float64, null where unknown
    kept: pl.DataFrame
    dropped: int = 0  # rows of the file that are not here


NO_METADATA = Metadata(
    item=pl.Series([], dtype=pl.String),
    tags=pl.Series([], dtype=pl.List(pl.String)),
    counters=pl.DataFrame(),
    kept=pl.DataFrame(),
)


def read_clicks(
    path: str,
    *,
    form: str = "auto",
    user: str = "user",
    item: str = "item",
    timestamp: str = "timestamp",
    label: str | None = None,
    threshold: float | None = None,
    keep: Sequence[str] = (),
    separator: str | None = None,
    lists: Sequence[str] | None = None,
    drop_ids: Sequence[str] = (),
) -> Clicks:
    """Read and check an interaction log.

    Args:
        path: The file.
        form: One of ``tables.FORMATS``; ``auto`` goes by the file's suffix, and takes a .tsv
            whose first line is ``x<TAB>y z`` for a pairs file.
        user: Column with user ids.
        item: Column with item ids.
        timestamp: Column with numbers >= 0 in one unit, or ISO dates (UTC unless they
            carry an offset).
        label: Column with 0 and 1. Without it ``label`` is used if it exists, and without
            that every row is a click.
        threshold: The label is a rating, which is a click from this value on.
        keep: Further columns. Text that is all numbers becomes numbers, empty text null.
        separator: Of lists written as text in kept columns (:meth:`.tables.Table.feature`).
        lists: Kept columns that hold such lists.
        drop_ids: Rows with one of these as user or item are left out; "" is no id.

    Raises:
        InputError: With every problem found, each naming file, column, row (the first row
            after the header is 0), value and expectation.
    """
    form = resolve(path, form)
    if form == "pairs":
        if keep or label or threshold is not None:
            raise InputError(
                f"{path}: a pairs file has no columns; --keep, --label and --label-threshold need "
                "some"
            )
        return _read_pairs(path, drop_ids)
    required = {user: "--user", item: "--item", timestamp: "--timestamp"}
    if label is not None:
        required[label] = "--label"
    required |= {name: "--keep" for name in keep if name not in required}
    table = load(path, form, required, [] if label else ["label"]).dropping(drop_ids, [user, item])
    label = label or ("label" if "label" in table.frame.columns else None)
    if threshold is not None and label is None:
        raise InputError(f"{path}: no column 'label'; --label-threshold needs --label COLUMN")
    times, dated = table.times(timestamp)
    users, items = table.ids(user), table.ids(item)
    click = (
        pl.repeat(True, len(times), eager=True) if label is None else table.clicks(label, threshold)
    )
    kept = pl.DataFrame([table.feature(name, separator, lists) for name in keep])
    table.close()
    rows = table.kept()
    return Clicks(
        user=users.filter(rows),
        item=items.filter(rows),
        time=times.filter(rows),
        click=click.filter(rows),
        kept=kept.filter(rows) if keep else kept,
        dated=dated,
        from_pairs=False,
        dropped=int((~rows).sum()),
    )


def read_items(
    path: str,
    *,
    item: str = "item",
    title: str | None = None,
    counters: Sequence[str] | None = None,
    keep: Sequence[str] = (),
    separator: str | None = None,
    lists: Sequence[str] | None = None,
    max_tags: int = 5,
    drop_ids: Sequence[str] = (),
) -> Metadata:
    """Read and check item metadata (csv, tsv or parquet, by suffix).

    Args:
        path: The file.
        item: Column with item ids, each once.
        title: Column whose hashtags become tags (:func:`hashtags`); without it ``title`` is
            used if it exists.
        counters: Columns with numbers >= 0, or nothing where unknown; without it ``likes``
            and ``views``, those that exist.
        keep: Further columns, read like those of :func:`read_clicks`; so are their lists.
        separator: As there.
        lists: As there.
        max_tags: Tags kept per item.
        drop_ids: Items that are left out; "" is no id.

    Raises:
        InputError: As in :func:`read_clicks`.
    """
    required = {item: "--items-id"}
    required |= {title: "--title"} if title else {}
    required |= dict.fromkeys(counters or (), "--levels")
    required |= {name: "--keep-items" for name in keep if name not in required}
    optional = ([] if title else ["title"]) + (["likes", "views"] if counters is None else [])
    table = load(path, resolve(path, "auto", pairs=False), required, optional)
    table = table.dropping(drop_ids, [item])
    found = table.frame.columns
    if counters is None:
        counters = [name for name in ("likes", "views") if name in found]
    title = title or ("title" if "title" in found else None)
    ids = table.ids(item)
    table.expect(ids.is_first_distinct() | (ids == ""), item, "each item once")
    titles = pl.repeat("", len(ids), eager=True) if title is None else table.text(title)
    found_counters = pl.DataFrame([table.counter(name) for name in counters])
    kept = pl.DataFrame([table.feature(name, separator, lists) for name in keep])
    table.close()
    rows = table.kept()
    return Metadata(
        item=ids.filter(rows),
        tags=hashtags(titles, max_tags=max_tags).filter(rows),
        counters=found_counters.filter(rows) if counters else found_counters,
        kept=kept.filter(rows) if keep else kept,
        dropped=int((~rows).sum()),
    )


def hashtags(titles: pl.Series, *, max_tags: int) -> pl.Series:
    """The tags of each title, in order, lower case, each once, at most ``max_tags``.

    ``#word`` goes up to the next white space; ``# some words`` up to the next ``#``,
    punctuation mark or the end. Phrases of more than five words are sentences, not tags.

    Example:
        >>> hashtags(pl.Series(["Duck! #Fun #fun # my cat, and so on"]), max_tags=5).to_list()
        [['fun', 'my cat']]
    """
    tag = pl.col("tag").str.strip_chars(_TAG_EDGES).str.replace_all(r"\s+", " ")
    tag = tag.str.to_lowercase()
    rows = pl.DataFrame({"tag": titles.str.extract_all(_HASHTAG)}).with_row_index()
    tags = (
        rows.explode("tag", empty_as_null=False)
        .with_columns(tag)
        .filter(pl.col("tag") != "", pl.col("tag").str.count_matches(" ") < _TAG_WORDS)
        .unique(maintain_order=True)
        .group_by("index", maintain_order=True)
        .agg(pl.col("tag").head(max_tags))
    )
    joined = rows.select("index").join(tags, on="index", how="left", maintain_order="left")
    return joined["tag"].fill_null([])


def _read_pairs(path: str, drop_ids: Sequence[str]) -> Clicks:
    table = load(path, "pairs", dict.fromkeys(PAIRS, ""), []).dropping(drop_ids, ["user"])
    users = table.ids("user")
    table.expect(users.is_first_distinct() | (users == ""), "user", "one line per user")
    items = table.frame["items"].str.extract_all(r"\S+")
    sizes = items.list.len().to_numpy().astype(np.int64)
    table.expect(pl.Series(sizes > 0), "items", "items separated by spaces")
    table.close()
    line = np.repeat(np.arange(len(sizes)), sizes)
    position = np.arange(sizes.sum()) - (np.cumsum(sizes) - sizes)[line]
    flat = items.explode(empty_as_null=False)
    rows = table.kept().gather(line) & ~flat.is_in(list(drop_ids))
    if not rows.any():
        raise InputError(f"{path}: --drop-ids drops all {len(rows)} clicks")
    return Clicks(
        user=users.gather(line).filter(rows),
        item=flat.filter(rows),
        time=pl.Series(position).filter(rows),
        click=pl.repeat(True, int(rows.sum()), eager=True),
        kept=pl.DataFrame(),
        dated=False,
        from_pairs=True,
        dropped=int((~rows).sum()),
    )
