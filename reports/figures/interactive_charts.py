"""Charts as plotly specifications; see `interactive` for how colours and names are written."""

from __future__ import annotations

import html
from typing import Any

from gtvbench.reports.figures.charts import Axis, Chart, Series
from gtvbench.reports.figures.interactive import base_layout, clear
from gtvbench.reports.text.addresses import case_link


def chart(figure: Chart) -> dict[str, Any]:
    """A chart as {id, data, layout}; points that have a case carry it, so that a click can open its page."""
    layout = base_layout(figure.height, {"l": 52, "r": 12, "t": 12, "b": 46})
    layout["xaxis"] = _axis(figure.x)
    layout["yaxis"] = _axis(figure.y)
    if any(s.legend for s in figure.series):
        layout["showlegend"] = True
        layout["legend"] = {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"}
        layout["legend"]["font"] = {"size": 10}  # the longest name just fits on a page of 320 px
        layout["margin"]["t"] = 18 + 20 * sum(s.legend for s in figure.series)
        layout["legend"]["entrywidthmode"], layout["legend"]["entrywidth"] = "fraction", 1.0
    layout["shapes"] = [_rule(rule.axis, rule.at, rule.dash) for rule in figure.rules]
    layout["annotations"] = [
        {
            "xref": "paper" if rule.axis == "y" else "x", "yref": "y" if rule.axis == "y" else "paper",
            "x": 1 if rule.axis == "y" else rule.at, "y": rule.at if rule.axis == "y" else 1, "showarrow": False,
            "xanchor": "right", "yanchor": "bottom", "text": html.escape(rule.label),
            "font": {"size": 11, "color": "@faint"},
        }
        for rule in figure.rules
        if rule.label
    ]  # fmt: skip
    return {"id": figure.id, "data": [trace for s in figure.series for trace in _traces(s)], "layout": layout}


def _axis(axis: Axis) -> dict[str, Any]:
    found: dict[str, Any] = {"title": {"text": html.escape(axis.title), "standoff": 6}, "gridcolor": "@grid"}
    found |= {"zeroline": False, "fixedrange": True}
    if axis.log:
        found["type"] = "log"
    if axis.range is not None:
        found["range"] = list(axis.range)
    if axis.ticks:
        found["tickvals"] = [value for value, _ in axis.ticks]
        found["ticktext"] = [text for _, text in axis.ticks]
    return found


def _rule(axis: str, at: float, dash: str) -> dict[str, Any]:
    line = {"color": "@faint", "width": 1.25, "dash": dash}
    if axis == "x":
        return {"type": "line", "xref": "x", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": line}
    return {"type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": at, "y1": at, "line": line}


def _traces(series: Series) -> list[dict[str, Any]]:
    if series.kind == "band":
        x = [*series.x, *reversed(series.x)]
        y = [*series.upper, *reversed(series.y)]
        return [
            {
                "type": "scatter", "mode": "lines", "x": x, "y": y, "fill": "toself", "hoverinfo": "skip",
                "fillcolor": clear(series.colour), "line": {"width": 0}, "showlegend": False,
            }
        ]  # fmt: skip
    trace: dict[str, Any] = {
        "type": "scatter", "name": html.escape(series.name), "x": list(series.x), "y": list(series.y),
        "showlegend": series.legend,
    }  # fmt: skip
    lined = series.kind in ("line", "steps")
    trace["mode"] = "+".join((["lines"] if lined else []) + (["markers"] if series.marker else []))
    if lined:
        trace["line"] = {"color": series.colour, "width": 2, "dash": series.dash}
        trace["line"] |= {"shape": "hv"} if series.kind == "steps" else {}
    if series.marker:
        trace["marker"] = {"symbol": series.marker, "size": 7, "color": series.colour}
        trace["marker"] |= {"opacity": 0.4, "size": 5} if series.pale else {"line": {"color": "@ink", "width": 0.5}}
    if series.words:
        trace |= {"hoverinfo": "text", "hovertext": [html.escape(words) for words in series.words]}
    elif lined and series.legend:
        trace |= {"hoverinfo": "name+x+y"}
    else:
        trace["hoverinfo"] = "skip"
    if series.cases:
        trace["customdata"] = [case_link(case) for case in series.cases]
    return [trace]
