"""Rows of public benchmark files as examples: the format of the DCLM and llm-foundry files, and those of the hub's data sets."""

import re
from collections.abc import Mapping
from typing import Any  # Any: a column of JSON

from bloomery.evaluate.benchmark import Choice, Completion, Example, Question, Row, RowError, Schema, check_choices, require_text

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def choice_row(row: Row) -> Choice:
    """{query, choices, gold}: DCLM's and llm-foundry's multiple choice."""
    choices, gold = check_choices(row["choices"], row["gold"])
    return Choice(require_text(row, "query"), choices, gold, str(row.get("category", "")))


def schema_row(row: Row) -> Schema:
    """{context_options, continuation, gold}; also WinoGrande's {sentence with _, option1, option2, answer}."""
    if "sentence" in row:
        before, blank, after = require_text(row, "sentence").partition("_")
        if not blank:
            raise RowError(f'no "_" in the sentence {row["sentence"]!r}')
        options, gold = check_choices([row["option1"], row["option2"]], int(row["answer"]) - 1 if row["answer"] else None)
        return Schema(tuple(before + option for option in options), after.strip(), gold)
    contexts, gold = check_choices(row["context_options"], row["gold"])
    return Schema(contexts, require_text(row, "continuation"), gold)


def completion_row(row: Row) -> Completion:
    """{context, continuation}; also LAMBADA's {text}, of which the last word is to be said."""
    if "text" in row:
        context, blank, word = require_text(row, "text").strip().rpartition(" ")
        if not blank:
            raise RowError(f"a text of one word: {row['text']!r}")
        return Completion(context, word)
    return Completion(require_text(row, "context"), require_text(row, "continuation"), str(row.get("category", "")))


def arc_row(row: Row) -> Choice:
    """DCLM's rows, or allenai/ai2_arc's {question, choices: {text, label}, answerKey}."""
    return choice_row(row) if "query" in row else _labelled(row, f"Question: {require_text(row, 'question')}")


def openbook_row(row: Row) -> Choice:
    """DCLM's rows, or allenai/openbookqa's {question_stem, choices, answerKey}."""
    return choice_row(row) if "query" in row else _labelled(row, require_text(row, "question_stem"))


def commonsense_row(row: Row) -> Choice:
    """DCLM's rows, or tau/commonsense_qa's {question, choices, answerKey} with the options listed and letters to choose from."""
    if "query" in row:
        return choice_row(row)
    found = _labelled(row, require_text(row, "question"))
    return Choice(list_options(found.query, found.choices), tuple(LETTERS[: len(found.choices)]), found.gold)


def hellaswag_row(row: Row) -> Choice:
    """DCLM's rows, or Rowan/hellaswag's {activity_label, ctx_a, ctx_b, endings, label}, cleaned as lm-eval does."""
    if "query" in row:
        return choice_row(row)
    query = f"{row['activity_label']}: {row['ctx_a']} {str(row['ctx_b']).capitalize()}"
    choices, gold = check_choices([_without_markup(ending) for ending in row["endings"]], _index(row["label"]))
    return Choice(_without_markup(query), choices, gold)


def piqa_row(row: Row) -> Choice:
    """DCLM's rows, or PIQA's {goal, sol1, sol2, label}."""
    if "query" in row:
        return choice_row(row)
    choices, gold = check_choices([row["sol1"], row["sol2"]], _index(row["label"]))
    return Choice(f"Question: {require_text(row, 'goal')}", choices, gold)


def copa_row(row: Row) -> Choice:
    """DCLM's rows, or SuperGLUE's {premise, choice1, choice2, question, label}."""
    if "query" in row:
        return choice_row(row)
    link = {"cause": "because", "effect": "therefore"}[row["question"]]
    options = [f"{text[:1].lower()}{text[1:]}" for text in (row["choice1"], row["choice2"])]
    choices, gold = check_choices(options, _index(row["label"]))
    return Choice(f"{require_text(row, 'premise').strip().rstrip('.')}, {link}", choices, gold)


def boolq_row(row: Row) -> Choice:
    """DCLM's rows, or google/boolq's {passage, question, answer: true}."""
    if "query" in row:
        return choice_row(row)
    if not isinstance(row["answer"], bool):
        raise RowError(f"answer is {row['answer']!r}; expected true or false")
    query = f"Passage: {require_text(row, 'passage')}\nQuestion: {require_text(row, 'question')}?"
    return Choice(query, ("no", "yes"), int(row["answer"]))


def mmlu_row(row: Row) -> Choice:
    """{subject, question, choices, answer}: the question with its options listed, the letters to choose from."""
    choices, gold = check_choices(row["choices"], _index(row["answer"]))
    return Choice(
        list_options(require_text(row, "question").strip(), choices) + "\nAnswer:",
        tuple(LETTERS[: len(choices)]),
        gold,
        str(row["subject"]),
    )


def gsm8k_row(row: Row) -> Question:
    """{question, answer}, the answer worked out and ending in `#### 18`."""
    worked = require_text(row, "answer")
    _, mark, number = worked.rpartition("####")
    if not mark or not number.strip():
        raise RowError(f'the answer does not end in "#### NUMBER": {worked[-60:]!r}')
    # What a calculator put in (<<16-3-4=9>>) is no part of what is said.
    shown = re.sub(r"<<[^>]*>>", "", worked)
    return Question(f"Question: {require_text(row, 'question')}\nAnswer:", (number.strip(),), shown, "", row)


def math_row(row: Row) -> Question:
    """llm-foundry's {context, answer, chain_of_thought, category}, or MATH's {problem, solution, subject or type}."""
    problem = require_text(row, "context" if "context" in row else "problem")
    worked = require_text(row, "chain_of_thought" if "chain_of_thought" in row else "solution")
    answer = row.get("answer") or last_boxed(worked)
    if not answer:
        raise RowError(f"the solution has no \\boxed{{...}}: {worked[-60:]!r}")
    group = str(row.get("category") or row.get("subject") or row.get("type") or "")
    return Question(f"Problem:\n{problem}\n\nSolution:", (str(answer),), worked, group.lower().replace(" ", "_").replace("&", "and"), row)


def aqua_row(row: Row) -> Question:
    """llm-foundry's {context, answer, chain_of_thought}."""
    answer = require_text(row, "answer")
    worked = f"{row.get('chain_of_thought') or ''}\n#### {answer}".lstrip()
    return Question(f"Question: {require_text(row, 'context')}\nAnswer:", (answer,), worked, "", row)


def trivia_row(row: Row) -> Question:
    """llm-foundry's {context, answer, aliases}: any of the names of the answer is right."""
    answer = require_text(row, "answer")
    return Question(require_text(row, "context"), tuple(dict.fromkeys([answer, *map(str, row.get("aliases") or ())])), answer, "", row)


def span_row(row: Row) -> Question:
    """DCLM's SQuAD and CoQA {context, continuation}, with all right `answers` where there are several; or rajpurkar/squad."""
    if "question" in row and isinstance(row.get("answers"), Mapping):
        texts = list(row["answers"]["text"])
        if not texts:
            raise RowError("no answer in `answers.text`")
        prompt = f"Context: {require_text(row, 'context')}\nQuestion: {require_text(row, 'question')}\nAnswer:"
        return Question(prompt, tuple(dict.fromkeys(texts)), texts[0], "", row)
    answer = require_text(row, "continuation")
    return Question(require_text(row, "context"), tuple(dict.fromkeys([answer, *_texts(row.get("answers"))])), answer, "", row)


def squad_row(row: Row) -> Completion:
    """The same as a text to go on with: the first answer is the one that counts."""
    question = span_row(row)
    return Completion(question.prompt, question.answers[0])


def bbh_row(row: Row) -> Question:
    """{task, input, target} of BIG-Bench Hard."""
    target = require_text(row, "target")
    return Question(f"Q: {require_text(row, 'input')}\nA:", (target,), target, str(row.get("task", "")), row)


def instruction_row(row: Row) -> Question:
    """IFEval's {prompt, instruction_id_list, kwargs}."""
    kinds, settings = row["instruction_id_list"], row["kwargs"]
    if not isinstance(kinds, list) or not kinds or not isinstance(settings, list) or len(settings) != len(kinds):
        raise RowError(f"{len(kinds)} instructions with {len(settings)} kwargs; expected as many, and at least one")
    return Question(require_text(row, "prompt"), (), "", "", row)


def pair_row(row: Row) -> Choice:
    """A stereotype and its counterpart: CrowS-Pairs' {sent_more, sent_less, bias_type}."""
    return Choice("", (require_text(row, "sent_more"), require_text(row, "sent_less")), 0, str(row.get("bias_type", "")))


def list_options(question: str, choices: tuple[str, ...]) -> str:
    """The question and its options, one a line behind a letter.

    >>> list_options("Which?", ("one", "two"))
    'Which?\\nA. one\\nB. two'
    """
    return "\n".join([question, *(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))])


def last_boxed(text: str) -> str:
    """What stands in the last \\boxed{...} of a solution, its braces balanced; empty if there is none.

    >>> last_boxed(r"so it is \\boxed{\\frac{1}{2}}.")
    '\\\\frac{1}{2}'
    """
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        short = re.search(r"\\boxed\s+(\S)", text)
        return short.group(1) if short else ""
    begin = text.index("{", start) + 1
    depth, end = 1, begin
    while end < len(text) and depth:
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    return text[begin : end - 1] if not depth else ""


def with_choices_listed(example: Example) -> Choice:
    """A choice as a chat asks it: its options in the question, behind letters, and a letter to answer with."""
    assert isinstance(example, Choice)
    if all(len(choice) == 1 and choice in LETTERS for choice in example.choices):  # it is asked so already
        query = example.query.removesuffix("Answer:").rstrip()
        return example._replace(query=f"{query}\n\nAnswer with the letter only.")
    question = example.query.removeprefix("Question: ").strip()
    listed = list_options(question, example.choices)
    return example._replace(query=f"{listed}\n\nAnswer with the letter only.", choices=tuple(LETTERS[: len(example.choices)]))


def _labelled(row: Row, query: str) -> Choice:
    texts, labels = list(row["choices"]["text"]), list(row["choices"]["label"])
    if row["answerKey"] not in labels:
        raise RowError(f"answerKey is {row['answerKey']!r}; expected one of {', '.join(map(str, labels))}")
    choices, gold = check_choices(texts, labels.index(row["answerKey"]))
    return Choice(query, choices, gold)


def _index(label: Any) -> int:
    # Some data sets write the number as text; a test set without answers has -1 or nothing there.
    if isinstance(label, bool) or not re.fullmatch(r"-?\d+", str(label)):
        raise RowError(f"the label is {label!r}; expected a number")
    return int(label)


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        value = value.get("text", ())
    return [str(item["text"] if isinstance(item, Mapping) else item) for item in value or ()]


def _without_markup(text: str) -> str:
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")
