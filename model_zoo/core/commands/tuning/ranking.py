"""From the trials' records to a ranking: by the mean over seeds, with its spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from model_zoo.core.commands.tuning.records import Record
from model_zoo.core.commands.tuning.trial import Trial


@dataclass(frozen=True)
class Outcome:
    """A trial and what became of it.

    Attributes:
        trial: The trial.
        record: Its state, with metrics if it finished.
        value: Its monitor; NaN where that is undefined or the trial has none.
    """

    trial: Trial
    record: Record
    value: float


@dataclass(frozen=True)
class Place:
    """A place in the ranking: settings, and their repetitions.

    Attributes:
        group: Id that the repetitions share.
        settings: Of the space, the seed apart.
        outcomes: One for each seed.
        status: ``finished`` if any is; else that of the first.
        mean: Of the monitor, over the repetitions that finished (or were pruned, if none did).
        spread: Its standard deviation over these; NaN for a single one.
        no_difference: Whether it is closer to the first place than the spread of either.
    """

    group: str
    settings: Mapping[str, Any]
    outcomes: Sequence[Outcome]
    status: str
    mean: float
    spread: float
    no_difference: bool = False

    @property
    def counted(self) -> list[Outcome]:
        """The repetitions that the mean is over."""
        return [o for o in self.outcomes if o.record.status == self.status]


def outcome(trial: Trial, record: Record) -> Outcome:
    """A trial with its monitor's value on valid, NaN where it has no metrics."""
    metrics = record.metrics.get("valid", {})
    value = trial.monitor(metrics) if metrics else math.nan
    return Outcome(trial, record, value)


def rank(outcomes: Sequence[Outcome]) -> list[Place]:
    """Places from best to worst.

    Finished settings come first, then pruned ones, then those whose monitor is undefined, then
    the unfinished and the failed. Equal ones stay in the order of the space.
    """
    groups: dict[str, list[Outcome]] = {}
    for entry in outcomes:
        groups.setdefault(entry.trial.group, []).append(entry)
    places = [_place(group, entries) for group, entries in groups.items()]
    if not places:
        return []
    sign = 1 if outcomes[0].trial.monitor_mode == "min" else -1
    order = {"finished": 0, "pruned": 1, "started": 3, "waiting": 3, "failed": 4}

    def key(place: Place) -> tuple[int, float]:
        level = order[place.status]
        if math.isnan(place.mean):
            # NaN is neither below nor above a number: a sort must not see it.
            return max(level, 2), 0.0
        return level, sign * place.mean

    places.sort(key=key)
    first = places[0]
    return [first, *(_compared(place, first) for place in places[1:])]


def _place(group: str, entries: Sequence[Outcome]) -> Place:
    statuses = [entry.record.status for entry in entries]
    status = next((s for s in ("finished", "pruned") if s in statuses), statuses[0])
    values = [entry.value for entry in entries if entry.record.status == status]
    mean = statistics.fmean(values)
    spread = statistics.stdev(values) if len(values) > 1 and math.isfinite(mean) else math.nan
    return Place(group, entries[0].trial.settings, entries, status, mean, spread)


def _compared(place: Place, first: Place) -> Place:
    spreads = [s for s in (place.spread, first.spread) if not math.isnan(s)]
    same = bool(spreads) and place.status == "finished" and not math.isnan(place.mean)
    same = same and abs(place.mean - first.mean) < max(spreads)
    return replace(place, no_difference=same)
