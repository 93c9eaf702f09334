"""`bloomery labels`: a campaign of a finished run's models is made, answered, told of and exported from the command line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("sqlalchemy")
pytest.importorskip("alembic")

from bloomery.cli.main import app
from bloomery.web.labels.database import open_database
from bloomery.web.labels.voting import cast_vote, join_annotator, next_turn


@pytest.fixture
def labels(tmp_path: Path, smoke_store: Path):
    def call(*arguments, code=0):
        where = ["--labels", f"sqlite:///{tmp_path}/votes.sqlite", "--store", str(smoke_store)]
        done = CliRunner().invoke(app, ["labels", *map(str, arguments), *where, "--json"])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)

    return call


def test_a_campaign_from_models_of_a_run_to_a_file_of_votes(labels, tmp_path):
    made = labels(
        "create", "first", "--model", "smoke/sft", "--model", "smoke/dpo", "--prompts", "smoke/skills", "--num-prompts", 6,
        "--max-tokens", 6, "--temperature", 1, "--overlap", 2,
    )  # fmt: skip
    assert (made["prompts"], made["answers"]) == (6, 12)
    assert labels("answers", "first")["made"] == 0
    database = open_database(f"sqlite:///{tmp_path}/votes.sqlite")
    for name in ("ann", "bob"):
        annotator = join_annotator(database, name)
        while (turn := next_turn(database, "first", annotator.key)).shown is not None:
            client_id = f"{name}-{turn.shown.key}"
            cast_vote(database, comparison=turn.shown.key, annotator=annotator.key, client_id=client_id, choice="left", milliseconds=900)
    database.close()
    labels("annotator", "ann", "--quota", 3)
    (campaign,) = labels("status", "first")["campaigns"]
    assert campaign["models"] == ["smoke/sft", "smoke/dpo"] and campaign["votes"] == 2 * campaign["items"]
    assert campaign["results"]["ratings"] is not None
    out = tmp_path / "labels" / "votes.jsonl"
    assert labels("export", "first", "--out", out)["rows"] == campaign["items"]
    first = out.read_bytes()
    labels("export", "first", "--out", out)
    assert out.read_bytes() == first
    assert labels("export", "first", "--out", tmp_path / "kto.jsonl", "--format", "kto")["items"] == campaign["items"]
    assert labels("export", "first", "--out", tmp_path / "votes.csv", "--format", "csv")["rows"] == campaign["votes"]
    assert labels("close", "first") == {"campaign": "first", "is_open": False}


def test_what_cannot_be_a_campaign_is_said_before_any_answer_is_made(labels, tmp_path):
    prompts = ["--prompts", "smoke/skills", "--max-tokens", 4]
    assert "samples = 2" in labels("create", "x", "--model", "smoke/sft", *prompts, code=2)["error"]
    assert "neither a run nor a model" in labels("create", "x", "--model", "smoke/nothing", *prompts, code=1)["error"]
    assert "no campaign" in labels("export", "x", "--out", tmp_path / "x.jsonl", code=1)["error"]
