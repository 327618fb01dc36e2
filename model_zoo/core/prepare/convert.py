"""A raw click log becomes a data set folder: the engine of ``qin-data convert``.

Files
    train.parquet, valid.parquet, test.parquet: ``user_id``, ``item_seq``, ``item_id``, levels
    (``views_level``, ``likes_level``), kept columns, ``label``. item_info.parquet: ``item_id``,
    ``item_tags``, kept columns; each item of log and metadata once. convert.json: the arguments,
    counts, deciles, versions and ``placeholders``: ids and texts such as NA that look like a
    missing value, which stay what they are. Ids are text, ordered by length and then by letter
    (so numbers stay in order); lists have no padding; rows are ordered by user and time.

Rules
    A *click* is a row of the log with label 1 (or a rating from ``label_threshold`` on), or any
    row of a log without labels. Rows that repeat user, item and time count once, as a click if one
    of them is. Rows with one of ``drop_ids`` as user or item do not count at all; an empty id is
    an error but for "" there.

    History: the items the user clicked strictly before the row's time, oldest first, the
    latest ``max_history`` of them. Rows with fewer than ``min_history`` are skipped and counted.

    Split ``leave-last-out``: the last click of a user is for test, the one before it for valid;
    a user with a single click stays in train. Rows with label 0 go with the next click, or
    after the last one with it. Split ``time``: valid from ``valid_from``, test from
    ``test_from`` on.

    Training period: the clicks of the train split, skipped rows included. Nothing later enters
    a level's boundaries or an item's popularity.

    Levels: 1..10 by deciles over the items clicked in the training period (convert.json has
    them as ``level_bounds``). With counters in the metadata, one level per counter (0: unknown),
    equal in all rows of an item. Without, ``views_level``: the clicks of the training period
    that the item got strictly before the row's time (0: none), so neither the row's own click
    nor another of the same moment; the deciles are those of the counts at the period's end.

    Negatives, only where the log has no label 0: ``negatives`` different items for each click,
    none that the user meets anywhere in the log. A train row shows only items clicked in the
    training period: others did not exist yet, and their level 0 would give the label away.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from tqdm import tqdm

from model_zoo.core.data.schema import SPLITS
from model_zoo.core.errors import InputError
from model_zoo.core.files import require_apart, require_writable, writing
from model_zoo.core.locks import held
from model_zoo.core.prepare.clicks import NO_METADATA, Clicks, Metadata, read_clicks, read_items
from model_zoo.core.prepare.convert_options import (
    EXAMPLE,
    ConvertOptions,
    add_arguments,
    from_arguments,
)
from model_zoo.core.prepare.levels import CounterLevel, Level, ViewsLevel
from model_zoo.core.prepare.placeholders import described, placeholders
from model_zoo.core.prepare.raw_set import FILES, LOCK, RawSet
from model_zoo.core.prepare.rows import TRAIN, Events, Ints, Rows, with_negatives
from model_zoo.core.prepare.splits import refuse_empty, split_events

__all__ = ["EXAMPLE", "ConvertOptions", "add_arguments", "convert_log", "run"]


def run(arguments: argparse.Namespace) -> None:
    """Convert as the arguments of :func:`add_arguments` say, and print the counts."""
    report = write_set(from_arguments(arguments))
    for name, count in report["counts"].items():
        print(f"{name.replace('_', ' ')}: {count:,}")
    for line in described(report["placeholders"]):
        print(f"warning: {line}")


def convert_log(options: ConvertOptions, *, progress: bool = True) -> dict[str, int]:
    """Write the data set, as :func:`write_set` does, and return the counts."""
    counts: dict[str, int] = write_set(options, progress=progress)["counts"]
    return counts


def write_set(options: ConvertOptions, *, progress: bool = True) -> dict[str, Any]:
    """Write the data set; the module's text says what and by which rules.

    ``train.parquet`` gets its final name last: where it exists, the set is complete. Memory
    grows with the log (some 300 bytes a row, with one negative per click), not with the length
    of histories, which are written in chunks.

    Args:
        options: What to convert and how.
        progress: Show a progress bar over the stages, if standard output is a terminal.

    Returns:
        What convert.json holds.

    Raises:
        InputError: Wrong options or input, with every problem found in each file; an output
            that is an input; a folder that another conversion is writing; a file that cannot be
            written, and why.
    """
    options.check()
    quiet = not (progress and sys.stdout.isatty())
    out = Path(options.out)
    require_apart(
        {"--interactions": options.interactions, "--items": options.items},
        {"--out": out, **{f"--out: {name}": out / name for name in FILES}},
    )
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = held(out / LOCK, f"the data set in {out}")
        with lock, tqdm(total=7, unit="stage", disable=quiet) as bar:
            require_writable(out / name for name in FILES)
            bar.set_description("reading")
            clicks, metadata = _read(options)
            bar.update()
            bar.set_description("splits and negatives")
            raw_set = _build(options, clicks, metadata)

            def next_file(name: str) -> None:
                bar.update()
                bar.set_description(f"writing {name}")

            raw_set.write(out, on_file=next_file)
            bar.update()
    return raw_set.report


def _read(options: ConvertOptions) -> tuple[Clicks, Metadata]:
    """Both files, with the problems of both."""
    problems = []
    clicks, metadata = None, NO_METADATA
    try:
        clicks = read_clicks(
            options.interactions,
            form=options.format,
            user=options.user,
            item=options.item,
            timestamp=options.timestamp,
            label=options.label,
            threshold=options.label_threshold,
            keep=options.keep,
            separator=options.list_separator,
            lists=options.lists,
            drop_ids=options.drop_ids,
        )
    except InputError as error:
        problems += error.problems
    try:
        if options.items is not None:
            metadata = read_items(
                options.items,
                item=options.items_id or options.item,
                title=options.title,
                counters=options.levels,
                keep=options.keep_items,
                separator=options.list_separator,
                lists=options.lists,
                max_tags=options.max_tags,
                drop_ids=options.drop_ids,
            )
    except InputError as error:
        problems += error.problems
    if clicks is None or problems:
        raise InputError(problems)
    return clicks, metadata


def _build(options: ConvertOptions, clicks: Clicks, metadata: Metadata) -> RawSet:
    users = _ordered_ids(clicks.user)
    items = _ordered_ids(pl.concat([clicks.item, metadata.item]))
    events = Events.build(
        _codes(clicks.user, users), _codes(clicks.item, items), clicks.time, clicks.click
    )
    split = split_events(options, clicks, events)
    enough = events.end - events.begin >= options.min_history
    splits = [
        Rows.of_events(events, np.flatnonzero(enough & (split == code)))
        for code in range(len(SPLITS))
    ]
    refuse_empty(options, events, splits)

    in_training = events.click & (split == TRAIN)
    popularity = np.bincount(events.item[in_training], minlength=len(items))
    of_item = pl.DataFrame({"item_id": items}).join(
        pl.DataFrame({"item_id": metadata.item}).with_row_index("place"),
        on="item_id",
        how="left",
        maintain_order="left",
    )["place"]
    levels: dict[str, Level] = {
        f"{c.name}_level": CounterLevel.build(c.gather(of_item).to_numpy(), popularity > 0)
        for c in metadata.counters.iter_columns()
    }
    if not levels:
        views = ViewsLevel.build(events.item[in_training], events.time[in_training])
        levels = {"views_level": views}
    _check_together(options, clicks, metadata, levels)
    item_info = pl.DataFrame(
        [
            items.alias("item_id"),
            _of_items(metadata.tags, of_item).alias("item_tags"),
            *(_of_items(c, of_item) for c in metadata.kept.iter_columns()),
        ]
    )

    lacking = 0
    if options.negatives and clicks.click.all():
        splits, lacking = with_negatives(
            events,
            splits,
            popularity,
            count=options.negatives,
            sampling=options.negative_sampling,
            alpha=options.alpha,
            seed=options.seed,
        )
    skipped = events.click[~enough].sum()
    counts = {
        "log_rows": len(clicks.user) + clicks.dropped,
        "dropped_rows": clicks.dropped,
        "dropped_items": metadata.dropped,
        "repeated_rows": len(clicks.user) - len(events.user),
        "users": len(users),
        "items": len(items),
        "items_without_metadata": of_item.null_count() if options.items else 0,
        "clicks": int(events.click.sum()),
        "clicks_with_short_history": int(skipped),
        "others_with_short_history": int((~enough).sum() - skipped),
        "negatives_lacking": lacking,
    }
    for name, rows in zip(SPLITS, splits, strict=True):
        counts |= {f"{name}_rows": len(rows.click), f"{name}_clicks": int(rows.click.sum())}
    report = {
        "arguments": dataclasses.asdict(options),
        "counts": counts,
        "placeholders": placeholders(options, clicks, metadata),
        "level_bounds": {name: level.bounds.tolist() for name, level in levels.items()},
        "versions": {
            "python": platform.python_version(),
            **{m.__name__: m.__version__ for m in (np, pl, pa)},
        },
    }
    return RawSet(
        users=users,
        items=items,
        events=events,
        splits=tuple(splits),
        levels=levels,
        kept=clicks.kept,
        item_info=item_info,
        report=report,
        max_history=options.max_history,
        test_labels=not options.withhold_test_labels,
    )


def _of_items(values: pl.Series, of_item: pl.Series) -> pl.Series:
    """A metadata column for the items in order; an item without metadata has an empty list."""
    gathered = values.gather(of_item)
    return gathered.fill_null([]) if isinstance(values.dtype, pl.List) else gathered


def _ordered_ids(values: pl.Series) -> pl.Series:
    ids = pl.DataFrame({"id": values.unique()})
    return ids.sort(pl.col("id").str.len_chars(), "id")["id"]


def _codes(values: pl.Series, ids: pl.Series) -> Ints:
    return values.cast(pl.Enum(ids)).to_physical().to_numpy().astype(np.int64)


def _check_together(
    options: ConvertOptions, clicks: Clicks, metadata: Metadata, level_names: Iterable[str]
) -> None:
    """What neither file shows alone."""
    problems = [
        f"--keep {name}: the data set has a column of this name already, from --levels"
        for name in level_names
        if name in options.keep
    ]
    if options.items and not metadata.item.is_in(clicks.item.implode()).any():
        problems.append(
            f"{options.items}: none of its {len(metadata.item)} items is in "
            f"{options.interactions}; its first is '{metadata.item[0]}', that of the log "
            f"'{clicks.item[0]}'"
        )
    if problems:
        raise InputError(problems)
