"""One benchmark asked of one model: what became of every example, as plain JSON that a stopped evaluation keeps."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any  # Any: JSON records

from bloomery.core.errors import DataError
from bloomery.evaluate.asking import Asked, arrange, question_and_answer, question_prompt, texts_of
from bloomery.evaluate.benchmark import Benchmark, Choice, Completion, Question, Schema
from bloomery.evaluate.packed import Likelihood, Text, common_length, num_cut, score_texts
from bloomery.evaluate.rows import Rows
from bloomery.evaluate.suite import sample_seed
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.generate.text import answer_text
from bloomery.tokens.tokenizer import Tokenizer

Record = dict[str, Any]

ITEMS_AT_ONCE = 4096
"""Examples encoded and scored together: enough to sort by length and to share beginnings, few enough for the memory."""
PROMPTS_AT_ONCE = 64
SHOWN_CHARACTERS = 2000
"""Of a question, kept in the samples."""


def run_benchmark(
    engine: Engine,
    tokenizer: Tokenizer,
    benchmark: Benchmark,
    rows: Rows,
    *,
    limit: int = 0,
    num_shots: int | None = None,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> Record:
    """Asks a benchmark: `samples` has one record an example, the rest says how it was asked.

    Raises DataError for an example that cannot be asked (naming file and line), or if the model's logits are no numbers.
    """
    shots = benchmark.num_shots if num_shots is None else num_shots
    asked = arrange(benchmark, rows, limit=limit, num_shots=shots)
    ask = _generate if benchmark.kind == "question" else _score
    samples, cut = ask(engine, tokenizer, benchmark, asked, seed, advance or (lambda count: None))
    return {
        "title": benchmark.title,
        "kind": benchmark.kind,
        "metric": benchmark.metric,
        "chance": benchmark.chance,
        "chat": benchmark.chat,
        "version": benchmark.version,
        "num_shots": shots,
        "rows": len(asked),
        "rows_in_file": len(rows.examples),
        "files": rows.files,
        "cut": cut,
        "example_prompt": tokenizer.decode(_first_prompt(benchmark, asked[0], tokenizer), skip_special=False),
        "samples": samples,
    }


def _first_prompt(benchmark: Benchmark, asked: Asked, tokenizer: Tokenizer) -> Sequence[int]:
    if benchmark.kind == "question":
        return question_prompt(benchmark, asked, tokenizer)
    text = texts_of(benchmark, asked, tokenizer)[0]
    return text.tokens[: text.start]


def _score(
    engine: Engine, tokenizer: Tokenizer, benchmark: Benchmark, asked: Sequence[Asked], seed: int, advance: Callable[[int], None]
) -> tuple[list[Record], int]:
    samples: list[Record] = []
    cut = 0
    for first in range(0, len(asked), ITEMS_AT_ONCE):
        some = asked[first : first + ITEMS_AT_ONCE]
        items = [texts_of(benchmark, one, tokenizer) for one in some]
        names = [f"{one.located.file}:{one.located.line}: {benchmark.name}" for one in some]
        cut += num_cut(engine.model, items)
        likelihoods = score_texts(engine.model, items, names=names, advance=advance)
        for one, texts, found in zip(some, items, likelihoods, strict=True):
            samples.append(_sample(one, **_judge(benchmark, one, texts, found)))
    return samples, cut


def _judge(benchmark: Benchmark, asked: Asked, texts: Sequence[Text], found: Sequence[Likelihood]) -> Record:
    example = asked.located.example
    if isinstance(example, Completion):
        right = float(found[0].greedy)
        values = {"accuracy": right, "gold_bits_per_byte": _bits_per_byte(found[0].logp, example.continuation)}
        values |= {"logp": found[0].logp, "num_tokens": float(len(found[0].logps))}
        return {"gold": example.continuation, "prediction": example.continuation if right else "", "values": values}
    assert isinstance(example, Choice | Schema)
    options = example.choices if isinstance(example, Choice) else example.contexts
    sums = [one.logp for one in found]
    lengths = [len(choice) for choice in options] if isinstance(example, Choice) else [len(example.continuation)] * len(options)
    # A schema's texts end alike, a question's choices may begin alike: nanochat compares the tokens that differ, or come after.
    skipped = common_length([text.tokens[text.start :] for text in texts]) if isinstance(example, Choice) else 0
    ways = {
        "accuracy": sums,
        "accuracy_per_character": [total / length for total, length in zip(sums, lengths, strict=True)],
        "accuracy_per_token": [total / len(one.logps) for total, one in zip(sums, found, strict=True)],
        "accuracy_after_common": [_mean(one.logps[skipped:]) for one in found],
    }
    chosen = {name: max(range(len(scores)), key=scores.__getitem__) for name, scores in ways.items()}
    values = {name: float(choice == example.gold) for name, choice in chosen.items()}
    values["gold_probability"] = _softmax(sums)[example.gold]
    values["gold_nats"] = -_log_softmax(sums)[example.gold]
    gold = example.choices[example.gold] if isinstance(example, Choice) else example.continuation
    values["gold_bits_per_byte"] = _bits_per_byte(sums[example.gold], gold)
    prediction = chosen.get(benchmark.metric, chosen["accuracy"])
    return {"gold": options[example.gold], "prediction": options[prediction], "values": values, "logps": sums}


def _mean(values: Sequence[float]) -> float:
    # Choices of which one is the beginning of another: the shorter has nothing after it, and the other is compared by that.
    return math.fsum(values) / len(values) if values else -math.inf


def _softmax(logps: Sequence[float]) -> list[float]:
    return [math.exp(logp) for logp in _log_softmax(logps)]


def _log_softmax(logps: Sequence[float]) -> list[float]:
    top = max(logps)
    if top == -math.inf:
        return [-math.log(len(logps))] * len(logps)
    total = top + math.log(math.fsum(math.exp(logp - top) for logp in logps))
    return [logp - total for logp in logps]


def _bits_per_byte(logp: float, text: str) -> float:
    return -logp / math.log(2) / len(text.encode())


def _generate(
    engine: Engine, tokenizer: Tokenizer, benchmark: Benchmark, asked: Sequence[Asked], seed: int, advance: Callable[[int], None]
) -> tuple[list[Record], int]:
    how = benchmark.generation
    if how is None:
        raise DataError(f"{benchmark.name}: nothing says how its answers are generated")
    # Half of a small context is kept for the question at least.
    max_tokens = min(how.max_tokens, engine.context_tokens // 2)
    room = engine.context_tokens - max_tokens
    params = SamplingParams(max_tokens=max_tokens, temperature=how.temperature, stop=how.stop)
    completions: list[list[str]] = []
    facts: list[Record] = []
    cut = 0
    for first in range(0, len(asked), PROMPTS_AT_ONCE):
        some = asked[first : first + PROMPTS_AT_ONCE]
        prompts = [question_prompt(benchmark, one, tokenizer) for one in some]
        cut += sum(len(prompt) > room for prompt in prompts)
        prompts = [_keep_end(prompt, room, len(tokenizer.begin)) for prompt in prompts for _ in range(how.num_samples)]
        seeds = [sample_seed(seed, first + i, j) for i in range(len(some)) for j in range(how.num_samples)]
        drawn = engine.generate(prompts, params, seeds=seeds)
        for i in range(len(some)):
            mine = drawn[i * how.num_samples : (i + 1) * how.num_samples]
            completions.append([answer_text(tokenizer, sample.tokens, stop=how.stop) for sample in mine])
            facts.append({"tokens": sum(len(s.tokens) for s in mine), "nats": -math.fsum(x for s in mine for x in s.logps)})
        advance(len(some))
    questions = [one.located.example for one in asked]
    scores = _score_completions(benchmark, [q for q in questions if isinstance(q, Question)], completions)
    samples = []
    for one, texts, values, fact in zip(asked, completions, scores, facts, strict=True):
        assert isinstance(one.located.example, Question)
        gold = " | ".join(one.located.example.answers)
        samples.append(_sample(one, gold=gold, prediction=texts[0], completions=texts, values=dict(values), **fact))
    return samples, cut


def _score_completions(
    benchmark: Benchmark, questions: Sequence[Question], completions: Sequence[Sequence[str]]
) -> Sequence[Mapping[str, float]]:
    how = benchmark.generation
    assert how is not None
    if how.at_once is not None:
        return how.at_once(questions, completions)
    return [how.score(question, texts) for question, texts in zip(questions, completions, strict=True)]


def _keep_end(prompt: Sequence[int], room: int, num_begin: int) -> list[int]:
    """A prompt that is too long loses what comes after the mark of its beginning: the question stands at its end."""
    if len(prompt) <= room:
        return list(prompt)
    return [*prompt[:num_begin], *prompt[len(prompt) - room + num_begin :]]


def _sample(asked: Asked, **found: Any) -> Record:
    question, _ = question_and_answer(asked.located.example)
    return {
        "file": asked.located.file,
        "line": asked.located.line,
        "group": asked.located.example.group,
        "question": question[-SHOWN_CHARACTERS:],
        **found,
    }
