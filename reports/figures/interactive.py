"""Figures as plotly specifications: plain data, drawn in the browser by the inlined library.

Colours that follow the page's theme are written @ink, @faint, @grid and @paper; the page's script fills them in.
plotly reads a little HTML in its texts, so names are escaped here as well.
"""

from __future__ import annotations

import html
from typing import Any

from gtvbench.reports.figures.violins import BOTTOM, HALF, SINK, TOP, Panel, Row
from gtvbench.reports.text.addresses import case_link

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def base_layout(height: int, margin: dict[str, int]) -> dict[str, Any]:
    """What every figure's layout has in common: no toolbar's modes, transparent ground, the theme's colours."""
    return {
        "height": height,
        "margin": margin,
        "showlegend": False,
        "dragmode": False,
        "hovermode": "closest",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": _FONT, "size": 12, "color": "@ink"},
        "hoverlabel": {"bgcolor": "@paper", "bordercolor": "@faint", "font": {"color": "@ink"}},
    }


def violins(panel: Panel) -> dict[str, Any]:
    """A violin panel as {id, data, layout}."""
    data: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    for index, row in enumerate(panel.rows):
        data += _row_traces(row, -float(index))
        place = {"xref": "paper", "x": 0, "xanchor": "left", "yanchor": "top", "showarrow": False}
        place |= {"align": "left", "bgcolor": "@paper", "borderpad": 0}
        notes.append({**place, "y": 0.5 - index, "text": f"<b>{html.escape(row.label)}</b>"})
        notes.append(
            {
                **place,
                "y": 0.5 - index,
                "yshift": -15,
                "text": html.escape(row.note),
                "font": {"size": 11, "color": "@faint"},
            }
        )
    layout = base_layout(panel.height, {"l": 10, "r": 10, "t": TOP, "b": BOTTOM})
    layout["annotations"] = notes
    layout["xaxis"] = {
        "range": [-0.02 * panel.end, 1.02 * panel.end],
        "tickvals": [value for value, _ in panel.ticks],
        "ticktext": [text for _, text in panel.ticks],
        "title": {"text": panel.axis, "standoff": 6},
        "gridcolor": "@grid",
        "zeroline": False,
        "fixedrange": True,
    }
    layout["yaxis"] = {"range": [0.5 - len(panel.rows), 0.5], "visible": False, "fixedrange": True}
    if panel.gutter is not None:
        layout["shapes"] = [
            {
                "type": "rect", "xref": "x", "yref": "paper", "x0": panel.gutter, "x1": panel.end, "y0": 0, "y1": 1,
                "fillcolor": "@grid", "opacity": 0.45, "line": {"width": 0}, "layer": "below",
            }
        ]  # fmt: skip
    # Filled in by the page's script: the line through one case's marks.
    thread = {"type": "scatter", "mode": "lines", "name": "thread", "hoverinfo": "skip", "x": [], "y": []}
    data.append({**thread, "line": {"color": "@ink", "width": 1}})
    return {"id": panel.id, "data": data, "layout": layout}


def _row_traces(row: Row, middle: float) -> list[dict[str, Any]]:
    centre = middle - SINK
    silent = {"type": "scatter", "hoverinfo": "skip", "mode": "lines"}
    traces: list[dict[str, Any]] = []
    if row.outline:
        xs = [x for x, _ in row.outline]
        above = [round(centre + HALF * h, 4) for _, h in row.outline]
        below = [round(centre - HALF * h, 4) for _, h in row.outline]
        traces.append(
            {
                **silent, "x": xs + xs[::-1] + xs[:1], "y": above + below[::-1] + above[:1], "fill": "toself",
                "fillcolor": clear(row.colour), "line": {"color": row.colour, "width": 1.25},
            }
        )  # fmt: skip
    low, median, high = row.quartiles
    upright = [round(centre - 0.14, 4), round(centre + 0.14, 4)]
    traces.append({**silent, "x": [low, high], "y": [centre, centre], "line": {"color": "@ink", "width": 3}})
    traces.append({**silent, "x": [median, median], "y": upright, "line": {"color": "@ink", "width": 2.5}})
    if row.mean is not None:
        traces.append(
            {
                "type": "scatter", "mode": "markers", "hoverinfo": "skip", "x": [row.mean], "y": [centre],
                "marker": {"symbol": "diamond", "size": 8, "color": "@paper", "line": {"color": "@ink", "width": 1.5}},
            }
        )  # fmt: skip
    for failed in (False, True):
        points = [p for p in row.points if p.failed == failed]
        if not points:
            continue
        marker: dict[str, Any] = {"symbol": row.marker, "size": row.marker_size, "color": row.colour, "opacity": 0.9}
        marker["line"] = {"color": "@paper", "width": 0.75}
        if failed:
            marker = {"symbol": "x-thin", "size": 8, "line": {"color": "@ink", "width": 1.75}}
        traces.append(
            {
                "type": "scatter", "mode": "markers", "cliponaxis": False, "hoverinfo": "text", "marker": marker,
                "x": [p.x for p in points], "y": [round(centre + p.offset, 4) for p in points],
                "hovertext": [f"{html.escape(row.label)}<br>{html.escape(p.words)}" for p in points],
                "customdata": [case_link(p.case) for p in points],
            }
        )  # fmt: skip
    return traces


def clear(colour: str) -> str:
    """A colour (#rrggbb) as a light, transparent filling."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.22)"
