"""The tokenizer stage learns from training documents alone, and gives the same bytes each time."""

import json
from pathlib import Path

import pytest
import transformers

from bloomery.core.config import check_config
from bloomery.core.documents import document_table, write_documents
from bloomery.core.errors import DataError
from bloomery.core.stage import Runtime
from bloomery.stages.train_tokenizer import TrainTokenizerConfig, train_tokenizer
from bloomery.tokens.tokenizer import load_tokenizer

TEXTS = [f"The committee number {i} has met in the committee room." for i in range(40)]


def write_shard(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_documents(path, document_table([{"id": f"{path.stem}-{i}", "text": text} for i, text in enumerate(texts)]))


def run(documents: list[Path], out: Path, **config: object) -> dict[str, object]:
    return train_tokenizer(TrainTokenizerConfig(**{"vocab_size": 300, **config}), documents=documents, out=out, runtime=Runtime())


def test_the_output_is_a_tokenizer_that_others_load(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "00000.parquet", TEXTS)
    metrics = run([tmp_path / "in"], tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.vocab_size == metrics["vocab_size"] == 300
    assert metrics["documents"] == 40
    assert metrics["bytes"] == sum(map(len, TEXTS))
    assert metrics["bytes_per_token"] == pytest.approx(sum(map(len, TEXTS)) / sum(len(tokenizer.encode(t)) for t in TEXTS), abs=1e-4)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert auto.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<|bos|><|user|>hi<|end|>"


def test_validation_documents_are_not_seen(tmp_path: Path) -> None:
    write_shard(tmp_path / "mix" / "train" / "00000.parquet", TEXTS)
    run([tmp_path / "mix"], tmp_path / "a")
    write_shard(tmp_path / "mix" / "validation" / "00000.parquet", ["zyzzyva " * 200])
    assert run([tmp_path / "mix"], tmp_path / "b")["documents"] == 40
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "b" / "tokenizer.json").read_bytes()


def test_how_documents_are_spread_over_files_does_not_matter(tmp_path: Path) -> None:
    write_shard(tmp_path / "one" / "00000.parquet", TEXTS)
    write_shard(tmp_path / "two" / "00000.parquet", TEXTS[:10])
    write_shard(tmp_path / "two" / "00001.parquet", TEXTS[10:])
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    outputs = []
    for name, source in (("a", tmp_path / "one"), ("b", tmp_path / "two"), ("c", tmp_path / "lines.jsonl")):
        run([source], tmp_path / name)
        outputs.append((tmp_path / name / "tokenizer.json").read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]


def test_of_more_text_than_the_sample_some_documents_are_taken(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "00000.parquet", TEXTS)
    metrics = run([tmp_path / "in"], tmp_path / "out", sample_bytes=1000)
    assert 5 <= int(str(metrics["documents"])) <= 35


def test_of_one_long_document_some_parts_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "corpus.txt").write_text("\n".join(TEXTS * 5))
    whole = run([tmp_path / "corpus.txt"], tmp_path / "whole")
    monkeypatch.setattr("bloomery.stages.train_tokenizer.PART_CHARACTERS", 100)
    monkeypatch.setattr("bloomery.stages.train_tokenizer.REPORT_BYTES", 2000)
    metrics = run([tmp_path / "corpus.txt"], tmp_path / "parts", sample_bytes=3000)
    assert whole["documents"] == 1 and 1500 <= int(str(metrics["bytes"])) <= 4500
    report = json.loads((tmp_path / "parts" / "tokenizer_report.json").read_text())
    assert report["documents"] == 1 and report["bytes"] == pytest.approx(whole["bytes"], rel=0.4)


def test_a_temperature_that_only_the_largest_survives_is_no_overflow(tmp_path: Path) -> None:
    write_languages(tmp_path / "in")
    assert 50 <= int(str(run([tmp_path / "in"], tmp_path / "out", temperature=0.001)["documents"])) <= 65


def test_a_vocabulary_that_came_out_smaller_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_shard(tmp_path / "in" / "00000.parquet", TEXTS)
    metrics = run([tmp_path / "in"], tmp_path / "out", vocab_size=4096)
    assert (
        f"vocab_size = 4096 was asked for, but {metrics['bytes']} bytes of text have pieces for {metrics['vocab_size']} entries"
        in caplog.text
    )


def test_documents_without_text_are_an_error(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "00000.parquet", ["", ""])
    with pytest.raises(DataError, match="hold no text"):
        run([tmp_path / "in"], tmp_path / "out")


SMALL, LARGE = "Mtoto mdogo anacheza na paka wake mweusi nyumbani.", "The committee has met in the committee room again."


def write_languages(folder: Path) -> None:
    rows = [{"id": f"en-{i}", "text": LARGE * 3, "source": "web", "language": "en"} for i in range(60)]
    rows += [{"id": f"sw-{i}", "text": SMALL, "source": "stories", "language": "sw"} for i in range(6)]
    folder.mkdir(parents=True)
    write_documents(folder / "00000.parquet", document_table(rows))


def bytes_per_token(folder: Path, group: str, name: str) -> float:
    return json.loads((folder / "tokenizer_report.json").read_text())["by"][group][name]["bytes_per_token"]


def test_weights_and_a_temperature_feed_a_small_language(tmp_path: Path) -> None:
    write_languages(tmp_path / "in")
    found = {}
    for name, config in (
        ("plain", {}),
        ("weighted", {"weights": {"stories": 40.0}}),
        ("by language", {"weights": {"sw": 40.0}, "sample_by": "language"}),
        ("warm", {"temperature": 5.0}),
    ):
        run([tmp_path / "in"], tmp_path / name, vocab_size=290, **config)
        found[name] = bytes_per_token(tmp_path / name, "language", "sw")
    assert found["plain"] < found["warm"] <= found["weighted"] == found["by language"]
    assert found["weighted"] > 1.5 * found["plain"]


def test_a_weight_multiplies_a_share_and_the_sample_stays_as_large(tmp_path: Path) -> None:
    write_languages(tmp_path / "in")
    plain = run([tmp_path / "in"], tmp_path / "plain")
    weighted = run([tmp_path / "in"], tmp_path / "weighted", weights={"stories": 10.0})
    # 300 of 9300 bytes times ten: 3,000 of 12,000, so a quarter of the sample: some 2,300 bytes, seven or eight of each document.
    assert weighted["bytes"] == pytest.approx(plain["bytes"], rel=0.15)
    assert 40 <= int(str(weighted["documents"])) - 60 * 9000 / 12000 <= 60


def test_a_weight_of_an_unknown_source_is_refused(tmp_path: Path) -> None:
    write_languages(tmp_path / "in")
    with pytest.raises(DataError, match='no documents of the source "storys"; did you mean "stories"'):
        run([tmp_path / "in"], tmp_path / "out", weights={"storys": 2.0})


def test_reserved_tokens_are_there_for_later_stages(tmp_path: Path) -> None:
    write_languages(tmp_path / "in")
    run([tmp_path / "in"], tmp_path / "out", reserved_tokens=3, special_tokens=["<|tool|>"])
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.vocab_size == 300
    assert {"<|tool|>": 296, "<|reserved_0|>": 297, "<|reserved_2|>": 299}.items() <= tokenizer.special_ids.items()


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"vocab_size": 255}, "256"),
        ({"vocab_size": 200_001}, "200000"),
        ({"vocab_size": 261}, "256 bytes and 8 special tokens need 264"),
        ({"vocab_size": 270, "reserved_tokens": 20}, "need 284"),
        ({"special_tokens": ["<|end|>"]}, "there already"),
        ({"special_tokens": ["<|a|>", "<|a|>"]}, "given twice"),
        ({"special_tokens": ["the"]}, r"'the' is what ordinary text is made of; use a name that is not, such as <|the|>"),
        ({"special_tokens": ["é"]}, "'é' is what ordinary text is made of"),
        ({"special_tokens": ["Ġthe"]}, "'Ġthe' is what ordinary text is made of"),
    ],
)
def test_sizes_and_names_that_do_not_fit_are_config_errors(table: dict[str, object], match: str) -> None:
    _, mistakes = check_config(TrainTokenizerConfig, table)
    assert len(mistakes) == 1 and match in mistakes[0], mistakes


def test_the_report_counts_what_counting_by_hand_finds(tmp_path: Path) -> None:
    write_languages(tmp_path / "in")
    metrics = run([tmp_path / "in"], tmp_path / "out")
    report = json.loads((tmp_path / "out" / "tokenizer_report.json").read_text())
    tokenizer = load_tokenizer(tmp_path / "out")
    large, small = tokenizer.encode(LARGE * 3), tokenizer.encode(SMALL)
    ids = large * 60 + small * 6
    assert report["tokens"] == len(ids) and report["documents"] == 66
    assert report["bytes"] == 60 * len(LARGE * 3) + 6 * len(SMALL)
    assert report["one_byte_fraction"] == pytest.approx(sum(i < 256 for i in ids) / len(ids), abs=1e-4)
    assert report["vocabulary_used_fraction"] == pytest.approx(len(set(ids)) / 292, abs=1e-4)
    assert report["by"]["source"]["stories"] == {**report["by"]["language"]["sw"]}
    assert report["by"]["language"]["sw"]["bytes_per_token"] == pytest.approx(len(SMALL) / len(small), abs=1e-4)
    top, longest = report["most_frequent_tokens"][0], report["longest_tokens"][0]
    assert top["times"] == max(ids.count(i) for i in set(ids)) == ids.count(top["id"])
    assert longest["bytes"] == tokenizer.token_bytes().max()
    assert metrics["bytes_per_token"] == report["bytes_per_token"]
    page = (tmp_path / "out" / "tokenizer_report.md").read_text()
    assert "## By language" in page and "| sw | 6 |" in page


def test_each_source_is_measured_and_the_whole_is_weighted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_languages(tmp_path / "in")
    exact = run([tmp_path / "in"], tmp_path / "exact")
    monkeypatch.setattr("bloomery.stages.train_tokenizer.REPORT_BYTES", 2000)
    run([tmp_path / "in"], tmp_path / "sampled")
    report = json.loads((tmp_path / "sampled" / "tokenizer_report.json").read_text())
    assert report["by"]["source"]["stories"]["documents"] == 6
    assert report["bytes_per_token"] == pytest.approx(exact["bytes_per_token"], rel=0.25)
