"""Asks the models of bench/sft_data.toml what fine-tuning on real data was for: forms first, right answers second.

    bloomery run bench/sft_data.toml && python bench/sft_data.py runs/sft-data

- gsm8k: questions of the test set. The model may call its calculator, whose results are given back, up to 8 times. Counted: turns
  that end by themselves, calls that can be worked out among all calls, answers with `#### n`, right ones, mean number of calls.
- fairytaleqa: held-out questions. Counted: answers that end by themselves, and their words in common with the right one (F1).
- tools: held-out conversations up to the first call. Counted: answers that are a call of a tool that was offered, and the right one.
"""

import argparse
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bloomery.chat.tool_calls import CallFinder, ToolCall
from bloomery.chat.voice import Voice, load_voice
from bloomery.core.calculator import calculate
from bloomery.core.conversation import read_conversations
from bloomery.evaluate.metrics import wilson
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.huggingface import load_model
from bloomery.tokens.conversation_set import prompt_fraction
from bloomery.tokens.tokenizer import load_tokenizer

HELD_OUT = 0.05  # as in the recipe
MAX_CALLS = 8
Rows = Sequence[Mapping[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--questions", type=int, default=100, help="of each kind")
    arguments = parser.parse_args()
    sft = arguments.data / "sft"
    rows = {
        "gsm8k": list(read_conversations(arguments.data / "eval" / "gsm8k" / "test.jsonl.gz")),
        "fairytaleqa": [r for r in read_conversations(sft / "fairytaleqa.jsonl.gz") if prompt_fraction(r["messages"]) < HELD_OUT],
        "tools": list(held_out_calls(sft / "glaive_toolcall_en_demo.jsonl.gz")),
    }
    for kind, found in rows.items():
        random.Random(0).shuffle(found)
        rows[kind] = found[: arguments.questions]
    for name in ("base", "sft"):
        engine, voice = open_model(arguments.run / name)
        for kind, ask in {"gsm8k": ask_gsm8k, "fairytaleqa": ask_story, "tools": ask_tools}.items():
            print(f"{name} {kind}: " + ", ".join(ask(engine, voice, rows[kind])), flush=True)


def open_model(folder: Path) -> tuple[Engine, Voice]:
    """A checkpoint, and its way to speak."""
    voice = load_voice(folder, load_tokenizer(folder))
    return Engine(load_model(folder).eval(), voice), voice


def held_out_calls(path: Path) -> Iterator[Mapping[str, Any]]:
    """Held-out conversations with tools, up to the first message with a call, which is kept as `call`."""
    for row in read_conversations(path):
        called = [i for i, message in enumerate(row["messages"]) if message.get("tool_calls")]
        if called and prompt_fraction(row["messages"]) < HELD_OUT:
            call = row["messages"][called[0]]["tool_calls"][0]["function"]
            yield {**row, "messages": row["messages"][: called[0]], "call": call}


def generate(
    engine: Engine, voice: Voice, conversations: Sequence[list[Any]], tools: Sequence[Any], limit: int
) -> list[tuple[str, list[ToolCall], bool]]:
    """Of each conversation the next answer: its text, its calls, and whether it ended by itself. Greedy."""
    prompts = [voice.render(messages, offered) for messages, offered in zip(conversations, tools, strict=True)]
    fits = [len(prompt) < engine.context_tokens - 8 for prompt in prompts]
    params = SamplingParams(max_tokens=limit, temperature=0.0)
    kept = [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit]
    made = iter(engine.generate(kept, params, seeds=range(len(kept))) if kept else [])
    answers: list[tuple[str, list[ToolCall], bool]] = []
    for fit in fits:
        if not fit:
            answers.append(("", [], False))
            continue
        sample = next(made)
        finder = CallFinder()
        text = voice.decode_bytes(sample.tokens).decode("utf-8", "replace")
        found = finder.add(text) + finder.end()
        answers.append(("".join(f.text for f in found), [f.call for f in found if f.call], sample.finish == "end"))
    return answers


def ask_gsm8k(engine: Engine, voice: Voice, rows: Rows) -> list[str]:
    """Questions, with a calculator."""
    talks = [[row["messages"][0]] for row in rows]
    said, open_talks = [""] * len(rows), list(range(len(rows)))
    turns = ended = calls = good_calls = 0
    for _ in range(MAX_CALLS + 1):
        tools = [rows[i].get("tools") or [] for i in open_talks]
        answers = generate(engine, voice, [talks[i] for i in open_talks], tools, 160)
        still = []
        for i, (text, called, stopped) in zip(open_talks, answers, strict=True):
            turns, ended = turns + 1, ended + stopped
            said[i] += text
            if not called:
                continue
            values = [value_of(call) for call in called]
            calls, good_calls = calls + len(called), good_calls + sum(value is not None for value in values)
            plain = [{"type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in called]
            results = [{"role": "tool", "content": value or "error"} for value in values]
            talks[i] = [*talks[i], {"role": "assistant", "content": text, "tool_calls": plain}, *results]
            still.append(i)
        open_talks = still
    final = [text.rpartition("####")[2].strip().replace(",", "") if "####" in text else None for text in said]
    right = sum(value == row["answer"] for value, row in zip(final, rows, strict=True))
    return [
        share("turns that end", ended, turns),
        share("calls that can be worked out", good_calls, calls),
        share("with ####", sum(value is not None for value in final), len(rows)),
        share("right", right, len(rows)),
        f"{calls / len(rows):.1f} calls a question",
    ]


def value_of(call: ToolCall) -> str | None:
    """What the calculator answers; None for a call that it does not understand."""
    try:
        return calculate(str(json.loads(call.arguments)["expression"])) if call.name == "calculator" else None
    except (ValueError, KeyError, TypeError):
        return None


def ask_story(engine: Engine, voice: Voice, rows: Rows) -> list[str]:
    """Questions about a passage."""
    answers = generate(engine, voice, [row["messages"][:-1] for row in rows], [[]] * len(rows), 60)
    scores = [f1(text, row["messages"][-1]["content"]) for (text, _, _), row in zip(answers, rows, strict=True)]
    return [share("end", sum(stopped for *_, stopped in answers), len(rows)), f"F1 {sum(scores) / len(scores):.3f}"]


def ask_tools(engine: Engine, voice: Voice, rows: Rows) -> list[str]:
    """Requests that a tool answers."""
    answers = generate(engine, voice, [row["messages"] for row in rows], [row.get("tools") or [] for row in rows], 120)
    offered = [{(tool.get("function") or tool).get("name") for tool in row.get("tools") or []} for row in rows]
    called = [calls[0].name if calls else None for _, calls, _ in answers]
    return [
        share("a call of a tool that was offered", sum(name in names for name, names in zip(called, offered, strict=True)), len(rows)),
        share("the right one", sum(name == row["call"]["name"] for name, row in zip(called, rows, strict=True)), len(rows)),
    ]


def f1(said: str, right: str) -> float:
    """Words in common, as SQuAD counts them but for articles."""
    a, b = said.lower().split(), right.lower().split()
    common = sum(min(a.count(word), b.count(word)) for word in set(a))
    return 2 * common / (len(a) + len(b)) if common else 0.0


def share(name: str, count: int, total: int) -> str:
    """A share with its 95 % interval."""
    if not total:
        return f"{name}: none"
    interval = wilson(count, total)
    return f"{name} {count / total:.0%} [{interval.low:.0%}, {interval.high:.0%}]"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
