"""Every format in which preferences are handed around, each a function from a row to pairs, labels or rankings.

A format is known by its columns. TRL's own (`prompt, chosen, rejected` and so on, of strings or of messages) come first;
the others are those of published data sets. What a row does not say is not guessed: a row that does not fit its format is
a RowError, which the reader turns into a DataError with file and line.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple  # Any: a row of JSON

from bloomery.core.conversation import Message, find_problem

ASSISTANT, HUMAN = "\n\nAssistant:", "\n\nHuman:"
"""How the transcripts of hh-rlhf begin a turn."""
SHAREGPT_ROLES = {"system": "system", "human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant"}
MODEL_COLUMNS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
"""Of the solutions that came with GSM8K."""
REVIEW_PROMPT = "Write a sentence from a film review."
"""What a sentence of a polarity set is taken to answer: the set has sentences only."""


class PairRow(NamedTuple):
    """Two answers to one prompt, the first one better: by `margin` if that is known (TRL's column; used by reward models), with the
    chance `probability` if whoever judged was not sure (a soft label)."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    margin: float | None = None
    probability: float | None = None


class LabelledRow(NamedTuple):
    """An answer that is desirable, or one that is not."""

    prompt: list[Message]
    completion: list[Message]
    label: bool


class RankedRow(NamedTuple):
    """Answers to one prompt and the rank of each: 1 is best, equal ranks are ties. `margin` is that of the pair it was made of."""

    prompt: list[Message]
    completions: list[list[Message]]
    ranks: list[int]
    margin: float | None = None
    probability: float | None = None


PreferenceRow = PairRow | LabelledRow | RankedRow


class RowError(ValueError):
    """A row that is not what its format says; the message is a clause."""


class Format(NamedTuple):
    """A way to write preferences: its name, the columns it is known by, and what a row of it says."""

    name: str
    columns: frozenset[str]
    parse: Callable[[Mapping[str, Any]], list[PreferenceRow]]


def find_format(columns: Iterable[str]) -> Format | None:
    """The first format whose columns are all there."""
    found = set(columns)
    return next((known for known in FORMATS if known.columns <= found), None)


def parse_pair(row: Mapping[str, Any]) -> list[PreferenceRow]:
    """TRL's `prompt, chosen, rejected[, margin]` and our `probability`: strings or messages. Answers that repeat the prompt
    (UltraFeedback) lose it."""
    prompt = read_prompt(row["prompt"])
    chosen, rejected = (read_answer(row[name], f"`{name}`", prompt) for name in ("chosen", "rejected"))
    return [PairRow(prompt, chosen, rejected, _read_number(row, "margin"), _read_number(row, "probability", most=1.0))]


def parse_labelled(row: Mapping[str, Any]) -> list[PreferenceRow]:
    """TRL's `prompt, completion, label`."""
    prompt = read_prompt(row["prompt"])
    return [LabelledRow(prompt, read_answer(row["completion"], "`completion`", prompt), _read_label(row["label"]))]


def parse_ranked(row: Mapping[str, Any]) -> list[PreferenceRow]:
    """`prompt, completions, ranks`: any number of answers from two on."""
    prompt, completions, ranks = read_prompt(row["prompt"]), row["completions"], row["ranks"]
    if not isinstance(completions, list) or len(completions) < 2:
        raise RowError(f"`completions` must be a list of at least two answers, found {completions!r:.80}")
    if not isinstance(ranks, list) or len(ranks) != len(completions) or not all(type(rank) is int and rank >= 1 for rank in ranks):
        raise RowError(f"`ranks` must hold a whole number from 1 on for each of {len(completions)} completions, found {ranks!r:.80}")
    return [RankedRow(prompt, [read_answer(answer, f"completion {i}", prompt) for i, answer in enumerate(completions)], ranks)]


def parse_conversations(row: Mapping[str, Any]) -> list[PreferenceRow]:
    """`chosen` and `rejected` that are whole conversations, as messages (TRL's implicit prompt) or as transcripts (hh-rlhf).

    What both begin with is the prompt.
    """
    if isinstance(row["chosen"], str) and isinstance(row["rejected"], str):
        return [_split_transcripts(row["chosen"], row["rejected"])]
    whole = [_check(row[name], f"`{name}`", ends_in="assistant") for name in ("chosen", "rejected")]
    shared = 0
    while shared < min(map(len, whole)) - 1 and _said(whole[0][shared]) == _said(whole[1][shared]):
        shared += 1
    if shared == 0:
        raise RowError("`chosen` and `rejected` begin with different messages, so there is no prompt that both answer")
    chosen, rejected = (_only_answer(messages[shared:], f"`{name}`") for messages, name in zip(whole, ("chosen", "rejected"), strict=True))
    return [PairRow(whole[0][:shared], chosen, rejected)]


def parse_sharegpt(row: Mapping[str, Any]) -> list[PreferenceRow]:
    """ShareGPT's turns (`from`, `value`) in `conversations`, and one turn each in `chosen` and `rejected`."""
    prompt = _check(_sharegpt_messages(row["conversations"], "`conversations`"), "`conversations`")
    answers = [_sharegpt_messages([row[name]], f"`{name}`") for name in ("chosen", "rejected")]
    chosen, rejected = (read_answer(answer, f"`{name}`", prompt) for answer, name in zip(answers, ("chosen", "rejected"), strict=True))
    return [PairRow(prompt, chosen, rejected)]


def parse_labelled_conversation(row: Mapping[str, Any]) -> list[PreferenceRow]:
    """`messages` whose last one is labelled."""
    messages = _check(row["messages"], "`messages`", ends_in="assistant")
    if len(messages) < 2:
        raise RowError("`messages` holds an answer without a prompt")
    return [LabelledRow(messages[:-1], messages[-1:], _read_label(row["label"]))]


def parse_solutions(row: Mapping[str, Any]) -> list[PreferenceRow]:
    """GSM8K's questions with the true solution and four models', each with `is_correct`."""
    prompt = read_prompt(row["question"])
    labelled: list[PreferenceRow] = [LabelledRow(prompt, read_answer(row["ground_truth"], "`ground_truth`", prompt), True)]
    for name in MODEL_COLUMNS:
        solution = row[name]
        if not isinstance(solution, Mapping) or not isinstance(solution.get("is_correct"), bool):
            raise RowError(f"`{name}` must hold a `solution` and whether it `is_correct`, found {solution!r:.80}")
        labelled.append(LabelledRow(prompt, read_answer(solution.get("solution"), f"`{name}`", prompt), solution["is_correct"]))
    return labelled


def parse_two_outputs(row: Mapping[str, Any]) -> list[PreferenceRow]:
    """LLMBar: `input`, `output_1`, `output_2`, and in `label` the number of the better one."""
    if row["label"] not in (1, 2):
        raise RowError(f"`label` must be 1 or 2, the number of the better output, found {row['label']!r:.80}")
    prompt = read_prompt(row["input"])
    answers = [read_answer(row[name], f"`{name}`", prompt) for name in ("output_1", "output_2")]
    return [PairRow(prompt, answers[row["label"] - 1], answers[2 - row["label"]])]


def parse_votes(row: Mapping[str, Any]) -> list[PreferenceRow]:
    """PandaLM: two responses and the votes of annotators, 1, 2 or 0 for a tie. What most did not vote for is a tie.

    Some responses there are the boolean that their text ("True") became on its way.
    """
    votes = [value for name, value in row.items() if name.startswith("annotator")]
    if not votes or any(vote not in (0, 1, 2) for vote in votes):
        raise RowError(f"votes of annotators must be 0 (a tie), 1 or 2, found {votes!r:.80}")
    vote, count = Counter(votes).most_common(1)[0]
    ranks = {0: [1, 1], 1: [1, 2], 2: [2, 1]}[vote if 2 * count > len(votes) else 0]
    instruction, text = row["instruction"], row.get("input") or ""
    prompt = read_prompt(f"{instruction}\n\n{text}" if isinstance(instruction, str) and text else instruction)
    responses = [str(row[name]) if isinstance(row[name], bool) else row[name] for name in ("response1", "response2")]
    return [RankedRow(prompt, [read_answer(answer, f"`response{i}`", prompt) for i, answer in enumerate(responses, start=1)], ranks)]


def parse_behaviour(row: Mapping[str, Any]) -> list[PreferenceRow]:
    """Anthropic's evaluations: a question, the answer that shows the behaviour of its set, and the one that does not."""
    prompt = read_prompt(row["question"])
    names = ("answer_matching_behavior", "answer_not_matching_behavior")
    chosen, rejected = (read_answer(_stripped(row[name]), f"`{name}`", prompt) for name in names)
    return [PairRow(prompt, chosen, rejected)]


def parse_polarity(row: Mapping[str, Any]) -> list[PreferenceRow]:
    """Sentences with a `label` "pos" or "neg", as answers to REVIEW_PROMPT: the positive ones are desirable."""
    if row["label"] not in ("pos", "neg"):
        raise RowError(f'`label` must be "pos" or "neg", found {row["label"]!r:.80}')
    prompt = read_prompt(REVIEW_PROMPT)
    return [LabelledRow(prompt, read_answer(row["text"], "`text`", prompt), row["label"] == "pos")]


def read_prompt(value: Any) -> list[Message]:
    """A prompt as messages; a string is what a user says."""
    return _check([{"role": "user", "content": value}] if isinstance(value, str) else value, "`prompt`")


def read_answer(value: Any, name: str, prompt: Sequence[Message]) -> list[Message]:
    """An answer as messages; a string is what the assistant says. Messages may begin with the prompt, which is left out."""
    messages = _check([{"role": "assistant", "content": value}] if isinstance(value, str) else value, name, ends_in="assistant")
    if len(messages) > len(prompt) and [_said(m) for m in messages[: len(prompt)]] == [_said(m) for m in prompt]:
        messages = messages[len(prompt) :]
    return _only_answer(messages, name)


def _only_answer(messages: list[Message], name: str) -> list[Message]:
    if messages[0]["role"] != "assistant":
        raise RowError(f"{name} begins with a message of the role {messages[0]['role']}; expected the assistant's answer to the prompt")
    return messages


def _check(messages: Any, name: str, *, ends_in: str = "") -> list[Message]:
    problem = find_problem(messages)
    if problem is None and ends_in and messages[-1]["role"] != ends_in:
        problem = f"must end with a message of the role {ends_in}, found {messages[-1]['role']}"
    if problem:
        raise RowError(f"{name}: {problem}")
    return list(messages)


def _said(message: Message) -> tuple[str, str]:
    return message["role"], message["content"]


def _read_number(row: Mapping[str, Any], name: str, *, most: float = math.inf) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise RowError(f"`{name}` must be a number from 0 {'on' if most == math.inf else f'to {most:g}'}, found {value!r:.80}")
    return float(value)


def _read_label(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in (0, 1):
        return bool(value)
    raise RowError(f"`label` must be true (desirable) or false, found {value!r:.80}")


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _sharegpt_messages(turns: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) and turn.get("from") in SHAREGPT_ROLES for turn in turns):
        raise RowError(f"{name} must hold turns with `value` and a `from` among {', '.join(SHAREGPT_ROLES)}, found {turns!r:.80}")
    return [{"role": SHAREGPT_ROLES[turn["from"]], "content": turn.get("value")} for turn in turns]


def _split_transcripts(chosen: str, rejected: str) -> PairRow:
    """The prompt is what both transcripts share up to the last common beginning of an assistant's turn.

    In hh-rlhf that is nearly always each one's last turn; where an answer goes on with turns of its own (4 of 1,712 in
    the harmlessness test set), those stay in the answer's text, as its annotators saw it.
    """
    cut, next_cut = -1, chosen.find(ASSISTANT)
    while next_cut >= 0 and rejected.startswith(chosen[: next_cut + len(ASSISTANT)]):
        cut, next_cut = next_cut, chosen.find(ASSISTANT, next_cut + 1)
    if not chosen.startswith(HUMAN) or cut < 0:
        found = f"found {chosen[:40]!r} and {rejected[:40]!r}"
        raise RowError(f"transcripts must begin with {HUMAN!r} and share a prompt up to an {ASSISTANT!r}; {found}")
    prompt = _transcript_messages(chosen[:cut])
    good, bad = (Message(role="assistant", content=text[cut + len(ASSISTANT) :].strip()) for text in (chosen, rejected))
    return PairRow(prompt, [good], [bad])


def _transcript_messages(text: str) -> list[Message]:
    messages: list[Message] = []
    for part in text.split(HUMAN)[1:]:
        user, *assistant = part.split(ASSISTANT)
        messages.append(Message(role="user", content=user.strip()))
        messages += [Message(role="assistant", content=said.strip()) for said in assistant]
    return messages


FORMATS = (
    Format("rankings", frozenset({"prompt", "completions", "ranks"}), parse_ranked),
    Format("labels", frozenset({"prompt", "completion", "label"}), parse_labelled),
    Format("pairs", frozenset({"prompt", "chosen", "rejected"}), parse_pair),
    Format("sharegpt", frozenset({"conversations", "chosen", "rejected"}), parse_sharegpt),
    Format("conversations", frozenset({"chosen", "rejected"}), parse_conversations),
    Format("labelled_messages", frozenset({"messages", "label"}), parse_labelled_conversation),
    Format("gsm8k_solutions", frozenset({"question", "ground_truth", *MODEL_COLUMNS}), parse_solutions),
    Format("llmbar", frozenset({"input", "output_1", "output_2", "label"}), parse_two_outputs),
    Format("pandalm", frozenset({"instruction", "response1", "response2", "annotator1"}), parse_votes),
    Format("persona", frozenset({"question", "answer_matching_behavior", "answer_not_matching_behavior"}), parse_behaviour),
    Format("polarity", frozenset({"text", "label"}), parse_polarity),
)
"""In this order: the first whose columns are all there is taken."""
