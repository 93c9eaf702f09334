"""train_classifier: documents that are good and documents that are not -> a scorer that says how good another one is.

The examples are two sets of documents (`good`, `bad`), or documents that carry a label (`labelled`; JSONL with `text`
and `label`), from 20 rows on. Writes the scorer, `report.json` and `report.html`, which compares the learned score with
the mission documents' heuristic on documents that the scorer was not trained on.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: metrics are JSON values

from bloomery.core.errors import ConfigError
from bloomery.core.files import read_json, write_json, write_text
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate.classifier import ClassifierConfig, save_classifier
from bloomery.curate.classifier_report import report_page
from bloomery.curate.classifier_training import gather_examples
from bloomery.curate.classifier_training import train_classifier as fit_classifier


def train_classifier(
    config: ClassifierConfig,
    *,
    good: Sequence[Path] = (),
    bad: Sequence[Path] = (),
    labelled: Sequence[Path] = (),
    out: Path,
    runtime: Runtime,
) -> Mapping[str, Any]:
    """Fills `out` with the scorer and its report, and returns the report's main numbers."""
    if bool(good) != bool(bad) or not (good or labelled):
        raise ConfigError(
            "train_classifier: connect the inputs `good` and `bad`, or `labelled`, or all three; "
            f"found {', '.join(name for name, paths in (('good', good), ('bad', bad), ('labelled', labelled)) if paths) or 'none'}"
        )
    if not (out / "scorer.json").exists():
        trained = fit_classifier(gather_examples(config, good=good, bad=bad, labelled=labelled), config)
        write_json(out / "report.json", trained.report)
        write_text(out / "report.html", report_page(trained.report))
        save_classifier(out, trained.classifier, settings=config.model_dump(mode="json"))
    report = read_json(out / "report.json")
    return {
        "documents": report["positive"] + report["negative"],
        "average_precision": report["learned"]["average_precision"]["value"],
        "average_precision_heuristic": report["heuristic"]["average_precision"]["value"],
        "auc": report["learned"]["auc"],
        "f1_at_half": report["f1_at_half"],
        "calibration_error": report["calibration_error"]["after"],
    }


STAGE = Stage(
    name="train_classifier",
    config_type=ClassifierConfig,
    run=train_classifier,
    inputs={
        "good": Slot("documents", many=True, optional=True),
        "bad": Slot("documents", many=True, optional=True),
        "labelled": Slot("documents", many=True, optional=True),
    },
    output="scorer",
    version=1,
)
