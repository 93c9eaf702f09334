"""train_extractor: pages with their gold text -> the block classifier that `extract` finds content with.

The model that comes with the package was made by this stage from the development pages of WCXB (CC BY 4.0):

    bloomery stage train_extractor --input pages=wcxb_dev.warc.zst --input truth=wcxb_dev.truth.jsonl.gz --out model

Give `extract` the output as its input `model` to use another one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any  # Any: metrics are JSON values

from bloomery.core.errors import DataError
from bloomery.core.files import expand, read_json, write_text
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate.block_training import BlockTrainingConfig, read_examples, train_blocks
from bloomery.curate.blocks import SHIPPED_MODEL, dump_model
from bloomery.curate.warc import ARCHIVE_SUFFIXES


def train_extractor(config: BlockTrainingConfig, *, pages: list[Path], truth: list[Path], out: Path, runtime: Runtime) -> Mapping[str, Any]:
    """Fills `out` with `extraction_model.json`. Rows of `truth` have `url` and `main_content`, `articleBody` or `text`."""
    path = out / SHIPPED_MODEL.name
    if not path.exists():
        files = expand(pages, suffixes=ARCHIVE_SUFFIXES)
        gold = expand(truth, suffixes=(".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"))
        with runtime.progress(5, "rounds") as bar:
            examples = list(read_examples(files, gold))
            bar.advance(note=f"{len(examples)} pages")
            if not examples:
                names = ", ".join(file.name for file in files)
                raise DataError(f"train_extractor: no page of {names} has a row of the same url in `truth`")
            about = {"trained_on": [file.name for file in files], "pages": len(examples)}
            write_text(path, dump_model(train_blocks(examples, config, about=about, log=lambda note: bar.advance(note=note))))
    model = read_json(path)
    return {
        "pages": model["pages"],
        "class_words": len(model["class_words"]),
        "text_words": len(model["text_words"]),
        "trees": len(model["first"]["trees"]) + len(model["second"]["trees"]),
    }


STAGE = Stage(
    name="train_extractor",
    config_type=BlockTrainingConfig,
    run=train_extractor,
    inputs={"pages": Slot("pages", many=True), "truth": Slot("documents", many=True)},
    output="scorer",
    version=2,
)
