"""``report.html``: a search in one file that needs no network."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from model_zoo.core.commands.tuning.figures import curves, parallel, setting
from model_zoo.core.commands.tuning.ranking import Place
from model_zoo.core.commands.tuning.results import last_epoch, text
from model_zoo.core.commands.tuning.trial import Trial
from model_zoo.core.files import write_aside

REPORT = "report.html"
OPEN_ROWS = 12  # of the ranking; the others open on a click
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2733; margin: 0 auto; max-width: 1200px;
       padding: 12px 16px 40px; background: #fff; }
h1 { font-size: 1.5em; margin: .4em 0 .1em; overflow-wrap: anywhere; }
h2 { font-size: 1.15em; margin: 1.8em 0 .4em; }
p.note { color: #56616d; margin: .2em 0 .6em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 10px 6px 0; border-bottom: 1px solid #e4e7eb;
         vertical-align: top; }
th { color: #56616d; font-weight: 600; }
th:first-child, td:first-child { width: 1.8em; }
th:last-child, td:last-child { width: 25%; }
td span { display: inline-block; margin-right: 1em; }
td:last-child span { margin: 0; color: #56616d; white-space: nowrap; }
summary { cursor: pointer; padding: 8px 0; color: #1f5fa8; }
small { color: #56616d; overflow-wrap: anywhere; }
tr.best td { background: #eef5fd; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr));
         gap: 8px; }
.plots > div { min-width: 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f5f6f8; padding: 8px 10px;
      font-size: .85em; border-radius: 4px; }
"""


def can_draw() -> bool:
    return find_spec("plotly") is not None


def write_report(folder: Path, places: Sequence[Place], keys: Sequence[str], title: str) -> None:
    """Ranking, parallel coordinates, a plot for each setting, learning curves, failures.

    Args:
        folder: Where the file goes.
        places: The ranking; its first place has finished.
        keys: The settings that differ.
        title: The heading.
    """
    ranked = [place for place in places if not math.isnan(place.mean)]
    trial = places[0].outcomes[0].trial
    monitor = trial.experiment.run.monitor
    name = monitor if isinstance(monitor, str) else "monitor"
    better = "less" if trial.monitor_mode == "min" else "more"
    figures = [parallel(ranked, keys, name)] if len(ranked) > 1 and keys else []
    figures += [setting(ranked, key, name) for key in keys]
    figures.append(curves(ranked, keys, name))
    # The library itself stands in the file once, before the first figure.
    drawn = [_embed(figure, inline=i == 0) for i, figure in enumerate(figures)]
    parts = [f"<h1>{html.escape(title)}</h1>", _summary(places, name, better)]
    parts += ["<h2>Ranking</h2>", _ranking(places, keys, name)]
    if len(figures) > len(keys) + 1:
        parts += ["<h2>All settings at once</h2>", f'<div class="wide">{drawn.pop(0)}</div>']
    if keys:
        cells = "".join(f"<div>{drawn.pop(0)}</div>" for _ in keys)
        parts += ["<h2>Each setting</h2>", f'<div class="plots">{cells}</div>']
    parts += ["<h2>Learning curves</h2>", *drawn, _failures(places)]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )
    with write_aside(folder / REPORT) as partial:
        partial.write_text(page, encoding="utf-8")


def _summary(places: Sequence[Place], name: str, better: str) -> str:
    outcomes = [outcome for place in places for outcome in place.outcomes]
    counts = {
        status: sum(o.record.status == status for o in outcomes)
        for status in ("finished", "pruned", "failed", "started", "waiting")
    }
    words = {"pruned": "stopped early", "started": "begun", "waiting": "not begun"}
    told = ", ".join(f"{n} {words.get(status, status)}" for status, n in counts.items() if n)
    repeated = places[0].outcomes[0].trial.seed is not None
    spread = "; ± is the standard deviation over seeds" if repeated else ""
    return (
        f'<p class="note">{len(outcomes)} trials: {told}. Ranked by valid {html.escape(name)}, '
        f"{better} is better{spread}.</p>"
    )


def _ranking(places: Sequence[Place], keys: Sequence[str], name: str) -> str:
    head = f"<tr><th></th><th>settings</th><th>{html.escape(name)}</th></tr>"
    rows = [_row(i, place, keys) for i, place in enumerate(places, 1)]
    first = f"<table>{head}{''.join(rows[:OPEN_ROWS])}</table>"
    if len(rows) <= OPEN_ROWS:
        return first
    rest = f"<table>{''.join(rows[OPEN_ROWS:])}</table>"
    return f"{first}<details><summary>{len(rows) - OPEN_ROWS} more</summary>{rest}</details>"


def _row(rank: int, place: Place, keys: Sequence[str]) -> str:
    repeated = place.outcomes[0].trial.seed is not None
    settings = "".join(
        f"<span>{html.escape(key)} <b>{html.escape(text(place.settings[key]))}</b></span> "
        for key in keys
        if key in place.settings
    )
    label = place.group if repeated else place.outcomes[0].trial.expid
    below = " · ".join([html.escape(label), *_notes(place, repeated)])
    spread = "" if math.isnan(place.spread) else f" <span>± {place.spread:.5f}</span>"
    value = "–" if math.isnan(place.mean) else f"{place.mean:.5f}"
    return (
        f"<tr{' class=best' if rank == 1 else ''}><td>{rank}</td>"
        f"<td>{settings}<br><small>{below}</small></td><td>{value}{spread}</td></tr>"
    )


def _notes(place: Place, repeated: bool) -> list[str]:
    notes = ["no difference from the first"] if place.no_difference else []
    if place.status == "pruned":
        notes.append(f"stopped at epoch {last_epoch(place.outcomes[0]):g}")
    elif place.status != "finished":
        notes.append("failed" if place.status == "failed" else "not finished")
    elif repeated and len(place.counted) < len(place.outcomes):
        notes.append(f"{len(place.counted)} of {len(place.outcomes)} seeds")
    return notes


def _failures(places: Sequence[Place]) -> str:
    failed = [o for place in places for o in place.outcomes if o.record.status == "failed"]
    parts = [
        f"<p><b>{html.escape(_named(o.trial))}</b><br><small>{html.escape(o.trial.expid)}</small>"
        f"</p><pre>{html.escape(chr(10).join(o.record.error))}</pre>"
        for o in failed
    ]
    return "".join(["<h2>Failures</h2>", *parts]) if parts else ""


def _named(trial: Trial) -> str:
    seed = {} if trial.seed is None else {"seed": trial.seed}
    return ", ".join(f"{key} {text(value)}" for key, value in {**trial.settings, **seed}.items())


def _embed(figure: Any, *, inline: bool) -> str:
    width = (figure.layout.meta or {}).get("least width")
    drawn: str = figure.to_html(
        full_html=False,
        include_plotlyjs=inline,
        default_width="100%",
        config={"responsive": True, "displayModeBar": False},
    )
    return f'<div style="min-width: {width}px">{drawn}</div>' if width else drawn
