"""A file of prompts in, the same rows with answers out: `bloomery generate`.

    {"prompt": "Once upon"}  or  {"messages": [{"role": "user", "content": "..."}]}     and whatever else a row has
    -> the row, and "answers": [{"text": ..., "finish": "end", "num_tokens": 12, "seed": ...}, ...]

Every row is checked before the first one is answered. Answers are kept in `.OUT.part` as they come, and OUT appears when all are
there, rows in their order: killed at any moment, the same command goes on where it was, and the same bytes come out.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol  # Any: rows of JSON

from bloomery.core.conversation import find_problem
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import read_numbered_jsonl, sha256_file, write_jsonl
from bloomery.generate.engine import Sample
from bloomery.generate.sampling import SamplingParams
from bloomery.generate.text import Vocabulary, answer_text


class EachEngine(Protocol):
    """An engine that gives each answer out when it ends."""

    @property
    def context_tokens(self) -> int:
        """The most tokens that a prompt and its answer can have together."""
        ...

    def generate_each(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Sample]]:
        """Answers as (number of its prompt, sample), in any order."""
        ...


class Speech(Vocabulary, Protocol):
    """A tokenizer that makes prompts of texts and of conversations."""

    def encode_text(self, text: str) -> list[int]:
        """A text to go on from."""
        ...

    def render(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """A conversation, ready for the next answer. Raises DataError if there is no form for it."""
        ...


class Prompt(NamedTuple):
    """A row of the file and what the model reads of it."""

    row: dict[str, Any]
    ids: list[int]


class AnswerCounts(NamedTuple):
    """What was done, counted over the whole file."""

    num_rows: int
    num_answers: int
    num_tokens: int
    num_kept: int
    """Answers that an earlier call had made already."""


def answer_file(
    engine: EachEngine,
    speech: Speech,
    params: SamplingParams,
    *,
    prompts: Path,
    out: Path,
    num_samples: int = 1,
    seed: int = 0,
    with_logps: bool = False,
    identity: Mapping[str, Any],
    said: Callable[[int, int], None] = lambda num_answers, num_tokens: None,
) -> AnswerCounts:
    """Answers every row of `prompts` `num_samples` times and writes `out`.

    `identity` says which model answers, in plain values: what an earlier call has begun with another one is not gone on
    with. `said` is told of new answers and their tokens. Raises ConfigError if `out` is there, or was begun with other
    settings; DataError naming file and line of a row that cannot be answered.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already. Remove it, or choose another --out")
    rows = read_prompts(prompts, speech, context_tokens=engine.context_tokens)
    asked = {"prompts": sha256_file(prompts), "params": params.model_dump(mode="json"), "num_samples": num_samples, "seed": seed,
             "with_logps": with_logps, **identity}  # fmt: skip
    part = out.with_name(f".{out.name}.part")
    out.parent.mkdir(parents=True, exist_ok=True)
    answers = _open_part(part, asked)
    places = [(i, k) for i in range(len(rows)) for k in range(num_samples)]
    # Those of equal prompts are made together, all or none: they read it in one product, and bytes must not depend on a kill.
    missing = {tuple(rows[i].ids) for i, k in places if (i, k) not in answers}
    open_places = [(i, k) for i, k in places if tuple(rows[i].ids) in missing]
    num_kept = len(places) - len(open_places)
    said(num_kept, 0)
    seeds = [answer_seed(seed, i, k) for i, k in open_places]
    with part.open("a", encoding="utf-8") as journal:
        for number, sample in engine.generate_each([rows[i].ids for i, _ in open_places], params, seeds=seeds):
            place = open_places[number]
            answers[place] = _describe(speech, sample, params, seed=seeds[number], with_logps=with_logps)
            journal.write(json.dumps([*place, answers[place]], ensure_ascii=True) + "\n")
            journal.flush()
            said(1, len(sample.tokens))
    write_jsonl(out, ({**row.row, "answers": [answers[i, k] for k in range(num_samples)]} for i, row in enumerate(rows)))
    part.unlink()
    return AnswerCounts(len(rows), len(places), sum(answer["num_tokens"] for answer in answers.values()), num_kept)


def read_prompts(path: Path, speech: Speech, *, context_tokens: int) -> list[Prompt]:
    """The rows of a file of prompts. Raises DataError naming file and line of one that is none, or is too long for the model."""
    found = []
    for line, row in read_numbered_jsonl(path):
        try:
            ids = _encode(row, speech)
        except DataError as error:
            raise DataError(f"{path}:{line}: {error}") from error
        if not 0 < len(ids) < context_tokens:
            raise DataError(
                f"{path}:{line}: a prompt of {len(ids)} tokens; the model reads 1 to {context_tokens - 1}, with room for an answer"
            )
        found.append(Prompt(row, ids))
    if not found:
        raise DataError(f"{path}: no rows in it; expected one JSON object a line, with a `prompt` or with `messages`")
    return found


def answer_seed(seed: int, row: int, sample: int) -> int:
    """The seed of one answer: by its row's number, from 0, and its own number among that row's."""
    return int.from_bytes(hashlib.blake2b(f"generate/{seed}/{row}/{sample}".encode(), digest_size=6).digest(), "little")


def _encode(row: Mapping[str, Any], speech: Speech) -> list[int]:
    if ("prompt" in row) == ("messages" in row):
        raise DataError(f"expected either a `prompt` or `messages`, found {', '.join(sorted(row)) or 'neither'}")
    if "answers" in row:
        raise DataError("has `answers` already: is this a file that `bloomery generate` has written?")
    if "messages" in row:
        if problem := find_problem(row["messages"]):
            raise DataError(problem)
        return speech.render(row["messages"])
    if not isinstance(row["prompt"], str):
        raise DataError(f"`prompt` must be a string, found {row['prompt']!r:.80}")
    return speech.encode_text(row["prompt"])


def _describe(speech: Speech, sample: Sample, params: SamplingParams, *, seed: int, with_logps: bool) -> dict[str, Any]:
    text = answer_text(speech, sample.tokens, stop=params.stop)
    found: dict[str, Any] = {"text": text, "finish": sample.finish, "num_tokens": len(sample.tokens), "seed": seed}
    return found | ({"tokens": sample.tokens, "logps": sample.logps} if with_logps else {})


def _open_part(part: Path, asked: Mapping[str, Any]) -> dict[tuple[int, int], dict[str, Any]]:
    """The answers that are there already; a journal that was cut while a line was written loses that line."""
    header = json.dumps(asked, sort_keys=True)
    if not part.exists():
        part.write_text(header + "\n", encoding="utf-8")
        return {}
    lines = part.read_text(encoding="utf-8").split("\n")
    if len(lines) < 2:  # killed before the first line was whole
        part.write_text(header + "\n", encoding="utf-8")
        return {}
    if lines[0] != header:
        changed = sorted(key for key, value in json.loads(lines[0]).items() if asked.get(key) != value)
        raise ConfigError(f"{part} was begun with other settings ({', '.join(changed)}). Remove it to begin anew, or choose another --out")
    whole = lines[1:-1]
    if lines[-1]:
        part.write_text("\n".join([header, *whole, ""]), encoding="utf-8")
    return {(i, k): answer for i, k, answer in map(json.loads, whole)}
