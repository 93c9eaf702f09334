"""The commands about models (chat, export), and how artifacts are shown."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any  # Any: rows for a table

import typer

from bloomery.cli.display import Debug, Json, format_bytes, print_json, print_table, print_text, session, write_now
from bloomery.cli.options import DEFAULT_STORE, ModelArgument, NodeOption, StageSetOption, StoreOption

if TYPE_CHECKING:
    from bloomery.core.artifact import Artifact

CHAT_EXAMPLES = (
    "Examples:\n\n    bloomery chat runs/quickstart\n\n    bloomery chat quickstart --model sft --prompt 'What is 3 + 4?'\n\n"
    "    bloomery chat path/to/huggingface_folder"
)
EXPORT_EXAMPLES = (
    "Examples:\n\n    bloomery export quickstart --out my_model\n\n"
    "    bloomery export quickstart --model sft --out sft_model --dtype bf16\n\n"
    "    bloomery export quickstart --format gguf --dtype q8_0 --out my_gguf\n\n"
    "    bloomery export my_run --model reward --out reward_model"
)


def chat(
    model: ModelArgument,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Answer this one message and leave.", metavar="TEXT")] = None,
    system: Annotated[str, typer.Option("--system", help="A system message, kept in sight throughout.", metavar="TEXT")] = "",
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 always takes the likeliest token.")] = 0.0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Limit of an answer.")] = 128,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the answers, above temperature 0.")] = 0,
    node: NodeOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Talk to a model in the terminal, or get one answer with --prompt. /help inside says what can be typed."""
    with session(as_json=as_json, debug=debug):
        from bloomery.core.errors import ConfigError
        from bloomery.pipeline.locate import find_checkpoint

        if as_json and prompt is None:
            raise ConfigError("--json needs --prompt TEXT: a conversation is not one object")
        path = find_checkpoint(model, store, node=node)

        from bloomery.chat.session import Session
        from bloomery.chat.terminal import answer_once, chat_in_terminal
        from bloomery.generate.engine import Engine
        from bloomery.generate.sampling import SamplingParams
        from bloomery.model.huggingface import load_model
        from bloomery.tokens.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(path)
        params = SamplingParams(max_tokens=max_tokens, temperature=temperature)
        conversation = Session(Engine(load_model(path), tokenizer), tokenizer, params=params, seed=seed, system=system)
        if prompt is None:
            print_text(f"{path}. /help for help, Ctrl-D to leave.")
            chat_in_terminal(conversation, read=input, write=write_now)
        elif as_json:
            answer = answer_once(conversation, prompt, write=lambda piece: None)
            print_json({"model": str(path), "prompt": prompt, "answer": answer, "reached_limit": conversation.reached_limit})
        else:
            answer_once(conversation, prompt, write=write_now)


def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", help="The folder to make; it must not exist.", metavar="DIR")],
    format: Annotated[str, typer.Option("--format", help="hf: a Hugging Face folder. gguf: a file for llama.cpp.")] = "hf",
    dtype: Annotated[str, typer.Option("--dtype", help="keep, fp32, bf16, fp16; for gguf also q8_0.")] = "keep",
    licence: Annotated[str, typer.Option("--licence", help='Of the weights, as in "apache-2.0": goes into the model card.')] = "",
    node: NodeOption = None,
    settings: StageSetOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a model in a format that other tools load, read it back to check, and write its model card."""
    with session(as_json=as_json, debug=debug):
        from bloomery.pipeline.locate import find_checkpoint, find_scores
        from bloomery.pipeline.single import parse_settings, run_single_stage
        from bloomery.stages.catalog import load_stage

        path = find_checkpoint(model, store, node=node, also_rewards=True)
        scores = [str(found) for found in find_scores(path)]
        named = {"name": Path(model.rstrip("/")).name or "bloomery model", "format": format, "dtype": dtype, "licence": licence}
        inputs = {"model": [str(path)], **({"scores": scores} if scores else {})}
        options = {**named, **parse_settings(settings or ())}
        show_artifact(run_single_stage(load_stage("export"), inputs=inputs, settings=options, out=out), as_json=as_json)


def show_artifact(artifact: "Artifact", *, as_json: bool) -> None:
    """What a stage that was run alone has made."""
    record = artifact.record
    if as_json:
        print_json({"path": str(artifact.path), **{key: record[key] for key in ("stage", "kind", "fingerprint", "config", "metrics")}})
        return
    size = sum(file["bytes"] for file in record["files"].values())
    print_text(f"{artifact.path}: {record['kind']}, {len(record['files'])} files, {format_bytes(size)}")
    _print_metrics(record["metrics"])


def show_description(description: Mapping[str, Any], *, as_json: bool) -> None:
    """One artifact: its record, what was dropped, its first rows."""
    if as_json:
        print_json(description)
        return
    size = format_bytes(description["bytes"])
    print_text(f"{description['path']}: {description['kind']} made by {description['stage']}, {description['num_files']} files, {size}")
    print_text(f"fingerprint: {description['fingerprint']}")
    print_text(f"config: {json.dumps(description['config'], ensure_ascii=False)}")
    _print_metrics(description["metrics"])
    if description["dropped"]:
        print_table(["dropped by", "rows"], [[rule, f"{count:,}"] for rule, count in description["dropped"].items()])
    for row in description["rows"]:
        print_text("")
        for key, value in row.items():
            if value is not None:
                print_text(f"  {key}: {_shorten(value)}")


def show_nodes(run: str, nodes: Mapping[str, Mapping[str, Any]], *, as_json: bool) -> None:
    """The finished artifacts of a run, one line each."""
    if as_json:
        print_json({"run": run, "nodes": dict(nodes)})
        return
    rows = [
        [node_id, item["stage"], item["kind"], format_bytes(item["bytes"]), f"{sum(item['dropped'].values()):,}" if item["dropped"] else ""]
        for node_id, item in nodes.items()
    ]
    print_table(["id", "stage", "kind", "size", "rows in the ledger"], rows, title=run)
    if nodes:
        print_text(f"One of them: bloomery inspect {run}/{next(iter(nodes))}")


def show_story(story: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """What became of one document, stage by stage."""
    if as_json:
        print_json({"story": list(story)})
        return
    for event in story:
        print_text(f"{event['node']}: {event['what']}")
        for key, value in event.items():
            if key not in ("node", "what") and value is not None:
                print_text(f"  {key}: {_shorten(value)}")


def _print_metrics(metrics: Mapping[str, Any]) -> None:
    plain = [[name, f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else _shorten(value)]
             for name, value in metrics.items()]  # fmt: skip
    if plain:
        print_table(["metric", "value"], plain)


def _shorten(value: object, limit: int = 300) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[:limit]} ... ({len(text):,} characters)"
