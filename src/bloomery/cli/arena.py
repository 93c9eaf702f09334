"""bloomery arena: models meet on your prompts, a person or a program says who answered better, and ratings come of it.

OUT/answers.json   what every model said, made once
OUT/battles.jsonl  one line a decided battle, written at once: the same command goes on where it stopped
OUT/ratings.json   Bradley-Terry ratings with intervals, and the table of points
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any  # Any: JSON records

import typer

from bloomery.cli.display import Debug, Json, print_json, print_table, print_text, session, write_now
from bloomery.cli.evaluation import distinct_names
from bloomery.cli.options import DEFAULT_STORE, StoreOption

if TYPE_CHECKING:
    from bloomery.evaluate.arena import Judge
    from bloomery.evaluate.elo import EloRating
    from bloomery.evaluate.ratings import Battle, Ratings

ARENA_EXAMPLES = (
    "Examples:\n\n    bloomery arena runs/quickstart/sft runs/quickstart/dpo --prompts my_prompts.jsonl --out arena    (you judge)\n\n"
    "    bloomery arena quickstart path/to/other_model --prompts runs/quickstart/skills --judge gold --out arena\n\n"
    "    bloomery arena runs/align-demo --prompts runs/align-demo/careful --judge gold --out arena    (all models of a run)\n\n"
    "    bloomery arena a b c --prompts my_prompts.jsonl --judge path/to/judging_model --out arena"
)


def arena(
    model: Annotated[
        list[str],
        typer.Argument(help="Two or more runs, checkpoints or Hugging Face folders; one run: all its models.", metavar="RUN|MODEL..."),
    ],
    prompts: Annotated[list[str], typer.Option("--prompts", help="Conversation rows: a JSONL file or an artifact.", metavar="PATH")],
    out: Annotated[Path, typer.Option("--out", help="A folder for answers, battles and ratings.", metavar="DIR")],
    judge: Annotated[
        str, typer.Option("--judge", help="person (you, here), gold (the rows' own answers), or a chat model's folder.", metavar="WHO")
    ] = "person",
    num_prompts: Annotated[int, typer.Option("--num-prompts", min=1, help="The first so many prompts.", metavar="N")] = 20,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Limit of an answer.")] = 128,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 always takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="Of sides, order, answers above temperature 0, and intervals.")] = 0,
    store: StoreOption = DEFAULT_STORE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Let models meet on the same prompts without their names, and rate them by who answered better."""
    with session(as_json=as_json, debug=debug, on_interrupt="Stopped. The same command continues."):
        from bloomery.core.errors import ConfigError

        if len(model) == 1:
            model = _models_of_run(model[0], store)
        if len(set(model)) < 2 or len(set(model)) != len(model):
            raise ConfigError(f"an arena needs two models or more, each once; found {', '.join(model)}")
        if as_json and judge == "person":
            raise ConfigError("--json needs --judge gold or a model: a person judges on the screen")

        from bloomery.core.errors import DataError
        from bloomery.core.files import write_json
        from bloomery.evaluate.arena import hold_battles, plan_pairings
        from bloomery.evaluate.elo import elo_ratings
        from bloomery.evaluate.ratings import rate, win_rates
        from bloomery.evaluate.tasks.skills import question

        rows = _read_rows(prompts, store, num_prompts)
        names = distinct_names(model)
        asked = [question(row) for row in rows]
        settings = {"models": dict(zip(names, model, strict=True)), "prompts": asked, "max_tokens": max_tokens, "temperature": temperature}
        answers = _answers(out, {**settings, "seed": seed}, rows, store)
        battles = _read_battles(out / "battles.jsonl")
        plan = plan_pairings(names, len(rows), seed=seed)
        if not as_json:
            print_text(f"{len(plan):,} battles, {len(battles):,} of them decided. Answers are shown without names.")
        decide = _judge(judge, store)
        with (out / "battles.jsonl").open("a", encoding="utf-8") as file:
            for battle in hold_battles(plan, rows=rows, prompts=asked, answers=answers, judge=decide, done=battles):
                file.write(json.dumps(battle._asdict(), ensure_ascii=False) + "\n")
                file.flush()
                battles.append(battle)
        elo = elo_ratings(battles, seed=seed)
        rates = {a: {b: rate.record() for b, rate in of_a.items()} for a, of_a in win_rates(battles, seed=seed).items()}
        record = {"elo": [one.record() for one in elo], "win_rates": rates}
        try:
            ratings = rate(battles, seed=seed)
        except DataError:
            write_json(out / "ratings.json", record)  # Elo has an answer where no strengths are likeliest
            raise
        record |= ratings.record()
        write_json(out / "ratings.json", record)
        if as_json:
            print_json({"path": str(out), "decided": len(battles), "planned": len(plan), **record})
        else:
            show_ratings(ratings, elo, decided=len(battles), planned=len(plan))


def show_ratings(ratings: "Ratings", elo: "Sequence[EloRating]", *, decided: int, planned: int) -> None:
    """Standings, and what each made against each other."""
    elo_of = {one.name: one for one in elo}
    rows = [
        [
            one.name,
            f"{one.rating.value:.0f}",
            f"{one.rating.low:.0f} to {one.rating.high:.0f}",
            f"{elo_of[one.name].rating.value:.0f} ± {elo_of[one.name].order_spread:.0f}",
            str(one.wins),
            str(one.ties),
            str(one.losses),
        ]
        for one in ratings.standings
    ]
    print_table(
        ["model", "Bradley-Terry", "95 % interval", "Elo ± order", "won", "tied", "lost"], rows, title=f"{decided} of {planned} battles"
    )
    order = [ratings.names.index(one.name) for one in ratings.standings]
    points = [
        [ratings.names[a], *("-" if a == b else f"{ratings.points_PP[a, b]:g} of {ratings.battles_PP[a, b]:g}" for b in order)]
        for a in order
    ]
    print_table(["points of", *(f"against {ratings.names[b]}" for b in order)], points)


def _models_of_run(name: str, store: Path) -> list[str]:
    """All finished models of a run, but exported copies, in the order of its recipe; the name itself if it is no run."""
    from bloomery.core.artifact import read_artifact
    from bloomery.pipeline.locate import find_run, finished_nodes

    run = find_run(name, store)
    if run is None:
        return [name]
    found = finished_nodes(run, kind="checkpoint")
    return [str(run / node) for node, path in found.items() if read_artifact(path).record["stage"] != "export"]


def _read_rows(prompts: Sequence[str], store: Path, num_prompts: int) -> list[dict[str, Any]]:
    from bloomery.core.conversation import read_conversations
    from bloomery.core.errors import DataError
    from bloomery.pipeline.locate import find_input

    paths = [Path(find_input(name, store)) for name in prompts]
    files = [path / "test.jsonl.gz" if (path / "test.jsonl.gz").is_file() else path for path in paths]
    rows = [row for _, row in zip(range(num_prompts), read_conversations(files), strict=False)]
    if not rows:
        raise DataError(f"{', '.join(map(str, files))}: no prompt in it")
    return rows


def _answers(out: Path, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], store: Path) -> dict[str, list[str]]:
    from bloomery.core.errors import ConfigError
    from bloomery.core.files import read_json, write_json

    path = out / "answers.json"
    if path.is_file():
        found = read_json(path)
        if found["settings"] != settings:
            raise ConfigError(f"{path}: holds answers of other models, prompts or settings. Choose another --out, or remove it")
        return dict(found["answers"])
    out.mkdir(parents=True, exist_ok=True)
    answers = {name: _answer_all(path, settings, rows, store) for name, path in settings["models"].items()}
    write_json(path, {"settings": settings, "answers": answers})
    return answers


def _answer_all(name: str, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], store: Path) -> list[str]:
    from bloomery.evaluate.tasks.skills import skill_prompt
    from bloomery.generate.engine import Engine
    from bloomery.generate.sampling import SamplingParams
    from bloomery.model.huggingface import load_model
    from bloomery.pipeline.locate import find_checkpoint
    from bloomery.tokens.tokenizer import load_tokenizer

    path = find_checkpoint(name, store)
    tokenizer = load_tokenizer(path)
    params = SamplingParams(max_tokens=settings["max_tokens"], temperature=settings["temperature"])
    asked = [skill_prompt(row, tokenizer, "chat") for row in rows]
    seeds = [settings["seed"] * len(rows) + i for i in range(len(rows))]
    samples = Engine(load_model(path), tokenizer).generate(asked, params, seeds=seeds)
    return [tokenizer.decode(sample.tokens).strip() for sample in samples]


def _judge(who: str, store: Path) -> "Judge":
    from bloomery.evaluate.arena import gold_score, model_judge, person_judge, score_judge

    if who == "person":
        return person_judge(read=input, write=write_now)
    if who == "gold":
        return score_judge(gold_score)
    from bloomery.generate.engine import Engine
    from bloomery.model.huggingface import load_model
    from bloomery.pipeline.locate import find_checkpoint
    from bloomery.tokens.tokenizer import load_tokenizer

    path = find_checkpoint(who, store)
    tokenizer = load_tokenizer(path)
    return model_judge(Engine(load_model(path), tokenizer), tokenizer)


def _read_battles(path: Path) -> list["Battle"]:
    from bloomery.core.files import read_jsonl
    from bloomery.evaluate.ratings import Battle

    return [Battle(**row) for row in read_jsonl(path)] if path.is_file() else []
