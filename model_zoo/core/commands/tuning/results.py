"""What a search leaves: ``trials.csv``, the table on the terminal, the winner's experiment."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model_zoo.core.commands.tuning.folder import as_yaml
from model_zoo.core.commands.tuning.ranking import Outcome, Place
from model_zoo.core.commands.tuning.records import evaluations
from model_zoo.core.errors import InputError
from model_zoo.core.files import write_aside

TRIALS = "trials.csv"
BEST = "best_model_config.yaml"
# What a trial that lost need not keep: its weights, and its state to go on from.
DROPPED = ("model", "state", "state.previous", "folded")


def winner(places: Sequence[Place]) -> Outcome:
    """The best repetition of the first place.

    Raises:
        InputError: If no trial finished.
    """
    if not places or places[0].status != "finished":
        raise InputError(["no trial finished; there is nothing to rank", *_failures(places)])
    best = places[0].counted
    sign = 1 if best[0].trial.monitor_mode == "min" else -1
    return min(best, key=lambda o: math.inf if math.isnan(o.value) else sign * o.value)


def write_best(folder: Path, best: Outcome) -> None:
    """The winner as an experiment, under the id that its checkpoint has."""
    with write_aside(folder / BEST) as partial:
        partial.write_text(as_yaml({best.trial.expid: best.trial.model_params}), encoding="utf-8")


def write_trials(folder: Path, places: Sequence[Place]) -> None:
    """One line for each trial, in the order of the ranking."""
    lines = [line for i, place in enumerate(places, 1) for line in _lines(i, place)]
    names = list(dict.fromkeys(name for line in lines for name in line))
    with (
        write_aside(folder / TRIALS) as partial,
        open(partial, "w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(lines)


def _lines(rank: int, place: Place) -> list[dict[str, Any]]:
    lines = []
    for entry in place.outcomes:
        record, trial = entry.record, entry.trial
        shown: dict[str, Any] = {
            "rank": rank,
            "trial": trial.expid,
            "status": record.status,
            **{key: text(value) for key, value in place.settings.items()},
            **({} if trial.seed is None else {"seed": trial.seed}),
            "mean": place.mean,
            "spread": place.spread,
            "no_difference": place.no_difference,
        }
        for split, metrics in record.metrics.items():
            shown |= {f"{split} {name}": value for name, value in metrics.items()}
        shown |= {
            "epochs": last_epoch(entry),
            "seconds": round(record.seconds, 1),
            "device": record.device,
            "failures": record.attempts,
            "error": "\n".join(record.error),
        }
        lines.append(shown)
    return lines


def text(value: Any) -> str:
    """A setting's value, as YAML would have it in a line."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def last_epoch(entry: Outcome) -> float:
    """How many epochs the trial's last evaluation came after."""
    seen = evaluations(entry.trial)
    return round(seen[-1]["epoch"], 2) if seen else 0.0


def ranked_table(places: Sequence[Place], keys: Sequence[str]) -> str:
    """The ranking as text.

    Args:
        places: In order.
        keys: The settings that differ; each is a column.
    """
    rows = [_row(i, place, keys) for i, place in enumerate(places, 1)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = [names, *([row.get(name, "") for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
    if any(place.no_difference for place in places):
        lines.append("= : no difference from the first, which is closer than the seeds' spread")
    return "\n".join(lines)


def _row(rank: int, place: Place, keys: Sequence[str]) -> dict[str, str]:
    repeated = place.outcomes[0].trial.seed is not None
    row = {"rank": f"{rank}{' =' if place.no_difference else ''}"}
    row["trial"] = place.group if repeated else place.outcomes[0].trial.expid
    row |= {key: text(place.settings[key]) for key in keys if key in place.settings}
    notes = []
    if place.status in ("finished", "pruned"):
        row |= mean_metrics(place)
        if not math.isnan(place.spread):
            row["spread"] = f"{place.spread:.6f}"
        if repeated:
            row["seeds"] = f"{len(place.counted)} of {len(place.outcomes)}"
    if place.status == "pruned":
        notes.append(f"stopped at epoch {last_epoch(place.outcomes[0]):g}")
    if place.status in ("waiting", "started"):
        notes.append("not finished")
    failed = [o.record.error for o in place.outcomes if o.record.status == "failed"]
    notes += [f"failed: {error[-1]}" for error in failed[:1]]
    return row | ({"note": "; ".join(notes)} if notes else {})


def mean_metrics(place: Place) -> dict[str, str]:
    """Valid metrics, over the repetitions that count."""
    metrics: list[Mapping[str, float]] = [o.record.metrics["valid"] for o in place.counted]
    return {
        name: f"{sum(m[name] for m in metrics) / len(metrics):.6f}"
        for name in metrics[0]
        if all(name in m for m in metrics)
    }


def drop_losers(places: Sequence[Place], keep: int) -> None:
    """Remove checkpoints and states of all complete settings but the best ``keep``."""
    done = ("finished", "pruned")
    complete = [p for p in places if all(o.record.status in done for o in p.outcomes)]
    for place in complete[keep:]:
        for entry in place.outcomes:
            for kind in DROPPED:
                path = entry.trial.place.with_name(f"{entry.trial.expid}.{kind}")
                path.unlink(missing_ok=True)


def _failures(places: Sequence[Place]) -> list[str]:
    failed = [o for place in places for o in place.outcomes if o.record.status == "failed"]
    return [f"{o.trial.expid} ({o.trial.text()}) failed: {o.record.error[-1]}" for o in failed]
