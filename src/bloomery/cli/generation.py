"""The command `generate`: answers to a file of prompts."""

from pathlib import Path
from typing import Annotated

import typer

from bloomery.cli.display import Debug, Json, format_seconds, print_json, print_text, session
from bloomery.cli.options import DEFAULT_STORE, ModelArgument, NodeOption, StoreOption

GENERATE_EXAMPLES = (
    "Examples:\n\n    bloomery generate quickstart --prompts prompts.jsonl --out answers.jsonl\n\n"
    "    bloomery generate path/to/huggingface_folder --prompts prompts.jsonl --out drawn.jsonl -n 8 --temperature 0.8 --top-p 0.95\n\n"
    "    bloomery generate large --draft small --prompts prompts.jsonl --out answers.jsonl --stop '###'\n\n"
    'Rows: {"prompt": "Once upon"} or {"messages": [{"role": "user", "content": "..."}]}. docs/generation.md says more.'
)


def generate(
    model: ModelArgument,
    prompts: Annotated[Path, typer.Option("--prompts", help="A JSONL file (.gz and .zst too) of prompts.", metavar="FILE.jsonl")],
    out: Annotated[Path, typer.Option("--out", help="The file to make; it must not exist.", metavar="FILE.jsonl")],
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="Answers to each prompt.")] = 1,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Limit of an answer.")] = 256,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 always takes the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="Draw among so many likeliest tokens; 0 = all.")] = 0,
    top_p: Annotated[float, typer.Option("--top-p", min=0.0, max=1.0, help="Draw among the likeliest that have this probability.")] = 1.0,
    min_p: Annotated[float, typer.Option("--min-p", min=0.0, max=1.0, help="Leave out what is less than so many times the best.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option("--repetition-penalty", help="Above 1: say less again.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="Text that ends an answer; can be given again.", metavar="TEXT")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the answers, above temperature 0.")] = 0,
    logps: Annotated[bool, typer.Option("--logps", help="Write tokens and their log-probabilities, too.")] = False,
    draft: Annotated[
        str | None, typer.Option("--draft", help="A smaller model that drafts; answers stay the model's own.", metavar="MODEL")
    ] = None,
    num_draft: Annotated[int, typer.Option("--num-draft", min=1, help="Tokens to draft at a time.")] = 4,
    node: NodeOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Answer a file of prompts. Killed at any moment, the same command continues; the file appears when it is whole."""
    with session(as_json=as_json, debug=debug, on_interrupt="Stopped. Answers are kept: the same command continues."):
        import time

        from bloomery.core.config import check_config
        from bloomery.core.errors import ConfigError
        from bloomery.core.metrics import progress
        from bloomery.generate.sampling import SamplingParams
        from bloomery.pipeline.locate import find_checkpoint

        wanted = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
                  "repetition_penalty": repetition_penalty, "stop": tuple(stop or ())}  # fmt: skip
        params, mistakes = check_config(SamplingParams, wanted)
        if params is None:
            raise ConfigError("; ".join(mistakes))
        path = find_checkpoint(model, store, node=node)
        draft_path = None if draft is None else find_checkpoint(draft, store)

        from bloomery.chat.voice import load_voice
        from bloomery.generate.answer_file import answer_file, read_prompts
        from bloomery.generate.engine import Engine
        from bloomery.generate.speculative import SpeculativeEngine
        from bloomery.model.huggingface import load_model
        from bloomery.tokens.tokenizer import load_tokenizer

        voice = load_voice(path, load_tokenizer(path))
        params = params.model_copy(update={"stop_tokens": voice.stop_tokens})
        own, identity = Engine(load_model(path), voice), {"model": _identify(path)}
        engine: Engine | SpeculativeEngine = own
        if draft_path is not None:
            small = Engine(load_model(draft_path), load_voice(draft_path, load_tokenizer(draft_path)))
            engine = SpeculativeEngine(own, small, num_draft=num_draft)
            identity["draft"] = [*_identify(draft_path), ["num_draft", num_draft]]
        total = samples * len(read_prompts(prompts, voice, context_tokens=engine.context_tokens))
        begun, tokens_made = time.monotonic(), 0
        with progress("generate", total=total, unit="answers", quiet=as_json) as bar:

            def said(num_answers: int, num_tokens: int) -> None:
                nonlocal tokens_made
                tokens_made += num_tokens
                bar.advance(num_answers, f"{tokens_made / max(time.monotonic() - begun, 1e-3):,.0f} tokens/s")

            answered = answer_file(
                engine,
                voice,
                params,
                prompts=prompts,
                out=out,
                num_samples=samples,
                seed=seed,
                with_logps=logps,
                identity=identity,
                said=said,
            )
        seconds = time.monotonic() - begun
        result = {
            "path": str(out),
            "model": str(path),
            **answered._asdict(),
            "seconds": seconds,
            "tokens_per_second": tokens_made / seconds,
        }
        if isinstance(engine, SpeculativeEngine):
            result |= {"acceptance_rate": engine.speculation.acceptance_rate, "tokens_per_pass": engine.speculation.tokens_per_pass}
        if as_json:
            print_json(result)
            return
        count = f"{answered.num_answers:,} answers to {answered.num_rows:,} prompts, {answered.num_tokens:,} tokens"
        print_text(f"{out}: {count}, in {format_seconds(seconds)}")
        if answered.num_kept:
            print_text(f"{answered.num_kept:,} of them were made before.")
        if isinstance(engine, SpeculativeEngine):
            spoken = engine.speculation
            print_text(f"Drafts: {spoken.acceptance_rate:.0%} accepted, {spoken.tokens_per_pass:.2f} tokens a pass of the model.")


def _identify(folder: Path) -> list[list[str | int]]:
    """Which model a folder holds, without reading its weights: whoever writes it anew changes a size or a time."""
    files = sorted([*folder.glob("*.safetensors"), folder / "config.json", folder / "tokenizer.json"])
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()]
