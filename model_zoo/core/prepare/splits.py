"""The split of each event of a log, as ``qin-data convert`` is asked for it."""

from __future__ import annotations

import numpy as np
import polars as pl

from model_zoo.core.data.schema import SPLITS
from model_zoo.core.errors import InputError
from model_zoo.core.prepare.clicks import Clicks
from model_zoo.core.prepare.convert_options import ConvertOptions
from model_zoo.core.prepare.rows import Events, Ints, Rows
from model_zoo.core.prepare.tables import parse_times


def split_events(options: ConvertOptions, clicks: Clicks, events: Events) -> Ints:
    """The code of each event's split.

    Raises:
        InputError: A cut that is no time of the log, or cuts in the wrong order.
    """
    if options.split == "leave-last-out":
        return events.leave_last_out()
    if clicks.from_pairs:
        raise InputError(
            f"{options.interactions}: a pairs file has no times; expected --split leave-last-out"
        )
    problems, cuts = [], []
    kind = "an ISO date" if clicks.dated else "a number"
    for flag, text in (("--valid-from", options.valid_from), ("--test-from", options.test_from)):
        times, dated = parse_times(pl.Series([text], dtype=pl.String))
        if times[0] is None or dated != clicks.dated:
            problems.append(f"{flag} is '{text}', expected {kind}, like the log's timestamps")
        cuts.append(times[0])
    if not problems and cuts[0] >= cuts[1]:
        problems.append(
            f"--valid-from is {options.valid_from}, expected a time before "
            f"--test-from, {options.test_from}"
        )
    if problems:
        raise InputError(problems)
    return events.time_cut(*cuts)


def refuse_empty(options: ConvertOptions, events: Events, splits: list[Rows]) -> None:
    """Refuse a split without a click, and say how many there are and why."""
    clicks = {n: int(rows.click.sum()) for n, rows in zip(SPLITS, splits, strict=True)}
    empty = [name for name, count in clicks.items() if not count]
    if empty:
        users = len(np.unique(events.user))
        single = len(np.unique(events.user[events.last - events.begin < 2]))
        raise InputError(
            f"{options.interactions}: no click for {' and '.join(empty)}; --split {options.split} "
            f"with --min-history {options.min_history} gives "
            + ", ".join(f"{count} for {name}" for name, count in clicks.items())
            + f" ({single} of {users} users have fewer than two clicks; "
            f"times {events.time.min()} to {events.time.max()})"
        )
