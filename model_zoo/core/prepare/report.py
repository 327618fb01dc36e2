"""``qin-data validate``: what is in a data set, and whether training on it would be sound.

The schema check says that the files can be read; this says what a model would learn from
them (:mod:`.facts`), and what of it is unsound or deserves a look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path

import polars as pl

from model_zoo.core.files import write_aside
from model_zoo.core.prepare.facts import DatasetReport, ItemFacts, SplitFacts

# Training is unsound where a share is above one of these.
#
# Of valid or test rows that are copies of train rows: equal in user, target, history and every
# other input. (An item shown to a user again in another context is no copy.) Rows known by
# heart move an AUC of 0.9 by at most 2 x 1 % x (1 - 0.9) = 0.002: as much as chance does with
# 10,000 rows.
MAX_COPIED_ROWS = 0.01
# Of empty histories: the attention would see next to nothing but padding.
MAX_EMPTY_HISTORIES = 0.99
# Of items without a vector: a column that most items lack comes from a failed join.
MAX_WITHOUT_VECTOR = 0.5
# Of rows without a target item, or with one that item_info does not list.
MAX_UNKNOWN_TARGETS = 0.5
# Of rows that a second row contradicts: on those no model is better than a coin.
MAX_CONTRADICTORY = 0.5
# Between clicked and other rows, of rows whose history holds the target. Above it, a look
# whether the target is there has an AUC of 0.95 or more: the history knows the label.
MAX_REPEAT_GAP = 0.9
# The report warns above these: a small share that is worth a look, and a majority.
_SOME, _MOST = 0.01, 0.5
# A click probability learnt on one split is off by this factor of odds on another.
_ODDS = 2.0


# Message, value, the value above which to warn, the value above which to stop.
_Check = tuple[str, float, float, float]


def _checks(report: DatasetReport) -> Iterator[_Check]:
    for split in report.splits:
        yield from _split_checks(report, split)
    yield from _item_checks(report.items)
    for name, files in report.numbers.items():
        file, moments = next(iter(files.items()))
        text = f"{file}: numeric feature {name} is {moments.most:g} everywhere: it says nothing"
        yield text, moments.count > 0 and moments.deviation == 0, 0, inf


def _split_checks(report: DatasetReport, split: str) -> Iterator[_Check]:
    facts, train = report.splits[split], report.splits["train"]
    rows = facts.rows
    yield f"{split}: no rows", not rows, inf, 0
    if not rows:
        return

    def share(part: int, what: str) -> tuple[str, float]:
        return _share(split, part, rows, what)

    unknown, repeats = facts.no_target + facts.unlisted, facts.clicked_repeats
    yield *share(facts.empty_histories, "histories are empty"), _MOST, MAX_EMPTY_HISTORIES
    yield *share(unknown, "targets are not in item_info"), 0, MAX_UNKNOWN_TARGETS
    yield *share(facts.duplicates, "rows repeat an earlier row"), _SOME, inf
    if facts.clicks is not None and repeats is not None and facts.contradictory is not None:
        others = rows - facts.clicks
        clicked, other = facts.clicks / rows, others / rows
        yield f"{split}: all labels are {clicked:.0f}", clicked * other == 0, inf, 0
        what = "rows are contradicted by one with the other label"
        yield *share(facts.contradictory, what), _SOME, MAX_CONTRADICTORY
        seen = repeats / max(1, facts.clicks), (facts.repeats - repeats) / max(1, others)
        gap = abs(seen[0] - seen[1])
        text = f"{split}: the history holds the target in {seen[0]:.2%} of the clicked rows "
        text += f"and in {seen[1]:.2%} of the others, a difference of {gap:.2%}"
        yield text, gap, _MOST, MAX_REPEAT_GAP
        base = (train.clicks or 0) / max(1, train.rows)
        odds = [clicked * (1 - base), base * other]
        text = f"{split}: click rate {clicked:.2%}, but {base:.2%} in train"
        yield text, max(odds) / max(min(odds), 1e-12) if any(odds) else 1, _ODDS, inf
    if facts.cold_items is not None:
        yield *share(facts.cold_items, "targets are not in train"), _MOST, inf
    for earlier, copied in facts.copied.items():
        # Without users, short histories are equal by chance; and what valid and test share
        # spoils no training.
        leak = earlier == "train" and report.user_column is not None
        what = f"rows are copies of {earlier} rows"
        yield *share(copied, what), 0, MAX_COPIED_ROWS if leak else inf
        what = f"rows have user, target and history of a {earlier} row"
        yield *share(facts.also_in[earlier], what), _SOME, inf


def _item_checks(items: ItemFacts) -> Iterator[_Check]:
    def share(part: int, what: str) -> tuple[str, float]:
        return _share("item_info", part, max(1, items.items), what)

    yield "item_info: no items", not items.items, inf, 0
    yield *share(items.repeated, "items are described twice"), inf, 0
    yield *share(items.unused, "items are in no split"), _MOST, inf
    for name, part in items.without.items():
        is_vector = name in items.same_vector
        limits = (_SOME, MAX_WITHOUT_VECTOR) if is_vector else (_MOST, inf)
        yield *share(part, f"items have no {name}"), *limits
    for name, part in items.same_vector.items():
        yield *share(part, f"items share their {name}"), _SOME, inf


def _share(where: str, part: int, whole: int, what: str) -> tuple[str, float]:
    return f"{where}: {part:,} of {whole:,} {what} ({part / whole:.2%})", part / whole


def unsound(report: DatasetReport) -> list[str]:
    """Reasons why training on the data, or judging a model by it, would be unsound."""
    return [
        text if limit == 0 else f"{text}; expected at most {limit:.0%}"
        for text, value, _, limit in _checks(report)
        if value > limit
    ]


def doubtful(report: DatasetReport) -> list[str]:
    """What deserves a look, but does not forbid training."""
    return [text for text, value, low, high in _checks(report) if low < value <= high]


def _part(part: int | None, whole: int) -> str:
    return "-" if part is None else f"{part:,} ({part / max(1, whole):.2%})"


_LINES: dict[str, Callable[[SplitFacts], str]] = {
    "rows": lambda s: f"{s.rows:,}",
    "clicked": lambda s: _part(s.clicks, s.rows),
    "users": lambda s: "-" if s.users is None else f"{s.users:,}",
    "target items": lambda s: f"{s.items:,}",
    "history length: mean": lambda s: f"{s.history_mean:.2f}",
    "history length: quartiles": lambda s: " ".join(f"{q:g}" for q in s.history_quartiles),
    "history length: longest": lambda s: f"{s.history_max:,}",
    "empty histories": lambda s: _part(s.empty_histories, s.rows),
    "target in its own history": lambda s: _part(s.repeats, s.rows),
    "  among clicked rows": lambda s: _part(s.clicked_repeats, s.clicks or 0),
    "rows that repeat an earlier one": lambda s: _part(s.duplicates, s.rows),
    "rows contradicted by another": lambda s: _part(s.contradictory, s.rows),
    "rows without a target": lambda s: _part(s.no_target, s.rows),
    "targets not in item_info": lambda s: _part(s.unlisted, s.rows),
    "targets not in train (cold)": lambda s: _part(s.cold_items, s.rows),
    "rows of users not in train": lambda s: _part(s.cold_users, s.rows),
}


def format_report(report: DatasetReport) -> str:
    """The report as aligned text, with what is unsound or doubtful at the end."""
    splits, items = report.splits, report.items
    table = [[report.dataset_id, *splits]]
    table += [[label, *map(text, splits.values())] for label, text in _LINES.items()]
    for earlier in list(splits)[:-1]:
        shared = [_part(s.also_in.get(earlier), s.rows) for s in splits.values()]
        copied = [_part(s.copied.get(earlier), s.rows) for s in splits.values()]
        table.append([f"user, target, history in {earlier}", *shared])
        table.append(["  and all other inputs", *copied])
    about = {"items in item_info": f"{items.items:,}"}
    about["items described twice"] = _part(items.repeated, items.items)
    about["items in no split"] = _part(items.unused, items.items)
    about |= {f"items without {n}": _part(k, items.items) for n, k in items.without.items()}
    about |= {f"items that share {n}": _part(k, items.items) for n, k in items.same_vector.items()}
    table += [[label, text] for label, text in about.items()]
    widths = [max(len(row[k]) for row in table if k < len(row)) for k in range(len(table[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in table
    ]
    for name, files in report.numbers.items():
        for file, m in files.items():
            text = f"min {m.least:.10g}, max {m.most:.10g}, mean {m.mean:.10g}"
            lines.append(f"number {name} in {file}: {text}, deviation {m.deviation:.6g}")
    lines += [f"unsound: {text}" for text in unsound(report)]
    lines += [f"look at: {text}" for text in doubtful(report)]
    return "\n".join(line.rstrip() for line in lines)


def draw_report(report: DatasetReport, path: Path) -> None:
    """Draw history lengths, item popularity and click rate by history length to a PNG file."""
    # Not at the top: drawing is the last thing the command does.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.6), layout="constrained")
    figure.suptitle(report.dataset_id)
    lengths, popularity, clicks = figure.subplots(1, 3)
    for split, facts in report.splits.items():
        shares = [count / facts.rows for count, _ in facts.lengths.values()]
        lengths.plot(list(facts.lengths), shares, marker=".", label=split)
        at_least = pl.Series(facts.popularity.values(), dtype=pl.Int64).cum_sum(reverse=True)
        popularity.loglog(list(facts.popularity), at_least.to_list(), marker=".", label=split)
        if facts.clicks is not None:
            # 0, 1, 2, 3-4, 5-8, ...: single long histories are too rare for a rate.
            bins: dict[int, tuple[int, int]] = {}
            for length, (count, clicked) in facts.lengths.items():
                top = length if length < 2 else 1 << (length - 1).bit_length()
                bins[top] = bins.get(top, (0, 0))[0] + count, bins.get(top, (0, 0))[1] + clicked
            rates = [clicked / count for count, clicked in bins.values()]
            clicks.plot(list(bins), rates, marker="o", label=split)
    lengths.set(title="history length", xlabel="items", ylabel="share of rows")
    popularity.set(title="popularity", xlabel="times a target, at least", ylabel="items")
    clicks.set(title="click rate", xlabel="history length, up to", ylabel="share of rows")
    lengths.set_yscale("log")  # the tail is what max_len cuts
    clicks.set_ylim(0, 1)
    clicks.set_xscale("symlog", base=2, linthresh=1)
    clicks.set_xlim(left=-0.2)
    for axes in (lengths, popularity, clicks):
        axes.grid(alpha=0.3)
        axes.legend()
    with write_aside(path) as partial:
        figure.savefig(partial, dpi=120)
