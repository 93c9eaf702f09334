"""Stage judge_pairs: pairs of a model's answers, labelled by a model that reads them under a principle (Constitutional AI, second half).

    two samples of each prompt -> P(first is better), by the likelihoods of A and B, in both orders -> soft labels

(arXiv:2212.08073, sec. 4.1)
for `preference` or `reward_model`. The judge is the model itself, another checkpoint, any Hugging Face folder, or a model behind an
OpenAI-compatible endpoint. Where rows have a gold, or principles a rule, the judge's agreement with it is measured; one near chance is
said to be so, in the metrics, the log and the report. Answers, and judgements by chunks, are kept: a killed run asks for the rest.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: a row of JSON

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, NonNegativeInt, PositiveInt

from bloomery.align.asking import (
    Asker,
    AskingConfig,
    Truth,
    check_model,
    choose_prompts,
    make_truth,
    open_answerer,
    prompt_key,
    require_model,
)
from bloomery.align.constitution import Constitution, Principle, draw_principles, load_constitution
from bloomery.align.judge import (
    Comparison,
    Judgement,
    Reasoner,
    agreement_metrics,
    judge_comparisons,
    measure_agreement,
    open_chooser,
    warn_of_judge,
)
from bloomery.align.pairs import Pair, pair_row
from bloomery.align.reward_source import Answer as Sampled
from bloomery.align.reward_source import Row, prompt_messages
from bloomery.align.seeds import draw_seed
from bloomery.core.errors import DataError
from bloomery.core.files import read_json, write_atomically, write_json, write_jsonl
from bloomery.core.stage import Launch, Runtime, Slot, Stage
from bloomery.generate.answer_rules import RULES
from bloomery.generate.answer_store import AnswerStore
from bloomery.generate.answers import Answer
from bloomery.generate.letters import Chooser
from bloomery.generate.sampling import SamplingParams
from bloomery.model.device import resolve_device

CHUNK_PROMPTS = 200
DIGITS = 6
"""Of the chances that are written: their last bits depend on the machine."""

COLUMNS = pa.schema(
    [
        *((name, pa.string()) for name in ("prompt", "first", "second", "principle")),
        *((name, pa.float64()) for name in ("probability", "first_as_a", "second_as_a", "first_gold", "second_gold")),
    ]
)


class JudgePairsConfig(AskingConfig):
    """How many pairs are made, and how they are judged."""

    pairs_per_prompt: PositiveInt = 1
    judge_model: str = ""
    """The judge's name at the endpoint of `launch`; empty: the input `judge`, and without that the model itself."""
    principles_per_pair: PositiveInt = 1
    """Principles by which a pair is judged; the chances are averaged. The paper found labels by several more robust."""
    reasoning_tokens: NonNegativeInt = 0
    """Of the reasoning that the judge writes before its verdict (chain of thought); 0 = none is asked for."""
    clamp: float = Field(default=0.0, ge=0, lt=0.5)
    """Chances are kept in clamp .. 1 - clamp. After reasoning they are near 0 or 1: the paper keeps them in 0.4 .. 0.6."""
    min_probability: float = Field(default=0.5, ge=0.5, le=1)
    """Pairs whose better answer is less surely better are left out."""
    votes: PositiveInt = 8
    """Answers that are drawn where the judge's endpoint gives no log-probabilities."""


class Met(NamedTuple):
    """Two answers to one prompt, and what the judge says of them by each principle."""

    row: Row
    first: Answer
    second: Answer
    principles: list[Principle]
    judgements: list[Judgement]

    @property
    def probability(self) -> float:
        """Of the first one being better, over all principles."""
        return round(sum(one.probability for one in self.judgements) / len(self.judgements), DIGITS)


def judge_pairs(
    config: JudgePairsConfig,
    *,
    model: Path | None = None,
    judge: Path | None = None,
    prompts: Sequence[Path],
    principles: Path | None = None,
    out: Path,
    runtime: Runtime,
) -> Mapping[str, Any]:
    """Writes train.jsonl.gz (with the chance of the chosen answer as `probability`), judgements.parquet and judge.json.

    Raises ConfigError for a constitution with mistakes or without a model to ask, DataError if no pair comes out.
    """
    require_model("judge_pairs", model, config, runtime.launch)
    law = load_constitution(config.constitution, principles, only=config.only_principles)
    rows = choose_prompts(config, prompts)
    judge = judge if judge is not None or config.judge_model else model
    with AnswerStore(out / ".scratch" / "answers.jsonl") as store, AnswerStore(out / ".scratch" / "verdicts.jsonl") as verdicts:
        sampled = _sample(config, rows, model, store, runtime)
        met = _judge(config, law, sampled, judge, verdicts, out, runtime)
    truth = make_truth(config.gold, law)
    golds = _golds(truth, met)
    agreement = measure_agreement([Judgement(one.probability, 0.0, 0.0) for one in met], golds)
    warn_of_judge(runtime.label or "judge_pairs", agreement)
    kept = [one for one in met if one.probability != 0.5 and max(one.probability, 1 - one.probability) >= config.min_probability]
    if not kept:
        raise DataError(
            f"judge_pairs: of {len(rows)} prompts {len(met)} have two different answers, and the judge prefers none of them by "
            f"min_probability = {config.min_probability}. Raise temperature, or lower min_probability or clamp."
        )
    write_jsonl(out / "train.jsonl.gz", map(_row, kept))
    _write_judgements(out / "judgements.parquet", met, golds)
    report = describe_judge(met, golds, truth)
    write_json(out / "judge.json", report)
    counts = {"pairs": len(kept), "prompts": len(rows), "judged": len(met), "same_answers": len(sampled) - len(met)}
    shares = {name: report[name] for name in ("consistent_fraction", "mean_chance_of_a", "mean_probability")}
    return {**counts, **shares, **agreement_metrics(agreement)}


def describe_judge(met: Sequence[Met], golds: Sequence[tuple[float | None, float | None]], truth: Truth | None) -> dict[str, Any]:
    """What is known of the judge: how it treats places, how sure it is, and its agreement with what a program knows."""
    judgements = [judgement for one in met for judgement in one.judgements]
    by_principle = {}
    for name in sorted({principle.name for one in met for principle in one.principles if principle.rule}):
        asked = [(one, p, j) for one in met for p, j in zip(one.principles, one.judgements, strict=True) if p.name == name]
        truths = [(_follows(one.row, p, one.first), _follows(one.row, p, one.second)) for one, p, _ in asked]
        found = measure_agreement([judgement for *_, judgement in asked], truths)
        by_principle[name] = None if found is None else {**found._asdict(), "near_chance": found.is_near_chance}
    agreement = measure_agreement([Judgement(one.probability, 0.0, 0.0) for one in met], golds)
    return {
        "measured_by": None if truth is None else truth.name,
        "agreement": None if agreement is None else {**agreement._asdict(), "near_chance": agreement.is_near_chance},
        "by_principle": by_principle,
        "comparisons": len(judgements),
        "consistent_fraction": sum(one.is_consistent for one in judgements) / len(judgements),
        "mean_chance_of_a": round(sum(one.first_as_a + one.second_as_a for one in judgements) / (2 * len(judgements)), DIGITS),
        "mean_probability": round(sum(max(one.probability, 1 - one.probability) for one in met) / len(met), DIGITS),
    }


def _sample(
    config: JudgePairsConfig, rows: Sequence[Row], model: Path | None, store: AnswerStore, runtime: Runtime
) -> list[tuple[Row, Answer, Answer]]:
    asked = [(row, draw_seed("judge_pairs", config.seed, i, prompt_key(row))) for row in rows for i in range(2 * config.pairs_per_prompt)]
    found: list[Answer] = []
    with runtime.progress(len(asked), "answers") as bar:
        asker = Asker(lambda: open_answerer(model, config.model, runtime), store, bar)
        for start in range(0, len(asked), CHUNK_PROMPTS):
            part = asked[start : start + CHUNK_PROMPTS]
            found += asker.ask([prompt_messages(row) for row, _ in part], config.params, seeds=[seed for _, seed in part])
    return [(row, found[i], found[i + 1]) for i, (row, _) in enumerate(asked) if i % 2 == 0]


class Bench(NamedTuple):
    """Who judges, and who writes the reasoning before it."""

    chooser: Chooser
    reasoner: Reasoner | None


def _open_bench(config: JudgePairsConfig, judge: Path | None, verdicts: AnswerStore, runtime: Runtime) -> Bench:
    name = config.judge_model or config.model
    device, endpoint = resolve_device(runtime.device), runtime.launch.endpoint
    chooser = open_chooser(judge, device=device, endpoint=endpoint, model=name, votes=config.votes, store=verdicts)
    if not config.reasoning_tokens:
        return Bench(chooser, None)
    params = SamplingParams(max_tokens=config.reasoning_tokens, temperature=0.0)
    return Bench(chooser, Reasoner(open_answerer(judge, name, runtime), params))


def _judge(
    config: JudgePairsConfig,
    law: Constitution,
    sampled: Sequence[tuple[Row, Answer, Answer]],
    judge: Path | None,
    verdicts: AnswerStore,
    out: Path,
    runtime: Runtime,
) -> list[Met]:
    usable = [one for one in sampled if one[1].text != one[2].text and all(answer.ending in ("end", "length") for answer in one[1:])]
    if not usable:
        raise DataError(f"judge_pairs: the model gave no two different answers to any of {len(sampled)} prompts. Raise temperature.")
    met: list[Met] = []
    bench: Bench | None = None
    with runtime.progress(len(usable), "pairs") as bar:
        for start in range(0, len(usable), CHUNK_PROMPTS):
            part = usable[start : start + CHUNK_PROMPTS]
            drawn = [_draw(config, law, *one) for one in part]
            path = out / ".scratch" / f"judged-{start // CHUNK_PROMPTS:05d}.json"
            if not path.exists():
                bench = bench or _open_bench(config, judge, verdicts, runtime)
                write_json(path, _judge_part(config, law, part, drawn, bench))
            judgements = iter([Judgement(*values) for values in read_json(path)])
            met += [Met(*one, mine, [next(judgements) for _ in mine]) for one, mine in zip(part, drawn, strict=True)]
            bar.advance(len(part))
    return met


def _draw(config: JudgePairsConfig, law: Constitution, row: Row, first: Answer, second: Answer) -> list[Principle]:
    key = "/".join([str(config.seed), prompt_key(row), first.text, second.text])
    return draw_principles(law.principles, config.principles_per_pair, key=key)


def _judge_part(
    config: JudgePairsConfig,
    law: Constitution,
    part: Sequence[tuple[Row, Answer, Answer]],
    drawn: Sequence[Sequence[Principle]],
    bench: Bench,
) -> list[list[float]]:
    comparisons = [
        Comparison(prompt_messages(row), first.text, second.text, principle)
        for (row, first, second), mine in zip(part, drawn, strict=True)
        for principle in mine
    ]
    judgements = judge_comparisons(bench.chooser, law, comparisons, clamp=config.clamp, reasoner=bench.reasoner)
    return [[round(value, DIGITS) for value in judgement] for judgement in judgements]


def _golds(truth: Truth | None, met: Sequence[Met]) -> list[tuple[float | None, float | None]]:
    if truth is None:
        return [(None, None)] * len(met)
    rows = [one.row for one in met for _ in range(2)]
    answers = [Sampled(answer.text, answer.ending == "end") for one in met for answer in (one.first, one.second)]
    values = truth.score(rows, answers)
    return list(zip(values[::2], values[1::2], strict=True))


def _follows(row: Row, principle: Principle, answer: Answer) -> float:
    return float(RULES[principle.rule](row, answer.text))


def _row(one: Met) -> dict[str, Any]:
    first_wins = one.probability > 0.5
    texts = (one.first.text, one.second.text) if first_wins else (one.second.text, one.first.text)
    probability = one.probability if first_wins else round(1 - one.probability, DIGITS)
    return {**pair_row(one.row, Pair(*texts)), "probability": probability, "principles": [principle.name for principle in one.principles]}


def _write_judgements(path: Path, met: Sequence[Met], golds: Sequence[tuple[float | None, float | None]]) -> None:
    rows = [
        {
            "prompt": prompt_messages(one.row)[-1]["content"],
            "first": one.first.text,
            "second": one.second.text,
            "principle": principle.name,
            **judgement._asdict(),
            "first_gold": gold[0],
            "second_gold": gold[1],
        }
        for one, gold in zip(met, golds, strict=True)
        for principle, judgement in zip(one.principles, one.judgements, strict=True)
    ]
    with write_atomically(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=COLUMNS), temporary, compression="zstd")


def check_judge(config: JudgePairsConfig, launch: Launch, inputs: Mapping[str, Any]) -> list[str]:
    """What of a launch does not fit: model and judge are checkpoints, or have names at an endpoint."""
    if launch.endpoint is None and config.judge_model:
        return [f'config.judge_model = "{config.judge_model}" is a name at an endpoint: give launch.endpoint, or leave it empty']
    if config.judge_model and inputs.get("judge") is not None:
        return ["give the input `judge` or config.judge_model, not both"]
    return check_model(config, launch, inputs)


STAGE = Stage(
    name="judge_pairs",
    config_type=JudgePairsConfig,
    run=judge_pairs,
    inputs={
        "model": Slot("checkpoint", optional=True),
        "judge": Slot("checkpoint", optional=True),
        "prompts": Slot("conversations", many=True),
        "principles": Slot("principles", optional=True),
    },
    output="pairs",
    version=1,
    check_launch=check_judge,
)
