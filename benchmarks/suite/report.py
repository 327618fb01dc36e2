"""From a suite's lines to tables in Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.suite.plan import BEST_PEER, Suite
from benchmarks.suite.store import Line, best_trial

METRICS = ("AUC", "logloss", "gAUC", "avgAUC")


@dataclass
class Result:
    """The seeds of one row on one data set.

    Attributes:
        name: The row.
        runs: Finished runs by seed, all with the same settings.
        failed: The others.
        trials: Trials of its search, finished or not.
    """

    name: str
    runs: dict[int, Line]
    failed: list[Line] = field(default_factory=list)
    trials: int = 0

    def values(self, metric: str) -> dict[int, float]:
        """A metric by seed."""
        return {
            seed: float(line["metrics"][metric])
            for seed, line in self.runs.items()
            if metric in line["metrics"]
        }

    def mean(self, metric: str = "AUC") -> float:
        values = self.values(metric).values()
        return statistics.fmean(values) if values else math.nan


def results_of(suite: Suite, lines: Sequence[Line], dataset: str) -> list[Result]:
    """The rows of a data set, best first, those without a finished run last.

    Of a row that was run with several settings the last one's runs count.
    """
    results = []
    for name in suite.rows:
        mine = [line for line in lines if (line["dataset"], line["name"]) == (dataset, name)]
        searched = [line for line in mine if line["phase"] == "search"]
        seeds = [line for line in mine if line["phase"] == "seeds"]
        if not mine:
            continue
        if seeds:
            last = digest(seeds[-1])
            seeds = [line for line in seeds if digest(line) == last]
        results.append(
            Result(
                name,
                {line["seed"]: line for line in seeds if line["status"] == "finished"},
                [line for line in [*searched, *seeds] if line["status"] == "failed"],
                len(searched),
            )
        )
    return sorted(results, key=lambda result: -result.mean() if result.runs else math.inf)


def digest(line: Line) -> str:
    """What runs with the same settings have in common."""
    return str(line["key"]).rpartition("/")[2]


def reference_of(suite: Suite, results: Sequence[Result]) -> Result | None:
    """The row that all are compared with; ``None`` if it has not run."""
    for result in results:  # best first
        is_peer = not suite.rows[result.name].own
        wanted = is_peer if suite.compare_with == BEST_PEER else result.name == suite.compare_with
        if wanted and result.runs:
            return result
    return None


def paired_difference(
    result: Result, reference: Result, metric: str = "AUC"
) -> tuple[float, float, int]:
    """Mean difference over the seeds that both have, its standard error, and their number.

    The standard error is nan for a single seed.
    """
    mine, other = result.values(metric), reference.values(metric)
    differences = [mine[seed] - other[seed] for seed in mine if seed in other]
    if not differences:
        return math.nan, math.nan, 0
    error = math.nan
    if len(differences) > 1:
        error = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.fmean(differences), error, len(differences)


def report(name: str, suite: Suite, lines: Sequence[Line]) -> str:
    """The whole report of a suite, as Markdown."""
    parts = [f"# Suite `{name}`", _made_with(lines)]
    for dataset in dict.fromkeys(line["dataset"] for line in lines):
        results = results_of(suite, lines, dataset)
        parts += [f"## {dataset}", _table(suite, results)]
        if any(result.trials for result in results):
            parts += ["Chosen by the search:", _chosen(lines, dataset, results)]
        failed = [line for result in results for line in result.failed]
        if failed:
            parts += ["Failed:", "\n".join(_failure(line) for line in failed)]
        commands = [
            f"{result.name}: {next(iter(result.runs.values()))['command']}"
            for result in results
            if result.runs
        ]
        parts += ["Commands of one seed each:", "```text\n" + "\n".join(commands) + "\n```"]
    return "\n\n".join(parts) + "\n"


def _made_with(lines: Sequence[Line]) -> str:
    """What the figures are, and with which versions, when and where they were made."""

    def all_of(field: str) -> str:
        return ", ".join(sorted({str(line[field]) for line in lines}))

    machines = ", ".join(sorted({str(line.get("gpu") or line["cpu"]) for line in lines}))
    dates = sorted(str(line["date"])[:10] for line in lines)
    period = " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "nothing has run yet"
    return (
        "Metrics on valid at the best epoch, mean ± standard deviation over the seeds; differences "
        "of AUC are paired by seed, ± their standard error over seeds, without that of valid's "
        "rows. gAUC weighs each user by rows, avgAUC each alike. rows/s: train rows "
        "times epochs over seconds of training, evaluations "
        f"included. {period}; Python {all_of('python')}, torch {all_of('torch')}, FuxiCTR "
        f"{all_of('fuxictr')}; {machines}."
    )


def _table(suite: Suite, results: Sequence[Result]) -> str:
    reference = reference_of(suite, results)
    against = "difference" if reference is None else f"against {reference.name}"
    rows = [
        ["model", *METRICS, against, "best epoch", "epochs", "rows/s", "parameters", "seeds"],
        ["---"] * 11,
    ]
    for result in results:
        cells = [_mean_and_spread(list(result.values(metric).values())) for metric in METRICS]
        rows.append([result.name, *cells, _difference(result, reference), *_costs(result)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _mean_and_spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{spread}"


def _difference(result: Result, reference: Result | None) -> str:
    if reference is None or result is reference:
        return "–"
    mean, error, count = paired_difference(result, reference)
    if not count:
        return "–"
    return f"{mean:+.4f}" + ("" if math.isnan(error) else f" ± {error:.4f}")


def _costs(result: Result) -> list[str]:
    def mean_of(field: str, form: str) -> str:
        values = [line[field] for line in result.runs.values() if line.get(field) is not None]
        return format(statistics.fmean(values), form) if values else "–"

    failed = sum(line["phase"] == "seeds" for line in result.failed)
    count = f"{len(result.runs)}" + (f", {failed} failed" if failed else "")
    rate = mean_of("rows_per_s", ",.0f")
    if any(line.get("gpu") for line in result.runs.values()):
        rate += " (GPU)"  # not to be compared with a CPU's
    epochs = [mean_of(field, ".1f") for field in ("best_epoch", "epochs")]
    return [*epochs, rate, mean_of("parameters", ",.0f"), count]


def _chosen(lines: Sequence[Line], dataset: str, results: Sequence[Result]) -> str:
    rows = [["model", "trials", "AUC of the best", "its settings"], ["---"] * 4]
    for result in results:
        best = best_trial(lines, dataset, result.name)
        if best is not None:
            settings = ", ".join(f"`{text}`" for text in _varied(lines, best))
            score = f"{best['metrics']['AUC']:.4f}"
            rows.append([result.name, str(result.trials), score, settings or "–"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _varied(lines: Sequence[Line], best: Line) -> list[str]:
    """The settings of a trial that not all trials of its row have."""
    trials = [
        set(line["settings"])
        for line in lines
        if all(line[name] == best[name] for name in ("dataset", "name", "phase"))
    ]
    shared = set.intersection(*trials)
    return [text for text in best["settings"] if text not in shared]


def _failure(line: Mapping[str, Any]) -> str:
    error = str(line["error"]).replace("`", "'")
    return f"- {line['name']}, {line['phase']}, seed {line['seed']}: `{error}`"
