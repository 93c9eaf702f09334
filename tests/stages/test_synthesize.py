import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bloomery.core.conversation import find_problem
from bloomery.core.documents import document_table, write_documents
from bloomery.core.errors import ConfigError
from bloomery.core.stage import Runtime
from bloomery.stages.synthesize import SynthesizeConfig, synthesize

SKILLS_ONLY = SynthesizeConfig(skills=["addition", "copy", "sort_words"], num_skill_examples=90, num_skill_tests=20)
DOCUMENTATION = SynthesizeConfig(kinds=["documentation"])


def page(module: str, *names: str) -> dict[str, Any]:
    functions = "".join(f"{name}(first, second=None)\nDo the {name} thing with both of them. And more.\n" for name in sorted(names))
    return {"id": module, "url": f"https://pydoc.local/{module}.html", "text": f"{module}\n\nFunctions\n{functions}\nData\nx = 1\n"}


def write_pages(folder: Path, num_files: int = 3) -> Path:
    for i in range(num_files):
        pages = [page(f"module{i}{j}", *(f"work{n}" for n in range(j * 7, j * 7 + 6))) for j in range(8)]
        write_documents(
            folder / f"{i:05d}.parquet", document_table([*pages, {"id": "w", "url": "https://news.com/a.html", "text": "news"}])
        )
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


def prompts(path: Path) -> set[str]:
    return {row["messages"][0]["content"] for row in rows(path)}


def run(config: SynthesizeConfig, out: Path, *, workers: int = 1, documents: list[Path] | None = None) -> dict[str, Any]:
    return dict(synthesize(config, documents=documents or [], out=out, runtime=Runtime(workers=workers, quiet=True)))


def test_conversations_hold_the_gold_and_test_prompts_do_not(tmp_path: Path) -> None:
    run(SKILLS_ONLY, tmp_path)
    for row in rows(tmp_path / "train.jsonl.gz"):
        assert find_problem(row["messages"]) is None
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert row["messages"][1]["content"] == row["answer"]
        assert re.fullmatch(row["format"], row["answer"])
    for row in rows(tmp_path / "test.jsonl.gz"):
        assert [message["role"] for message in row["messages"]] == ["user"]
        assert set(row) == {"messages", "skill", "answer", "format"}


def test_counts_are_shared_out_evenly_and_reported(tmp_path: Path) -> None:
    metrics = run(SKILLS_ONLY, tmp_path)
    assert metrics["train_rows"] == 90 == len(prompts(tmp_path / "train.jsonl.gz"))
    assert metrics["test_rows"] == 20 == len(prompts(tmp_path / "test.jsonl.gz"))
    assert {name: count for name, count in metrics.items() if "/" in name} == {
        "train/addition": 30, "train/copy": 30, "train/sort_words": 30, "test/addition": 6, "test/copy": 7, "test/sort_words": 7,
    }  # fmt: skip


def test_no_prompt_stands_in_training_and_test(tmp_path: Path) -> None:
    config = SynthesizeConfig(kinds=["skills", "documentation"], num_skill_examples=2000)
    run(config, tmp_path / "out", documents=[write_pages(tmp_path / "pages")])
    train, test = prompts(tmp_path / "out" / "train.jsonl.gz"), prompts(tmp_path / "out" / "test.jsonl.gz")
    assert any("`" in prompt for prompt in test) and len(test) > 500
    assert not train & test


def test_rows_of_all_skills_are_mixed(tmp_path: Path) -> None:
    run(SKILLS_ONLY, tmp_path)
    assert {row["skill"] for row in rows(tmp_path / "train.jsonl.gz")[:20]} == set(SKILLS_ONLY.skills)


def test_documentation_questions_are_answered_by_the_documents(tmp_path: Path) -> None:
    metrics = run(DOCUMENTATION, tmp_path / "out", documents=[write_pages(tmp_path / "pages", num_files=1)])
    answers = {row["messages"][0]["content"]: row["answer"] for row in rows(tmp_path / "out" / "train.jsonl.gz")}
    assert "Do the work3 thing with both of them." in answers.values()
    assert "first, second" in answers.values()
    assert metrics["train/documentation"] == len(answers) > 100


def test_a_question_that_two_modules_answer_differently_is_not_asked(tmp_path: Path) -> None:
    run(DOCUMENTATION, tmp_path / "out", documents=[write_pages(tmp_path / "pages", num_files=2)])
    asked = prompts(tmp_path / "out" / "train.jsonl.gz")
    assert asked and not any("defin" in prompt for prompt in asked)  # both files define work0 .. work47


def test_one_worker_two_workers_and_a_continued_run_give_the_same_bytes(tmp_path: Path) -> None:
    pages = [write_pages(tmp_path / "pages")]
    config = SynthesizeConfig(kinds=["skills", "documentation"], skills=["copy"], num_skill_examples=50, max_documentation_examples=60)
    metrics = [run(config, tmp_path / "one", documents=pages), run(config, tmp_path / "two", workers=2, documents=pages)]
    continued = tmp_path / "continued"
    run(config, continued, documents=pages)
    (continued / "train.jsonl.gz").unlink()
    (continued / ".scratch" / "00001.jsonl").unlink()
    metrics.append(run(config, continued, documents=pages))
    for name in ("train.jsonl.gz", "test.jsonl.gz"):
        contents = {(tmp_path / folder / name).read_bytes() for folder in ("one", "two", "continued")}
        assert len(contents) == 1
    assert metrics[0] == metrics[1] == metrics[2]
    assert metrics[0]["train/documentation"] == 60


def test_validation_documents_are_not_asked_about(tmp_path: Path) -> None:
    write_documents(tmp_path / "mix" / "train" / "00000.parquet", document_table([page("seen", "a1", "b1", "c1", "d1", "e1")]))
    write_documents(tmp_path / "mix" / "validation" / "00000.parquet", document_table([page("kept_back", "f1", "g1")]))
    run(DOCUMENTATION, tmp_path / "out", documents=[tmp_path / "mix"])
    text = " ".join(prompts(tmp_path / "out" / "train.jsonl.gz"))
    assert "seen." in text and "kept_back" not in text


def test_documents_without_documentation_give_no_rows_and_no_failure(tmp_path: Path) -> None:
    write_documents(tmp_path / "web" / "00000.parquet", document_table([{"id": "1", "url": "https://a.org/x.html", "text": "Hello."}]))
    assert run(DOCUMENTATION, tmp_path / "out", documents=[tmp_path / "web"]) == {"train_rows": 0, "test_rows": 0}


def test_documentation_without_documents_is_a_mistake_of_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no documents are given"):
        run(DOCUMENTATION, tmp_path)


def test_an_unknown_skill_is_named_with_the_nearest_one() -> None:
    with pytest.raises(ValidationError, match='unknown skill "adition"; did you mean "addition"'):
        SynthesizeConfig(skills=["adition"])


def test_wordy_demonstrations_say_the_gold_in_a_sentence_ever_more_often_from_skill_to_skill(tmp_path: Path) -> None:
    config = SynthesizeConfig(skills=["copy", "reverse", "sort_numbers"], num_skill_examples=900, num_skill_tests=20, wordy_fraction=0.25)
    run(config, tmp_path / "wordy")
    run(SynthesizeConfig(**{**config.model_dump(), "wordy_fraction": 0.0}), tmp_path / "plain")
    wordy = dict.fromkeys(config.skills, 0)
    for uneven, even in zip(rows(tmp_path / "wordy" / "train.jsonl.gz"), rows(tmp_path / "plain" / "train.jsonl.gz"), strict=True):
        assert (uneven["answer"], uneven["format"], uneven["messages"][0]) == (even["answer"], even["format"], even["messages"][0])
        said = uneven["messages"][1]["content"]
        assert said in (even["answer"], f"The answer is {even['answer']}.")
        wordy[uneven["skill"]] += said != even["answer"]
        assert (said == even["answer"]) == bool(re.fullmatch(even["format"], said))
    assert wordy["copy"] == 0
    assert 0.18 < wordy["reverse"] / 300 < 0.32 and 0.42 < wordy["sort_numbers"] / 300 < 0.58
    assert (tmp_path / "wordy" / "test.jsonl.gz").read_bytes() == (tmp_path / "plain" / "test.jsonl.gz").read_bytes()


def test_wrong_demonstrations_say_another_prompts_answer_and_leave_gold_and_tests_alone(tmp_path: Path) -> None:
    config = SynthesizeConfig(skills=["addition", "next_number"], num_skill_examples=800, num_skill_tests=20, wrong_fraction=0.3)
    run(config, tmp_path / "wrong")
    run(SynthesizeConfig(**{**config.model_dump(), "wrong_fraction": 0.0}), tmp_path / "right")
    num_wrong = num_rows = 0
    for careless, careful in zip(rows(tmp_path / "wrong" / "train.jsonl.gz"), rows(tmp_path / "right" / "train.jsonl.gz"), strict=True):
        assert (careless["answer"], careless["messages"][0]) == (careful["answer"], careful["messages"][0])
        assert re.fullmatch(careless["format"], careless["messages"][1]["content"])
        num_rows += 1
        num_wrong += careless["messages"][1]["content"] != careful["answer"]
    assert 0.22 < num_wrong / num_rows < 0.36
    assert (tmp_path / "wrong" / "test.jsonl.gz").read_bytes() == (tmp_path / "right" / "test.jsonl.gz").read_bytes()


def test_manners_are_flawed_answers_critiques_and_comparisons_in_the_constitutions_words(tmp_path: Path) -> None:
    config = SKILLS_ONLY.model_copy(update={"kinds": ["skills", "manners"], "num_manners_examples": 90})
    metrics = synthesize(config, out=tmp_path, runtime=Runtime(quiet=True))
    train = rows(tmp_path / "train.jsonl.gz")
    assert metrics["train_rows"] == len(train) and metrics["manners/critiques"] == metrics["manners/comparisons"] == 30
    assert [find_problem(row["messages"]) for row in train] == [None] * len(train)
    critiques = [row for row in train if row["skill"] == "critique"]
    for row in critiques:
        assert [message.get("loss", True) for message in row["messages"] if message["role"] == "assistant"] == [False, True, True]
        assert row["messages"][2]["content"].startswith("Is it") and "answer" not in row
    comparisons = [row["messages"] for row in train if row["skill"] == "comparison"]
    assert {messages[-1]["content"] for messages in comparisons} == {"A", "B"}
    assert all(re.match(r"Which is [a-z ]+\?\n.*\nA: .*\nB: ", messages[0]["content"]) for messages in comparisons)
    held_out = prompts(tmp_path / "test.jsonl.gz")
    assert not held_out & {row["messages"][0]["content"] for row in critiques}
    with pytest.raises(ValidationError, match='unknown flaw "calmm"'):
        SynthesizeConfig(kinds=["manners"], flaws=["calmm"])


def test_choices_are_made_of_skills_and_of_documents_and_tests_of_held_out_instances(tmp_path: Path) -> None:
    config = SynthesizeConfig(kinds=["multiple_choice"], skills=["addition", "copy"], num_choice_examples=60, num_choice_tests=10)
    pages = write_pages(tmp_path / "pages")
    metrics = run(config, tmp_path / "out", documents=[pages])
    assert metrics == {"train_rows": 60, "test_rows": 10, "train/multiple_choice": 60, "test/multiple_choice": 10}
    train = prompts(tmp_path / "out" / "train.jsonl.gz")
    assert any("`module" in prompt for prompt in train) and any("+" in prompt for prompt in train)
    for row in rows(tmp_path / "out" / "train.jsonl.gz"):
        assert row["messages"][1]["content"] == row["answer"] and row["answer"] in "ABCD"
    first_lines = [{prompt.splitlines()[0] for prompt in prompts(tmp_path / "out" / f"{split}.jsonl.gz")} for split in ("train", "test")]
    assert not first_lines[0] & first_lines[1]


def test_calculator_conversations_have_the_tool_and_their_prompts_await_its_call(tmp_path: Path) -> None:
    config = SynthesizeConfig(kinds=["calculator"], num_calculator_examples=30, num_calculator_tests=5)
    assert run(config, tmp_path) == {"train_rows": 30, "test_rows": 5, "train/calculator": 30, "test/calculator": 5}
    for row in rows(tmp_path / "train.jsonl.gz"):
        assert [message["role"] for message in row["messages"]] == ["user", "assistant", "tool", "assistant"]
        assert row["tools"][0]["function"]["name"] == "calculator"
    assert all(len(row["messages"]) == 1 and row["tools"] for row in rows(tmp_path / "test.jsonl.gz"))
