"""The picture of a run of `synthesize_documents`: what became of the answers, and how alike the documents are.

One SVG; equal reports give equal bytes.
"""

import io
from collections.abc import Mapping
from typing import Any  # Any: a report's JSON values; matplotlib's figures and axes are untyped

import matplotlib as mpl
from matplotlib.figure import Figure

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "bloomery",
}
KEPT, OTHER = "#b4441f", "#2f5d8a"


def draw_report(report: Mapping[str, Any]) -> str:
    """Three panels: the funnel by rule, kept shares by style and audience, similarity to the nearest neighbour. SVG text."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 3.9), layout="constrained")
        funnel, kept, nearest = figure.subplots(1, 3)
        _draw_fates(funnel, report)
        _draw_kept(kept, report)
        _draw_nearest(nearest, report)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _draw_fates(axes: Any, report: Mapping[str, Any]) -> None:
    fates = [("kept", report["kept"]), *sorted(report["dropped"].items(), key=lambda item: -item[1])]
    rows = range(len(fates))
    axes.barh(rows, [count for _, count in fates], color=[KEPT, *[OTHER] * (len(fates) - 1)], height=0.62)
    top = max(count for _, count in fates) or 1
    for row, (_, count) in zip(rows, fates, strict=True):
        axes.text(count + 0.02 * top, row, f"{count:,}", va="center", fontsize=9)
    axes.set_yticks(list(rows), [name.replace("_", " ") for name, _ in fates])
    axes.set_xlim(0, 1.25 * top)
    axes.invert_yaxis()
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_title(f"{report['asked']:,} answers", loc="left", fontsize=10.5)


def _draw_kept(axes: Any, report: Mapping[str, Any]) -> None:
    coverage = report["coverage"]
    bars = [(name, share, KEPT) for name, share in coverage["style"]["kept_fractions"].items()]
    bars += [(name, share, OTHER) for name, share in coverage["audience"]["kept_fractions"].items()]
    axes.barh(range(len(bars)), [100 * share for _, share, _ in bars], color=[color for *_, color in bars], height=0.62)
    axes.set_yticks(range(len(bars)), [name.replace("_", " ") for name, *_ in bars])
    axes.set_xlim(0, 100)
    axes.invert_yaxis()
    axes.set_xlabel("kept, %")
    axes.set_title("by style and by audience", loc="left", fontsize=10.5)


def _draw_nearest(axes: Any, report: Mapping[str, Any]) -> None:
    series = [
        ("documents to each other", report["documents"]["nearest"], KEPT),
        ("documents to seeds", report["to_seeds"], OTHER),
        ("seeds to each other", (report["seeds"] or {}).get("nearest", {"count": 0}), "#888888"),
    ]
    for name, described, color in series:
        if described["count"]:
            bins = described["histogram"]
            edges = [i / len(bins) for i in range(len(bins) + 1)]
            axes.stairs([100 * count / described["count"] for count in bins], edges, color=color, linewidth=1.6, label=name)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("similarity to the nearest (cosine of TF-IDF)")
    axes.set_ylabel("documents, %")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=9)
    axes.set_title("nearest neighbours", loc="left", fontsize=10.5)
