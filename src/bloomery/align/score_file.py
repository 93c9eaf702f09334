"""What a reward model says of files: a reward for every answer, and, where the files say which is better, how often it agrees."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: rows of JSON

import numpy as np

from bloomery.align.preference_formats import LabelledRow, PairRow, PreferenceRow, find_format
from bloomery.align.preference_rows import as_columns, preference_files, read_preferences
from bloomery.align.reward_model import score_rows
from bloomery.align.reward_report import compare, report_accuracy
from bloomery.core.conversation import Message, read_conversations
from bloomery.core.errors import DataError
from bloomery.core.files import read_json
from bloomery.core.rows import read_table
from bloomery.model.huggingface import load_model
from bloomery.tokens.renderer import load_whole_renderer
from bloomery.tokens.tokenizer import load_tokenizer

CHUNK_ROWS = 512


class Scored(NamedTuple):
    """The rows of files with their rewards beside them, and numbers of them all."""

    rows: list[dict[str, Any]]
    summary: dict[str, Any]


class _Judged(NamedTuple):
    row: dict[str, Any]
    conversations: list[list[Message]]
    ranks: list[int]
    margin: float


def score_files(
    folder: Path, paths: Sequence[Path], *, device: str, format: str = "auto", said: Callable[[int], None] = lambda _: None
) -> Scored:
    """Scores preferences of any known format, or conversations that end with an answer, by the reward model in `folder`.

    Pairs get `chosen_reward` and `rejected_reward`, rankings `rewards`, labelled answers and conversations `reward`. `said` is told of
    rows as they are done. Raises DataError for rows that are neither, or longer than the model reads.
    """
    model, render = load_model(folder, head="scalar", device=device), load_whole_renderer(folder, load_tokenizer(folder))
    judged = list(_read(paths, format))
    rows, rewards = [], []
    for start in range(0, len(judged), CHUNK_ROWS):
        part = judged[start : start + CHUNK_ROWS]
        ids = [render(messages) for one in part for messages in one.conversations]
        longest = max(map(len, ids))
        if longest > model.config.max_positions:
            raise DataError(
                f"{folder}: reads {model.config.max_positions} tokens; one of rows {start + 1} to {start + len(part)} has {longest}"
            )
        flat = iter(score_rows(model, ids))
        for one in part:
            found = [round(next(flat), 6) for _ in one.conversations]
            rewards.append(found)
            rows.append({**one.row, **_columns(one, found)})
        said(len(part))
    compared = compare(rewards, [one.ranks for one in judged], [one.margin for one in judged])
    every = np.array([reward for found in rewards for reward in found])
    summary = {"rows": len(rows), "answers": len(every), "mean": round(float(every.mean()), 6), "deviation": round(float(every.std()), 6)}
    scale = _nats(folder)
    report = report_accuracy(compared, scale=scale or 1.0)
    if scale is None:  # nobody says what a unit of reward is worth: no odds
        report = {name: value for name, value in report.items() if name not in ("calibration_error", "log_loss", "reliability")}
    return Scored(rows, {**summary, **report})


def _read(paths: Sequence[Path], format: str) -> Iterator[_Judged]:
    files = preference_files(list(paths))
    if not any(True for path in files for _ in read_table(path)):
        raise DataError(f"{', '.join(map(str, paths))}: no rows to score")
    for path in files:
        first = next((row for _, row in read_table(path)), {})
        if format == "auto" and find_format(first) is None and "messages" in first:
            for conversation in read_conversations([path]):
                if conversation["messages"][-1]["role"] != "assistant":
                    raise DataError(f"{path}: a conversation to score must end with an answer, found {conversation['messages'][-1]!r:.80}")
                yield _Judged(dict(conversation), [conversation["messages"]], [1], 0.0)
        else:
            for row in read_preferences([path], format=format):
                answers, ranks = _answers(row)
                margin = (row.margin or 0.0) if isinstance(row, PairRow) else 0.0
                yield _Judged(as_columns(row), [[*row.prompt, *answer] for answer in answers], ranks, margin)


def _answers(row: PreferenceRow) -> tuple[list[list[Message]], list[int]]:
    if isinstance(row, PairRow):
        return [row.chosen, row.rejected], [1, 2]
    if isinstance(row, LabelledRow):
        return [row.completion], [1]
    return row.completions, row.ranks


def _columns(one: _Judged, rewards: list[float]) -> Mapping[str, Any]:
    if "chosen" in one.row:
        return {"chosen_reward": rewards[0], "rejected_reward": rewards[1]}
    return {"rewards": rewards} if "ranks" in one.row else {"reward": rewards[0]}


def _nats(folder: Path) -> float | None:
    """How many nats a unit of reward is worth, where the folder says so."""
    path = folder / "training.json"
    training = read_json(path) if path.is_file() else {}
    if "scaling" not in training:
        return None
    return float(training["scaling"]["deviation"]) if training["scaling"] else 1.0
