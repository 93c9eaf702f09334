"""`bloomery generate`: every row answered or none, the same bytes however often it was killed."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from bloomery.chat.voice import load_voice
from bloomery.cli.main import app
from bloomery.core.errors import ConfigError, DataError
from bloomery.generate.answer_file import answer_file
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.config import ModelConfig
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

ROWS = [
    {"prompt": "Once upon a time", "topic": "tales"},
    {"messages": [{"role": "user", "content": "What is 3 + 4?"}]},
    {"prompt": "Once upon a time", "topic": "again"},
    {"prompt": "é " * 50},
]
SAMPLED = SamplingParams(max_tokens=20, temperature=1.0)


def write_rows(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A model of bytes, and a smaller one with the same tokenizer."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    write_tokenizer(root / "tokenizer", train_bpe(["once upon"], vocab_size=264, pattern="llama3"), pattern="llama3")
    for name, layers in (("large", 2), ("small", 1)):
        config = ModelConfig(
            vocab_size=264, dim=32, num_layers=layers, num_heads=2, num_kv_heads=1, head_dim=16, mlp_dim=32, max_positions=200
        )  # fmt: skip
        save_model(Transformer(config, seed=1), root / name, tokenizer=root / "tokenizer")
    return [root / "large", root / "small"]


def call(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["generate", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_each_row_gets_its_answers_and_keeps_what_it_has(folders: list[Path], tmp_path: Path) -> None:
    prompts, out = write_rows(tmp_path / "prompts.jsonl", ROWS), tmp_path / "deep" / "answers.jsonl"
    code, said, _ = call(
        folders[0], "--prompts", prompts, "--out", out, "-n", 3, "--temperature", 1, "--max-tokens", 20, "--json", "--logps"
    )
    assert code == 0 and json.loads(said)["num_answers"] == 12
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [{key: value for key, value in row.items() if key != "answers"} for row in rows] == ROWS
    tokenizer = load_tokenizer(folders[0])
    for answer in (answer for row in rows for answer in row["answers"]):
        assert answer["num_tokens"] == len(answer["tokens"]) == len(answer["logps"]) <= 20
        assert answer["text"] == tokenizer.decode(answer["tokens"]) and answer["finish"] in ("end", "length")
    assert len({tuple(answer["tokens"]) for row in rows for answer in row["answers"]}) > 8  # each has draws of its own
    assert [path.name for path in out.parent.iterdir()] == ["answers.jsonl"]


def test_the_file_is_the_same_however_often_it_was_killed(folders: list[Path], tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    prompts, voice = write_rows(tmp_path / "prompts.jsonl", ROWS), load_voice(folders[0], load_tokenizer(folders[0]))
    engine = Engine(load_model(folders[0]), voice)

    def run(out: Path, *, die_after: int) -> int:
        answered = 0

        def count(num_answers: int, num_tokens: int) -> None:
            nonlocal answered
            answered += num_answers if num_tokens else 0
            if answered >= die_after:
                raise Killed

        found = answer_file(
            engine, voice, SAMPLED, prompts=prompts, out=out, num_samples=2, seed=3, with_logps=True, identity={}, said=count
        )
        return found.num_kept

    assert run(tmp_path / "whole.jsonl", die_after=100) == 0
    out, part = tmp_path / "killed.jsonl", tmp_path / ".killed.jsonl.part"
    for die_after in (3, 1, 3):
        with pytest.raises(Killed):
            run(out, die_after=die_after)
        assert not out.exists()
        with part.open("a") as journal:
            journal.write('[3, 1, {"te')  # a line that was being written
    assert run(out, die_after=100) > 0
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes() and not part.exists()
    with pytest.raises(ConfigError, match=r"killed.jsonl exists already"):
        run(out, die_after=100)
    with pytest.raises(Killed):
        run(tmp_path / "other.jsonl", die_after=1)
    with pytest.raises(ConfigError, match=r"\.other\.jsonl\.part was begun with other settings \(seed\)"):
        answer_file(
            engine, voice, SAMPLED, prompts=prompts, out=tmp_path / "other.jsonl", num_samples=2, seed=4, with_logps=True, identity={}
        )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, r"3: expected either a `prompt` or `messages`, found text"),
        ({"prompt": "a", "messages": []}, r"3: expected either a `prompt` or `messages`, found messages, prompt"),
        ({"prompt": 5}, r"3: `prompt` must be a string, found 5"),
        ({"messages": [{"role": "robot", "content": "a"}]}, r"3: message 0 has the role 'robot'"),
        ({"prompt": "a" * 300}, r"3: a prompt of 301 tokens; the model reads 1 to 199"),
        ({"prompt": "a", "answers": []}, r"3: has `answers` already"),
        ([1], r"3: expected a JSON object, found list"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line_before_anything_is_answered(
    row: object, message: str, folders: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n\n" + json.dumps(row) + "\n", encoding="utf-8")
    voice = load_voice(folders[0], load_tokenizer(folders[0]))
    with pytest.raises(DataError, match=r"prompts\.jsonl:" + message):
        answer_file(Engine(load_model(folders[0]), voice), voice, SAMPLED, prompts=path, out=tmp_path / "out.jsonl", identity={})
    assert [file.name for file in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_a_draft_gives_the_same_greedy_answers_and_says_how_good_it_was(folders: list[Path], tmp_path: Path) -> None:
    prompts = write_rows(tmp_path / "prompts.jsonl", ROWS)
    plain, drafted = (["--prompts", prompts, "--max-tokens", 20, "--stop", "zz", "--json", "--out", tmp_path / name] for name in "ab")
    assert call(folders[0], *plain)[0] == 0
    code, said, _ = call(folders[0], "--draft", folders[1], *drafted)
    assert code == 0 and 0 <= json.loads(said)["acceptance_rate"] <= 1 <= json.loads(said)["tokens_per_pass"]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_mistakes_have_a_message_and_no_traceback(folders: list[Path], tmp_path: Path) -> None:
    prompts = write_rows(tmp_path / "prompts.jsonl", [])
    code, _, said = call(folders[0], "--prompts", prompts, "--out", tmp_path / "out.jsonl")
    assert code == 1 and "no rows in it" in said
    code, _, said = call(folders[0], "--prompts", prompts, "--out", tmp_path / "out.jsonl", "--repetition-penalty", 0)
    assert code == 2 and "repetition_penalty" in said
