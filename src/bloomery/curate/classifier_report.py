"""The page that shows what a classifier learned: precision and recall beside the heuristic's, calibration, disagreements.

One HTML file without scripts or outside links; pictures are SVG inside it, and equal reports give equal bytes.
"""

import html
import io
import re
from collections.abc import Mapping
from typing import Any  # Any: a report's JSON values; matplotlib's figures and axes are untyped

import matplotlib as mpl
from matplotlib.figure import Figure

COLORS = {"learned": "#b4441f", "heuristic": "#2f5d8a"}
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e2dc",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "bloomery",
}
FEATURES = {"both": "n-grams and hand features", "ngrams": "n-grams", "hand": "hand features"}
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
body {{ font: 16px/1.5 Georgia, serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
svg {{ width: 100%; max-width: 34rem; height: auto; }}
table {{ border-collapse: collapse; margin: 1rem 0; font-size: 0.9rem; }}
td, th {{ padding: 0.2rem 0.7rem; text-align: left; vertical-align: top; border-bottom: 1px solid #e6e2dc; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
</style>
{body}
</html>
"""


def report_page(report: Mapping[str, Any]) -> str:
    """The HTML page of a report made by `train_classifier`."""
    counts = report["documents"]
    body = [
        f"<h1>Learned score: {html.escape(report['name'])}</h1>",
        f"<p>{report['positive']:,} positive and {report['negative']:,} negative documents; "
        f"learned from {html.escape(FEATURES[report['features']])}. "
        f"Training {counts['training']:,}, calibration {counts['calibration']:,}, measured on {counts['test']:,} ({report['split']}).</p>",
        _numbers(report),
        "<h2>Precision and recall</h2>",
        _draw_curves(report),
        "<h2>Calibration</h2>",
        _draw_reliability(report),
    ]
    for title, rows in report["disagreements"].items():
        if rows:
            body += [f"<h2>Disagreements: {html.escape(title)}</h2>", _documents(rows)]
    return PAGE.format(title=html.escape(f"Learned score: {report['name']}"), body="\n".join(body))


def _numbers(report: Mapping[str, Any]) -> str:
    rows = []
    for name in ("learned", "heuristic"):
        precision = report[name]["average_precision"]
        interval = f"{precision['value']:.4f} ({precision['low']:.4f} to {precision['high']:.4f})"
        rows.append(f"<tr><th>{name}</th><td class=number>{interval}</td><td class=number>{report[name]['auc']:.4f}</td></tr>")
    error = report["calibration_error"]
    return (
        "<table><tr><th></th><th>average precision (95 % interval)</th><th>area under ROC</th></tr>" + "".join(rows) + "</table>"
        f"<p>Share of positives: {report['base_rate']:.4f}. F1 at probability 0.5: {report['f1_at_half']:.4f}. "
        f"Expected calibration error: {error['before']:.4f} before, {error['after']:.4f} after calibration.</p>"
    )


def _draw_curves(report: Mapping[str, Any]) -> str:
    with mpl.rc_context(STYLE):
        figure, axes = _canvas()
        for name, points in report["curves"].items():
            # Steps: between two thresholds there is nothing to choose, least of all among documents of equal scores.
            curve = {"color": COLORS[name], "label": name, "linewidth": 1.6, "drawstyle": "steps-pre"}
            axes.plot([0.0, *(p[0] for p in points)], [points[0][1], *(p[1] for p in points)], **curve)
        axes.axhline(report["base_rate"], color="#999999", linewidth=0.9, linestyle=":", label="share of positives")
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01))
        axes.legend(loc="lower left")
        return _svg(figure)


def _draw_reliability(report: Mapping[str, Any]) -> str:
    with mpl.rc_context(STYLE):
        figure, axes = _canvas()
        points = report["reliability"]
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.9, linestyle=":")
        axes.plot([p[0] for p in points], [p[1] for p in points], color=COLORS["learned"], linewidth=0.8)
        most = max(p[2] for p in points)
        sizes = [8 + 120 * p[2] / most for p in points]  # the area says how many documents a dot stands for
        axes.scatter([p[0] for p in points], [p[1] for p in points], s=sizes, color=COLORS["learned"])
        axes.set(xlabel="probability given", ylabel="share that is positive", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        return _svg(figure)


def _documents(rows: list[Mapping[str, Any]]) -> str:
    lines = ["<table><tr><th>learned</th><th>heuristic</th><th>label</th><th>document</th></tr>"]
    for row in rows:
        label = "positive" if row["positive"] else "negative"
        name = html.escape(row["url"] or row["id"])
        lines.append(
            f"<tr><td class=number>{row['learned']:.3f}</td><td class=number>{row['heuristic']:.3f}</td><td>{label}</td>"
            f"<td>{name}<br>{html.escape(row['sample'])}</td></tr>"
        )
    return "\n".join([*lines, "</table>"])


def _canvas() -> tuple[Any, Any]:
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1), count=1)
