"""The figures of a search: parallel coordinates, the monitor over a setting, learning curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from model_zoo.core.commands.tuning.ranking import Outcome, Place
from model_zoo.core.commands.tuning.records import evaluations
from model_zoo.core.commands.tuning.results import text

HIGHLIGHTED = 6  # learning curves in colour; the others are grey
TICKS = 6
AXIS_LABEL = 16  # characters of a value at an axis, which is not far from the next
LOG_FROM = 20.0  # greatest over least value, from which an axis is logarithmic
COLOURS = ("#1f5fa8", "#d1603d", "#2e8b57", "#8a4fb0", "#b8860b", "#0f8b8d")
GREY, GRID = "#b8bec6", "#e4e7eb"
LEAST_GAP = 0.1  # between ticks, of the axis


def parallel(places: Sequence[Place], keys: Sequence[str], name: str) -> Any:
    """A line for each place, through its settings to its monitor."""
    import plotly.graph_objects as go

    places = places[::-1]  # the best are drawn last, on top
    means = [place.mean for place in places]
    dimensions = [_dimension(places, key) for key in keys]
    dimensions.append({"label": name, "values": means})
    line = {"color": means, "colorscale": [[0, "#c9d6e6"], [1, COLOURS[0]]], "showscale": False}
    figure = go.Figure(go.Parcoords(dimensions=dimensions, line=line))
    # Axes need room each: on a narrow screen the plot scrolls.
    width = max(330, 110 * len(dimensions) + 110)
    figure.update_layout(**_layout(height=340), margin={"l": 60, "r": 60, "t": 50, "b": 24})
    figure.update_layout(meta={"least width": width})
    return figure


def _dimension(places: Sequence[Place], key: str) -> dict[str, Any]:
    values = [place.settings.get(key) for place in places]
    if _numeric(values):
        numbers = [float(value) for value in values]
        scaled = [math.log10(n) for n in numbers] if _is_log(numbers) else numbers
        ticks = sorted(set(zip(scaled, numbers, strict=True)))
        ticks = ticks[:: math.ceil(len(ticks) / TICKS)]
        return {
            "label": key,
            "values": scaled,
            "tickvals": [place for place, _ in ticks],
            "ticktext": [f"{number:.3g}" for _, number in ticks],
        }
    names = list(dict.fromkeys(map(text, values)))
    return {
        "label": key,
        "values": [names.index(text(value)) for value in values],
        "tickvals": list(range(len(names))),
        "ticktext": [_short(name, AXIS_LABEL) for name in names],
    }


def setting(places: Sequence[Place], key: str, name: str) -> Any:
    """The monitor over one setting, whatever the others are."""
    import plotly.graph_objects as go

    having = [place for place in places if key in place.settings or key == "model"]
    values = [place.settings.get(key) for place in having]
    numeric = _numeric(values)
    x: list[Any] = [float(v) for v in values] if numeric else [text(v) for v in values]
    spreads = [0.0 if math.isnan(place.spread) else place.spread for place in having]
    points = go.Scatter(
        x=x,
        y=[place.mean for place in having],
        mode="markers",
        marker={"size": 9, "color": COLOURS[0], "opacity": 0.75},
        error_y={"array": spreads, "visible": any(spreads), "color": GREY},
        hovertext=[place.group for place in having],
    )
    figure = go.Figure(points)
    figure.update_layout(**_layout(height=270), margin={"l": 64, "r": 14, "t": 12, "b": 48})
    log = numeric and _is_log(x)
    figure.update_xaxes(title=key, gridcolor=GRID, type="log" if log else "-", automargin=True)
    ticks = sorted(set(x)) if numeric else []
    if log or _few_and_apart(ticks):
        ticks = ticks[:: math.ceil(len(ticks) / TICKS)]
        figure.update_xaxes(tickvals=ticks, ticktext=[f"{tick:.3g}" for tick in ticks])
    if not numeric:
        names = list(dict.fromkeys(x))
        shown = [_short(name, AXIS_LABEL) for name in names]
        figure.update_xaxes(type="category", tickvals=names, ticktext=shown)
    figure.update_yaxes(title=name, gridcolor=GRID, automargin=True)
    return figure


def curves(places: Sequence[Place], keys: Sequence[str], name: str) -> Any:
    """The monitor over epochs, of all repetitions; the best are in colour."""
    import plotly.graph_objects as go

    figure = go.Figure()
    outcomes = [(i, outcome) for i, place in enumerate(places) for outcome in place.outcomes]
    for i, outcome in reversed(outcomes):  # the best are drawn last, on top
        _add_curve(figure, i, outcome, keys)
    figure.update_layout(
        **_layout(height=420),
        margin={"l": 64, "r": 14, "t": 12, "b": 48},
        legend={"orientation": "h", "y": -0.2, "x": 0, "traceorder": "reversed"},
    )
    figure.update_xaxes(title="epoch", gridcolor=GRID, rangemode="tozero")
    figure.update_yaxes(title=f"valid {name}", gridcolor=GRID, automargin=True)
    return figure


def _add_curve(figure: Any, rank: int, outcome: Outcome, keys: Sequence[str]) -> None:
    settings = outcome.trial.settings
    named = [f"{key} {text(settings[key])}" for key in keys if key in settings]
    seen = evaluations(outcome.trial)
    shown = rank < HIGHLIGHTED
    first = outcome.trial.seed is None or all(
        trace.legendgroup != str(rank) for trace in figure.data
    )
    figure.add_scatter(
        x=[row["epoch"] for row in seen],
        y=[outcome.trial.monitor(row) for row in seen],
        mode="lines+markers",
        marker={"size": 5},
        line={"color": COLOURS[rank % len(COLOURS)] if shown else GREY, "width": 2 if shown else 1},
        name=f"{rank + 1}: {_short(', '.join(named), 48)}",
        legendgroup=str(rank),
        showlegend=shown and first,
    )


def _layout(height: int) -> Mapping[str, Any]:
    font = {"family": "system-ui, sans-serif", "size": 13, "color": "#1c2733"}
    return {"template": "plotly_white", "height": height, "font": font, "autosize": True}


def _numeric(values: Sequence[Any]) -> bool:
    return bool(values) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) for v in values
    )


def _is_log(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) >= LOG_FROM


def _few_and_apart(ticks: Sequence[float]) -> bool:
    """Whether all values have room as ticks."""
    gaps = [after - before for before, after in pairwise(ticks)]
    return len(ticks) <= TICKS and min(gaps, default=0.0) > LEAST_GAP * sum(gaps)


def _short(shown: str, length: int) -> str:
    return shown if len(shown) <= length else shown[: length - 1] + "…"
