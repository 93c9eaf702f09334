"""`bloomery serve` as a process of its own: what it says, whom it answers, how it ends."""

import itertools
import json
import os
import signal
import subprocess
import sys

import openai
import pytest
from typer.testing import CliRunner

from bloomery.cli.main import app
from bloomery.model.config import ModelConfig
from bloomery.model.huggingface import save_model
from bloomery.model.transformer import Transformer
from bloomery.tokens.train import train_bpe, write_tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "smith"
    folder.mkdir()
    write_tokenizer(folder, train_bpe(["hello there"], vocab_size=264, pattern="llama3"), pattern="llama3")
    config = ModelConfig(vocab_size=264, dim=16, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=16, mlp_dim=16, max_positions=64)
    save_model(Transformer(config, seed=1), folder, tokenizer=folder)
    return folder


def test_it_says_where_it_is_answers_and_ends_at_ctrl_c(checkpoint):
    command = [
        sys.executable,
        "-m",
        "bloomery",
        "serve",
        str(checkpoint),
        "--port",
        "0",
        "--json",
        "--debug",
        "--precision",
        "bf16",
        "--device",
        "cpu",
    ]
    environment = {**os.environ, "BLOOMERY_TOKEN": "not-to-be-seen"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        told = json.loads("".join(itertools.takewhile(lambda line: line != "}\n", process.stdout)) + "}")
        assert told["model"] == "smith" and told["context_tokens"] == 64
        with openai.OpenAI(base_url=told["url"], api_key="not-to-be-seen", timeout=30) as client:
            answer = client.chat.completions.create(model="smith", messages=[{"role": "user", "content": "hi"}], max_tokens=3)
            assert answer.usage.completion_tokens <= 3
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode in (0, 130)
    assert "Traceback" not in errors and "not-to-be-seen" not in errors
    assert "/v1/chat/completions: " in errors


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "token"),
        (["--host", "nowhere.invalid", "--token", "x"], "cannot listen"),
        (["--rows", "0"], "rows"),
        (["--precision", "int4"], "int4"),
    ],
)
def test_what_cannot_be_served_is_said_before_the_model_is_read(options, said, monkeypatch):
    monkeypatch.delenv("BLOOMERY_TOKEN", raising=False)
    result = CliRunner().invoke(app, ["serve", "no-such-model", *options])
    assert result.exit_code == 2
    assert said in result.output


def test_without_the_packages_the_line_to_type_is_said(monkeypatch):
    for name in [name for name in sys.modules if name == "bloomery.chat.server" or name.split(".")[0] == "starlette"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    result = CliRunner().invoke(app, ["serve", "no-such-model"])
    assert (result.exit_code, "pip install 'bloomery[serve]'" in result.output) == (2, True)
