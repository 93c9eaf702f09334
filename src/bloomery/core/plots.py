"""The report's pictures, as SVG text that stands inside the page: curves, funnel bars, intervals.

Matplotlib draws; text stays text (searchable, small), ids are salted so that equal data give equal bytes.
"""

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: matplotlib's figures and axes are untyped

import matplotlib as mpl
from matplotlib.figure import Figure

PALETTE = ("#b4441f", "#2f5d8a", "#3f7d4e", "#8a5a9e", "#8a7a2f", "#555555")
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.grid": True,
    "grid.color": "#e6e2dc",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "axes.labelcolor": "#333333",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "bloomery",
}

MOST_COLUMNS = 5
"""Of a legend above a plot; more names stand in a column beside it."""

Series = Sequence[tuple[float, float]]


class Panel(NamedTuple):
    """One of several plots beside each other: a title, named points (x, (value, low, high)), and a level to compare them with."""

    title: str
    points: Mapping[str, Sequence[tuple[float, tuple[float, float, float]]]]
    level: float | None = None


def draw_curves(
    series: Mapping[str, Series],
    *,
    x_label: str,
    y_label: str,
    width_inches: float = 6.4,
    height_inches: float = 3.1,
    marks: Mapping[str, Sequence[float]] | None = None,
    log_x: bool = False,
    dots: Mapping[str, Series] | None = None,
) -> str:
    """Lines over one x axis; a series of few points also shows its points. `marks` are places on that axis, by what is there;
    `dots` are points beside the line of the same name, in its colour.
    """
    with mpl.rc_context(STYLE):
        figure, axes = _canvas(width_inches, height_inches)
        for style, (name, places) in zip((":", "--"), (marks or {}).items(), strict=False):
            for i, place in enumerate(places):
                axes.axvline(place, color="#888888", linewidth=1.0, linestyle=style, label=None if i else name)
        for color, (name, points) in zip(_colors(len(series)), series.items(), strict=True):
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=color, label=name, linewidth=1.6, marker="o" if len(points) <= 30 else "", markersize=3.5)
            for dot in (dots or {}).get(name, ()):
                axes.plot(*dot, "o", color=color, markersize=5)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if log_x:
            axes.set_xscale("log")
            low, high = axes.get_xlim()
            labelled = ("2", "5") if high < 100 * low else ()  # over more than two decades they would stand in one another
            axes.xaxis.set_minor_formatter(lambda value, _: _short(value) if f"{value:.0e}"[0] in labelled else "")
        axes.xaxis.set_major_formatter(lambda value, _: _short(value))
        if len(series) + sum(map(bool, (marks or {}).values())) > 1:
            axes.legend()
        return _svg(figure)


def draw_funnel(steps: Sequence[tuple[str, float]], *, unit: str) -> str:
    """Horizontal bars, one a step from top to bottom, each with its value and its share of the first."""
    with mpl.rc_context(STYLE):
        figure, axes = _canvas(6.4, 0.55 + 0.36 * len(steps))
        names = [name for name, _ in steps]
        values = [value for _, value in steps]
        rows = range(len(steps))
        axes.barh(rows, values, color=PALETTE[0], height=0.62)
        top = max(values, default=1.0) or 1.0
        for row, value in zip(rows, values, strict=True):
            share = f"  ({100 * value / values[0]:.1f} %)" if values[0] else ""
            axes.text(value + 0.01 * top, row, f"{_short(value)}{share}", va="center", fontsize=9.5, color="#333333")
        axes.set_yticks(list(rows), names)
        axes.set_xlim(0, 1.28 * top)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.set_title(unit, loc="left", fontsize=10.5, color="#555555")
        return _svg(figure)


def draw_intervals(
    groups: Sequence[str],
    models: Sequence[str],
    values: Mapping[str, Sequence[tuple[float, float, float] | None]],
    *,
    x_label: str,
    marks: Sequence[float | None] = (),
    mark_label: str = "",
) -> str:
    """Dots with their 95 % intervals: one row a group, one colour a model; `values[model][i]` = (value, low, high) of group i.

    `marks[i]` is a value to compare group i with, a short grey line.
    """
    with mpl.rc_context(STYLE):
        figure, axes = _canvas(6.4, 0.9 + 0.34 * len(groups) * max(1.0, 0.45 * len(models)))
        for m, (color, model) in enumerate(zip(_colors(len(models)), models, strict=True)):
            offset = (m - (len(models) - 1) / 2) * 0.22
            rows = [(g + offset, v) for g, v in enumerate(values[model]) if v is not None]
            for y, (value, low, high) in rows:
                axes.plot([low, high], [y, y], color=color, linewidth=1.6, solid_capstyle="butt")
                axes.plot([value], [y], "o", color=color, markersize=5, label=model if y == rows[0][0] else None)
        marked = [(row, mark) for row, mark in enumerate(marks) if mark is not None]
        for row, mark in marked:
            label = mark_label if (row, mark) == marked[0] else None
            axes.plot([mark, mark], [row - 0.36, row + 0.36], color="#999999", linewidth=1.4, zorder=1, label=label)
        axes.set_yticks(range(len(groups)), groups)
        axes.invert_yaxis()
        axes.set_xlabel(x_label)
        columns = len(models) + bool(marked)
        if columns > MOST_COLUMNS:
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
        else:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.0 + 0.9 / (1 + len(groups) * len(models) * 0.3)), ncols=columns)
        return _svg(figure)


def draw_differences(
    groups: Sequence[str],
    values: Mapping[str, Sequence[tuple[tuple[float, float, float], Sequence[float]]]],
    *,
    x_label: str,
) -> str:
    """Differences around a line at zero: one row a group, one colour a model; `values[model][i]` = ((value, low, high) of group i,
    its single measurements), the latter as small dots.
    """
    with mpl.rc_context(STYLE):
        figure, axes = _canvas(7.4, 1.3 + 0.4 * len(groups) * max(1.0, 0.55 * len(values)))
        axes.axvline(0, color="#888888", linewidth=1.2, zorder=1)
        for m, (color, (model, rows)) in enumerate(zip(_colors(len(values)), values.items(), strict=True)):
            offset = (m - (len(values) - 1) / 2) * min(0.26, 0.8 / len(values))
            for group, ((value, low, high), single) in enumerate(rows):
                y = group + offset
                axes.plot([low, high], [y, y], color=color, linewidth=1.6, solid_capstyle="butt", zorder=2)
                axes.plot(single, [y - 0.1] * len(single), "o", color=color, markersize=3.5, alpha=0.5, markeredgewidth=0, zorder=2)
                axes.plot([value], [y], "o", color=color, markersize=5.5, label=None if group else model, zorder=3)
        axes.set_yticks(range(len(groups)), [textwrap.fill(group, 34) for group in groups])
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_xlabel(x_label)
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(values), borderaxespad=0.2)
        return _svg(figure)


def draw_points(
    points: Mapping[str, Mapping[str, tuple[float, float, float]]],
    *,
    lines: Mapping[str, Series],
    x_label: str,
    y_label: str,
    height_inches: float = 4.2,
) -> str:
    """Named points, {"x": (value, low, high), "y": (value, low, high)} each, with their intervals, among grey lines to compare with."""
    with mpl.rc_context(STYLE):
        figure, axes = _canvas(7.4, height_inches)
        for style, (name, series) in zip(("--", ":", "-.", "-"), lines.items(), strict=False):
            axes.plot(*zip(*series, strict=True), color="#888888", linestyle=style, linewidth=1.3, label=name, zorder=1)
        markers = "osD^vP*XhpdH<>"
        for i, (name, at) in enumerate(points.items()):
            (x, x_low, x_high), (y, y_low, y_high) = at["x"], at["y"]
            color = PALETTE[i % len(PALETTE)]
            axes.plot([x_low, x_high], [y, y], color=color, linewidth=1.2, zorder=2)
            axes.plot([x, x], [y_low, y_high], color=color, linewidth=1.2, zorder=2)
            axes.plot([x], [y], markers[i % len(markers)], color=color, markersize=6.5, label=name, zorder=3)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
        return _svg(figure)


def draw_panels(panels: Sequence[Panel], *, x_label: str, level_label: str, width_inches: float = 9.6) -> str:
    """Plots side by side over the same logarithmic axis, points with their intervals; series of one name have one colour in all."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width_inches, 3.0), layout="constrained")
        handles: dict[str, Any] = {}
        for panel, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
            if panel.level is not None:
                handles[level_label] = axes.axhline(panel.level, color="#888888", linestyle="--", linewidth=1.2, zorder=1)
            for color, marker, (name, points) in zip(PALETTE[1::-1], "os", panel.points.items(), strict=False):
                for x, (_, low, high) in points:
                    axes.plot([x, x], [low, high], color=color, linewidth=1.2, zorder=2)
                x_values, values = [x for x, _ in points], [value for _, (value, _, _) in points]
                (handles[name],) = axes.plot(x_values, values, marker, color=color, markersize=4.5, zorder=3)
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter("")  # over little more than a decade they would stand in one another
            axes.set_title(panel.title, fontsize=10, color="#333333")
            axes.set_xlabel(x_label)
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), fontsize=9)
        return _svg(figure)


def draw_agreement(
    groups: Mapping[str, Series],
    *,
    x_label: str,
    y_label: str,
    band: float = 0.0,
    band_label: str = "",
) -> str:
    """Points (measured, predicted) by group, around the line on which both are equal; `band` is how far off chance may put them."""
    with mpl.rc_context(STYLE):
        figure, axes = _canvas(6.4, 5.2)
        values = [value for points in groups.values() for point in points for value in point]
        low, high = min(values), max(values)
        low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
        if band:
            label = band_label or None
            axes.fill_between([low, high], [low - band, high - band], [low + band, high + band], color="#e6e2dc", zorder=1, label=label)
        axes.plot([low, high], [low, high], color="#888888", linewidth=1.0, zorder=2)
        for marker, color, (name, points) in zip("osD^", (PALETTE[1], PALETTE[0], PALETTE[2], PALETTE[3]), groups.items(), strict=False):
            if points:
                axes.plot(*zip(*points, strict=True), marker, color=color, markersize=6, label=name, zorder=3)
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.legend(loc="upper left")
        return _svg(figure)


def save_sweep(
    path: Path, points: Sequence[tuple[float, float]], smoothed: Series, *, marks: Mapping[str, float], x_label: str, y_label: str
) -> None:
    """Writes a picture (PNG or SVG, by the name's end) of values over a logarithmic axis, their running mean, and places on the axis."""
    with mpl.rc_context(STYLE):
        figure, axes = _canvas(7.4, 4.2)
        axes.plot(*zip(*points, strict=True), "o", color="#bbbbbb", markersize=3, label="each step")
        axes.plot(*zip(*smoothed, strict=True), color=PALETTE[0], linewidth=1.8, label="running mean")
        for style, (name, place), color in zip((":", "--", "-."), marks.items(), PALETTE[1:], strict=False):
            axes.axvline(place, color=color, linewidth=1.4, linestyle=style, label=f"{name}: {place:.2g}")
        # One step after an explosion would flatten all before it.
        top, low = max(value for _, value in smoothed), min(value for _, value in points)
        axes.set_ylim(low - 0.05 * (top - low), top + 0.1 * (top - low))
        axes.set_xscale("log")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.legend()
        figure.savefig(path, dpi=150, metadata={"Software": None} if path.suffix == ".png" else {"Date": None, "Creator": None})


def _canvas(width_inches: float, height_inches: float) -> tuple[Any, Any]:
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    return figure, figure.add_subplot()


def _colors(count: int) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(count)]


def _short(value: float) -> str:
    if 1e3 <= abs(value) < 1e5 and value == int(value):
        return f"{value:,.0f}"
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # A fluid width: the page decides, the view box keeps the proportions.
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1), count=1)
