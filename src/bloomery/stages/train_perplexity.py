"""train_perplexity: documents -> a scorer that says how likely another document is under an n-gram model of its language.

Train it on text that is known to be good; `compared` documents (of the crawl that will be filtered) set the bounds of
head, middle and tail. One language is the unit of work and of resume.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: metrics are JSON values

from bloomery.core.documents import list_document_files
from bloomery.core.files import read_json, write_json
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate.perplexity import PerplexityConfig, choose_languages, count_languages, save_perplexity_scorer, train_language


def train_perplexity(
    config: PerplexityConfig, *, documents: Sequence[Path], compared: Sequence[Path] = (), out: Path, runtime: Runtime
) -> Mapping[str, Any]:
    """Fills `out` with a model for each language, scorer.json and report.json, and returns the models' perplexities."""
    if not (out / "scorer.json").exists():
        files = list_document_files(list(documents))
        others = list_document_files(list(compared)) if compared else []
        counts: dict[str, tuple[int, int]] = {}
        for found in runtime.pool().map(count_languages, files):
            for code, (count, size) in found.items():
                counts[code] = (counts.get(code, (0, 0))[0] + count, counts.get(code, (0, 0))[1] + size)
        languages = choose_languages(config, counts)
        num_bytes = {code: counts[code][1] for code in languages}
        work = functools.partial(_train_once, config, files, num_bytes, others, out)
        with runtime.progress(len(languages), "languages") as bar:
            records = {}
            for code, record in zip(languages, runtime.pool().map(work, languages), strict=True):
                records[code] = record
                bar.advance(note=code)
        skipped = {code: counts[code][0] for code in sorted(set(counts) - set(languages))}
        write_json(out / "report.json", {"languages": records, "documents_without_model": skipped})
        save_perplexity_scorer(out, config, records)
    report = read_json(out / "report.json")
    values = {f"{code}/perplexity": record["test_perplexity"] for code, record in report["languages"].items()}
    documents_used = sum(record["documents"] for record in report["languages"].values())
    return {"languages": len(values), "documents": documents_used, **values}


def _train_once(
    config: PerplexityConfig, files: Sequence[Path], num_bytes: Mapping[str, int], others: Sequence[Path], out: Path, code: str
) -> dict[str, Any]:
    scratch = out / ".scratch" / f"{code}.json"
    if not scratch.exists():
        write_json(scratch, train_language(config, files, num_bytes, others, out, code))
    record: dict[str, Any] = read_json(scratch)
    return record


STAGE = Stage(
    name="train_perplexity",
    config_type=PerplexityConfig,
    run=train_perplexity,
    inputs={"documents": Slot("documents", many=True), "compared": Slot("documents", many=True, optional=True)},
    output="scorer",
    version=1,
)
