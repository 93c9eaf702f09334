"""train_relevance: example documents of a domain, and a background -> a scorer of how near a document is to the domain."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: metrics are JSON values

from bloomery.core.files import read_json, write_json
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate.relevance import RelevanceConfig, save_relevance
from bloomery.curate.relevance_training import train_relevance as count_sides


def train_relevance(
    config: RelevanceConfig, *, examples: Sequence[Path], background: Sequence[Path], out: Path, runtime: Runtime
) -> Mapping[str, Any]:
    """Fills `out` with the scorer and report.json, and returns how well it tells held-out documents apart."""
    if not (out / "scorer.json").exists():
        trained = count_sides(config, examples=examples, background=background)
        write_json(out / "report.json", trained.report)
        save_relevance(out, trained.scorer, settings=config.model_dump(mode="json"))
    report = read_json(out / "report.json")
    auc = {"auc": report["auc"]} if "auc" in report else {}
    return {"documents": sum(report["documents"].values()), **auc}


STAGE = Stage(
    name="train_relevance",
    config_type=RelevanceConfig,
    run=train_relevance,
    inputs={"examples": Slot("documents", many=True), "background": Slot("documents", many=True)},
    output="scorer",
    version=1,
)
