"""From a click log to the rows of a data set: splits, histories, negatives.

Users and items are codes here, integers from 0; every function works on whole arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

TRAIN, VALID, TEST = range(3)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_CELLS_PER_DRAW = 8  # drawing once takes the time of so many cells of the exact way
_EXACT_CELLS = 4_000_000  # 32 MB of scores at a time


@dataclass(frozen=True)
class Events:
    """The log, ordered by user, time and row of the file; a repeated event appears once.

    ``clicked[begin[k]:end[k]]`` are the items that the user of event k clicked strictly
    before its time, oldest first: an item with the same time is not among them.
    ``clicked[begin[k]:last[k]]`` are all items that the user clicked.
    """

    user: Ints
    item: Ints
    time: npt.NDArray[np.int64 | np.float64]
    click: Bools
    row: Ints  # row of the file
    begin: Ints
    end: Ints
    last: Ints
    clicked: Ints

    @classmethod
    def build(cls, user: Ints, item: Ints, time: pl.Series, click: pl.Series) -> Events:
        """Order the log. Of events with equal user, item and time one stays, a click first."""
        log = (
            pl.DataFrame({"user": user, "item": item, "time": time, "click": click})
            .with_row_index("row")
            .sort("user", "time", "item", ~pl.col("click"), "row")
            .unique(["user", "time", "item"], keep="first", maintain_order=True)
            .sort("user", "time", "row")
        )
        users, items, rows = (log[c].to_numpy().astype(np.int64) for c in ("user", "item", "row"))
        times, clicks = log["time"].to_numpy(), log["click"].to_numpy()
        before = np.cumsum(clicks) - clicks
        new_user = np.diff(users, prepend=-1) != 0
        new_time = new_user | np.r_[True, times[1:] != times[:-1]]
        ends = np.r_[before[new_user][1:], clicks.sum()]  # one for each user
        return cls(
            user=users,
            item=items,
            time=times,
            click=clicks,
            row=rows,
            begin=before[_latest(new_user)],
            end=before[_latest(new_time)],
            last=ends[np.cumsum(new_user) - 1],
            clicked=items[clicks],
        )

    def leave_last_out(self) -> Ints:
        """The split of each event by the clicks of its user.

        The last click goes to test, the one before it to valid, earlier ones to train. An
        event without a click goes with the user's next click or, where none follows, with
        the last. Users with fewer than two clicks stay in train.
        """
        next_click = np.minimum(np.cumsum(self.click) - self.click, self.last - 1)
        from_last = self.last - 1 - next_click
        split = np.maximum(TEST - from_last, TRAIN)
        split[self.last - self.begin < 2] = TRAIN
        return split

    def time_cut(self, valid_from: float, test_from: float) -> Ints:
        """Train before ``valid_from``, test from ``test_from`` on, valid in between."""
        return (self.time >= valid_from).astype(np.int64) + (self.time >= test_from)


@dataclass(frozen=True)
class Rows:
    """Rows of one split: the event they come from, the item shown, and whether it was clicked."""

    event: Ints
    item: Ints
    click: Bools

    @classmethod
    def of_events(cls, events: Events, which: Ints) -> Rows:
        return cls(which, events.item[which], events.click[which])

    def with_negatives(self, negatives: Ints, random: np.random.Generator) -> Rows:
        """Each row followed by its negatives (-1: none), in an order that tells nothing."""
        items = np.concatenate([self.item[:, None], negatives], axis=1)
        order = np.argsort(random.random(items.shape), axis=1)
        item = np.take_along_axis(items, order, axis=1).ravel()
        there = item >= 0
        event = np.repeat(self.event, items.shape[1])
        return Rows(event[there], item[there], (order == 0).ravel()[there])


def with_negatives(
    events: Events,
    splits: list[Rows],
    popularity: Ints,
    *,
    count: int,
    sampling: str,
    alpha: float,
    seed: int,
) -> tuple[list[Rows], int]:
    """Train, valid and test with their negatives, and how many could not be found.

    Args:
        events: The log.
        splits: Rows of clicks.
        popularity: Clicks of each item code in the training period.
        count: Negatives for each click.
        sampling: As in :func:`item_weights`; in train only items with a click are drawn.
        alpha: As in :func:`item_weights`.
        seed: Of all draws.
    """
    seen = np.unique(events.user * len(popularity) + events.item)
    # One stream per split: the size of one does not change the draws of another.
    streams = np.random.SeedSequence(seed).spawn(len(splits))
    full, lacking = [], 0
    for code, (rows, stream) in enumerate(zip(splits, streams, strict=True)):
        random = np.random.default_rng(stream)
        only_seen = code == TRAIN
        weights = item_weights(popularity, sampling=sampling, alpha=alpha, only_seen=only_seen)
        users = events.user[rows.event]
        negatives = sample_negatives(users, weights, seen, count=count, random=random)
        lacking += int((negatives < 0).sum())
        full.append(rows.with_negatives(negatives, random))
    return full, lacking


def item_weights(counts: Ints, *, sampling: str, alpha: float, only_seen: bool) -> Floats:
    """The probability to draw each item as a negative.

    ``uniform``: equal; ``popularity``: proportional to ``counts ** alpha``, 0 for a count of
    0; ``mix``: the mean of both. ``only_seen`` restricts all to items with a count.
    """
    seen = counts > 0
    uniform = np.where(seen | (not only_seen), 1.0, 0.0)
    # Divided by the largest count, so that no power of it overflows.
    popular = np.where(seen, (counts / counts.max()) ** alpha, 0.0)
    shares = {"uniform": (1.0, 0.0), "popularity": (0.0, 1.0), "mix": (0.5, 0.5)}[sampling]
    parts = [s * w / w.sum() for s, w in zip(shares, (uniform, popular), strict=True) if s]
    total: Floats = np.sum(parts, axis=0)
    return total


def sample_negatives(
    user: Ints, weights: Floats, seen: Ints, *, count: int, random: np.random.Generator
) -> Ints:
    """Draw ``count`` different items for each row, none of which its user has seen.

    Draws that fail are repeated while enough of them succeed. The rows that are left, those of
    users who have seen nearly everything, are solved exactly: Gumbel noise on the log weights
    of the items that remain, whose maximum has the same distribution.

    Args:
        user: User code of each row, shape (rows,).
        weights: Probability of each item code, shape (items,).
        seen: Sorted keys ``user * items + item`` of everything a user has met.
        count: Items per row.
        random: The only source of randomness.

    Returns:
        Item codes, shape (rows, count); -1 where no item is left.
    """
    chosen = np.full((len(user), count), -1, dtype=np.int64)
    reach = np.cumsum(weights)
    reach /= reach[-1]
    for slot in range(count):
        left = np.arange(len(user))
        while len(left):
            drawn = np.searchsorted(reach, random.random(len(left)), side="right")
            key = user[left] * len(weights) + drawn
            place = np.minimum(np.searchsorted(seen, key), len(seen) - 1)
            taken = seen[place] == key
            taken |= (chosen[left, :slot] == drawn[:, None]).any(axis=1)
            chosen[left[~taken], slot] = drawn[~taken]
            found = len(left) - taken.sum()
            left = left[taken]
            # 1 / (share found) draws per row have become dearer than one cell per item.
            if found * len(weights) < _CELLS_PER_DRAW * (found + len(left)):
                break
        step = max(1, _EXACT_CELLS // len(weights))
        for start in range(0, len(left), step):
            part = left[start : start + step]
            chosen[part, slot] = _draw_exactly(
                user[part], chosen[part, :slot], weights, seen, random
            )
    return chosen


def spans(begin: Ints, end: Ints) -> Ints:
    """``begin[0], .., end[0] - 1, begin[1], ..``: the indices of many slices, end to end."""
    length = end - begin
    start = np.cumsum(length) - length
    indices: Ints = np.arange(length.sum()) + np.repeat(begin - start, length)
    return indices


def _latest(flags: Bools) -> Ints:
    """For each place the last one up to it with a flag; the first place has one."""
    latest: Ints = np.maximum.accumulate(np.where(flags, np.arange(len(flags)), 0))
    return latest


def _draw_exactly(
    user: Ints, chosen: Ints, weights: Floats, seen: Ints, random: np.random.Generator
) -> Ints:
    with np.errstate(divide="ignore"):
        score = np.log(weights) + random.gumbel(size=(len(user), len(weights)))
    begin, end = (np.searchsorted(seen, (user + k) * len(weights)) for k in (0, 1))
    row = np.repeat(np.arange(len(user)), end - begin)
    score[row, seen[spans(begin, end)] % len(weights)] = -np.inf
    row, slot = np.nonzero(chosen >= 0)
    score[row, chosen[row, slot]] = -np.inf
    best = score.argmax(axis=1)
    return np.where(np.isneginf(score[np.arange(len(user)), best]), -1, best)
