"""The command `score`: what a reward model says of files of answers."""

from pathlib import Path
from typing import Annotated

import typer

from bloomery.cli.display import Debug, Json, print_json, print_text, session
from bloomery.cli.options import DEFAULT_STORE, ModelArgument, NodeOption, StoreOption

SCORE_EXAMPLES = (
    "Examples:\n\n    bloomery score my_run pairs.jsonl\n\n    bloomery score my_run --model reward pairs.jsonl.gz --out scored.jsonl\n\n"
    "    bloomery score path/to/reward_model_folder answers.jsonl --out scored.jsonl --json\n\n"
    "Rows: pairs, rankings or labelled answers in any format that training reads, or conversations that end with an answer. "
    "docs/rewards.md says more."
)


def score(
    model: ModelArgument,
    files: Annotated[list[Path], typer.Argument(help="Files or globs: JSONL (.gz, .zst), JSON, Parquet.", metavar="FILE")],
    out: Annotated[Path | None, typer.Option("--out", help="Write every row with its rewards to this JSONL file.", metavar="FILE")] = None,
    format: Annotated[str, typer.Option("--format", help="Of preferences; auto tells it by their columns.", metavar="NAME")] = "auto",
    node: NodeOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score answers with a reward model, and tell how often it prefers what the file says is better."""
    with session(as_json=as_json, debug=debug):
        from bloomery.core.files import write_jsonl
        from bloomery.core.metrics import progress
        from bloomery.model.device import resolve_device
        from bloomery.pipeline.locate import find_reward_model

        folder = find_reward_model(model, store, node=node)

        from bloomery.align.preference_rows import preference_files
        from bloomery.align.score_file import score_files
        from bloomery.core.rows import read_table

        total = sum(1 for path in preference_files(files) for _ in read_table(path))
        with progress("score", total=total, unit="rows", quiet=as_json) as bar:
            found = score_files(folder, files, device=str(resolve_device("auto")), format=format, said=bar.advance)
        if out is not None:
            write_jsonl(out, found.rows)
        result = {"model": str(folder), "out": None if out is None else str(out), **found.summary}
        if as_json:
            print_json(result)
            return
        summary = found.summary
        print_text(
            f"{summary['answers']:,} answers in {summary['rows']:,} rows: mean {summary['mean']:.3f}, deviation {summary['deviation']:.3f}"
        )
        if summary["pairs"]:
            low, high = (f"{100 * summary[name]:.1f}" for name in ("accuracy_low", "accuracy_high"))
            agreement = f"{100 * summary['accuracy']:.1f} % of {summary['pairs']:,} pairs [{low}, {high}]"
            error = f"; calibration error {summary['calibration_error']:.3f}" if "calibration_error" in summary else ""
            print_text(f"The better answer has the higher reward in {agreement}{error}")
        if out is not None:
            print_text(f"Rows with their rewards: {out}")
