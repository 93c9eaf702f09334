"""How a benchmark's examples become prompts: which examples are shown before which, and in what words.

CORE's way is nanochat's and DCLM's, to the letter: rows in an order shuffled with seed 1337, the row at place i shown
`num_shots` others drawn with seed 1234 + i, joined by an empty line. A limit takes the first rows of that order; the
examples to show still come from all rows, so a small limit changes neither them nor the prompts.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

from bloomery.core.conversation import Message
from bloomery.core.errors import DataError
from bloomery.evaluate.benchmark import Benchmark, Choice, Completion, Example, Located, Question, Schema
from bloomery.evaluate.encoding import encode_text
from bloomery.evaluate.packed import Text
from bloomery.evaluate.rows import Rows
from bloomery.tokens.chat import render
from bloomery.tokens.tokenizer import Tokenizer

ORDER_SEED = 1337
SHOTS_SEED = 1234
"""Both nanochat's (scripts/base_eval.py, nanochat/core_eval.py)."""
SEPARATOR = "\n\n"


class Asked(NamedTuple):
    """An example with those that are shown before it."""

    located: Located
    shots: list[Example]


def arrange(benchmark: Benchmark, rows: Rows, *, limit: int, num_shots: int) -> list[Asked]:
    """The examples to ask, in order, with their examples to show; limit 0 = all. Raises DataError if there are too few to show."""
    order = list(range(len(rows.examples)))
    shuffler = random.Random(ORDER_SEED)
    shuffler.shuffle(order)
    chosen = order[:limit] if limit else order
    own = rows.shots is rows.examples
    examples = [rows.examples[i] for i in order]
    return [
        Asked(examples[place], _shots(benchmark, examples if own else rows.shots, place, examples[place], num_shots, own=own))
        for place in range(len(chosen))
    ]


def _shots(benchmark: Benchmark, pool: Sequence[Located], place: int, asked: Located, num_shots: int, *, own: bool) -> list[Example]:
    if not num_shots:
        return []
    if benchmark.shot_choice == "drawn":
        # The place in `pool` is jumped over, which draws as nanochat does from a list without it.
        size = len(pool) - own
        if size >= num_shots:
            drawer = random.Random(SHOTS_SEED + place)
            return [pool[i + (own and i >= place)].example for i in drawer.sample(range(size), num_shots)]
        found = size
    else:
        alike = [other for other in pool if other.example.group == asked.example.group and other is not asked]
        found = len(alike)
        if found >= num_shots and benchmark.shot_choice == "first":
            return [other.example for other in alike[:num_shots]]
        if found >= num_shots:
            drawer = random.Random(SHOTS_SEED + asked.line)
            return [other.example for other in drawer.sample(alike, num_shots)]
    raise DataError(
        f"{benchmark.name}: {asked.file} has {found} examples to show before line {asked.line}, not {num_shots}. "
        f"Show fewer: --shots {found}"
    )


def texts_of(benchmark: Benchmark, asked: Asked, tokenizer: Tokenizer) -> list[Text]:
    """The texts that an example is scored by: one a choice, or one context and its continuation."""
    example = asked.located.example
    try:
        if benchmark.chat:
            assert isinstance(example, Choice)
            prompt = chat_prompt(benchmark, asked, tokenizer)
            return [Text([*prompt, *tokenizer.encode(choice)], len(prompt)) for choice in example.choices]
        return [encode_text(tokenizer, context, continuation) for context, continuation in pairs_of(benchmark, asked)]
    except DataError as error:
        raise DataError(f"{asked.located.file}:{asked.located.line}: {benchmark.name}: {error}") from error


def pairs_of(benchmark: Benchmark, asked: Asked) -> list[tuple[str, str]]:
    """(context, continuation) for each text; the context ends in the delimiter."""
    example, before = asked.located.example, prefix(benchmark, asked)
    if isinstance(example, Choice):
        return [(f"{before}{example.query}{benchmark.delimiter}", choice) for choice in example.choices]
    if isinstance(example, Schema):
        return [(f"{before}{context}{benchmark.delimiter}", example.continuation) for context in example.contexts]
    assert isinstance(example, Completion)
    return [(f"{before}{example.context.strip()}{benchmark.delimiter}", example.continuation)]


def prefix(benchmark: Benchmark, asked: Asked) -> str:
    """What stands before the question: an introduction and worked examples, each followed by an empty line."""
    introduction = benchmark.introduction(asked.located.example.group) if benchmark.introduction else ""
    return introduction + "".join(f"{worked(benchmark, shot)}{SEPARATOR}" for shot in asked.shots)


def worked(benchmark: Benchmark, shot: Example) -> str:
    """An example with its right answer, as it is shown."""
    question, answer = question_and_answer(shot)
    return f"{question}{benchmark.delimiter}{answer}"


def question_and_answer(example: Example) -> tuple[str, str]:
    """What an example asks, and its right answer."""
    if isinstance(example, Choice):
        return example.query, example.choices[example.gold]
    if isinstance(example, Schema):
        return example.contexts[example.gold], example.continuation
    if isinstance(example, Completion):
        return example.context.strip(), example.continuation
    return example.prompt, example.worked or next(iter(example.answers), "")


def question_prompt(benchmark: Benchmark, asked: Asked, tokenizer: Tokenizer) -> list[int]:
    """The ids that an answer is generated after."""
    if benchmark.chat:
        return chat_prompt(benchmark, asked, tokenizer)
    example = asked.located.example
    assert isinstance(example, Question)
    # A blank at the end would have to be part of the answer's first token.
    return [*tokenizer.begin, *tokenizer.encode(f"{prefix(benchmark, asked)}{example.prompt}{benchmark.delimiter}".rstrip())]


def chat_prompt(benchmark: Benchmark, asked: Asked, tokenizer: Tokenizer) -> list[int]:
    """The ids of a conversation that ends where the answer begins; examples to show are earlier turns."""
    messages: list[Message] = []
    for shot in asked.shots:
        question, answer = question_and_answer(shot)
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    question, _ = question_and_answer(asked.located.example)
    messages.append({"role": "user", "content": question})
    return render(tokenizer, messages, add_generation_prompt=True).ids
