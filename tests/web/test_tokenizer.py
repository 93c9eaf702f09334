"""The tokenizer page's answers: ids and merges against the `tokenizers` library, the vocabulary, bytes per token."""

import json
import random
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from bloomery.core.errors import DataError
from bloomery.core.files import write_json
from bloomery.tokens.train import train_bpe, write_tokenizer
from bloomery.tokens.usage import REPORT
from bloomery.web.directory import ArtifactEntry
from bloomery.web.tokenizer.api import encode, explain
from bloomery.web.tokenizer.merges import MergeTable
from bloomery.web.tokenizer.shelf import LoadedTokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog. The dog did not mind; it was the quickest fox of 1,234 foxes!",
    "def add(a: int, b: int) -> int:\n    return a + b\n\n\nprint(add(1, 22))  # 23\n",
    "Größe, Übung, naïve café — “quotes” … 你好世界 こんにちは مرحبا بالعالم שלום Привет, мир 👩‍👩‍👧‍👦 🇩🇪",
] * 20
ALPHABET = [
    "a",
    "b",
    "the",
    " the",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "1",
    "234",
    "é",
    "e\u0301",
    "你",
    "👩‍👩‍👧",
    "م",
    "\x00",
    "\u202e",
    "'s",
    "ing",
    "Fox",
    ".",
]
ODD = [
    "",
    " ",
    "\x00",
    "a" * 3000,
    " " * 3000,
    "👩‍👩‍👧‍👦",
    "مرحبا",
    "<|end|>",
    "\ufffd",
    "e\u0301\u0301\u0301",
    "the" * 500,
    "\u2028x\u2029",
]


def ours(folder: Path) -> Path:
    write_tokenizer(folder, train_bpe(TEXTS, vocab_size=500, pattern="llama3"), pattern="llama3")
    return folder / "tokenizer.json"


def gpt2_like(folder: Path) -> Path:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    )
    return save(tokenizer, folder)


def llama_like(folder: Path) -> Path:
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    specials = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=specials, limit_alphabet=60, max_token_length=12, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    path = save(tokenizer, folder)
    data = json.loads(path.read_text())
    data["added_tokens"] = []  # the bytes are entries of the vocabulary, as in Llama's file
    path.write_text(json.dumps(data))
    return path


def save(tokenizer: tokenizers.Tokenizer, folder: Path) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


@pytest.fixture(scope="module", params=[ours, gpt2_like, llama_like], ids=lambda make: make.__name__)
def file(request, tmp_path_factory) -> Path:
    return request.param(tmp_path_factory.mktemp(request.param.__name__))


def library_of(file: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(json.dumps({**json.loads(file.read_text()), "added_tokens": []}))


def fuzz_texts() -> list[str]:
    dice = random.Random(7)
    return [*ODD, *TEXTS[:3], *("".join(dice.choices(ALPHABET, k=dice.randint(1, 60))) for _ in range(400))]


def test_following_the_merges_gives_the_ids_of_the_tokenizers_library(file):
    table, library = MergeTable(json.loads(file.read_text())), library_of(file)
    for text in fuzz_texts():
        assert table.encode(text) == library.encode(text, add_special_tokens=False).ids, repr(text)


def test_the_steps_of_a_token_build_it_and_nothing_else(file):
    table, library = MergeTable(json.loads(file.read_text())), library_of(file)
    names = {i: name for name, i in json.loads(file.read_text())["model"]["vocab"].items()}
    merges = [tuple(pair) for pair in json.loads(file.read_text())["model"]["merges"]]
    num_steps = 0
    for text in [*TEXTS[:3], *fuzz_texts()[20:60]]:
        ids = library.encode(text, add_special_tokens=False).ids
        for place, token in enumerate(ids):
            why = table.explain(text, place)
            assert why.tokens[why.place] == names[token]
            assert [table.id_of(name) for name in why.tokens] == ids[why.first : why.first + len(why.tokens)]
            made = set()
            for step in why.steps:
                assert merges[step.rank] == (step.left, step.right)
                assert all(part in made or len(part) == 1 or part.startswith("<0x") for part in (step.left, step.right))
                made.add(step.left + step.right)
            assert not why.steps or why.steps[-1].left + why.steps[-1].right == names[token]
            assert why.steps or why.is_whole or len(names[token]) == 1 or names[token].startswith("<0x")
            num_steps += len(why.steps)
    assert num_steps > 500


def test_a_tokenizer_whose_merges_cannot_be_followed_says_why():
    with pytest.raises(DataError, match="end_of_word_suffix = '</w>'"):
        MergeTable({"model": {"type": "BPE", "vocab": {}, "merges": [], "end_of_word_suffix": "</w>"}})


@pytest.mark.parametrize("make", [gpt2_like, llama_like])
def test_a_tokenizer_of_others_is_shown_and_explained(make, tmp_path):
    file = make(tmp_path)
    write_json(tmp_path / "tokenizer_config.json", {"eos_token": "e"})
    entry = ArtifactEntry(id="0" * 16, name="theirs", stage="export", kind="checkpoint", fingerprint="0" * 64, path=tmp_path)
    loaded, library = LoadedTokenizer(entry), library_of(file)
    for text in [text for text in fuzz_texts()[:60] if text]:
        told = encode(loaded, text, specials=False)
        assert told["ids"] == library.encode(text, add_special_tokens=False).ids
        assert all(i in told["tokens"] for i in told["ids"])
        for place in range(0, len(told["ids"]), 7):
            why = explain(loaded, text, place)
            assert why["piece"][why["place"]]["id"] == told["ids"][place]
    assert encode(loaded, "e\u0301", specials=False)["is_exact"] is False  # both change a text before they cut it


@pytest.fixture(scope="module")
def tokenizer_id(web) -> str:
    status, told = web.ask("/api/tokenizer/list")
    assert status == 200
    return told["tokenizers"][0]["id"]


def test_every_tokenizer_of_the_store_is_listed_and_no_path_is_told(web):
    _, told = web.ask("/api/tokenizer/list")
    assert [(one["name"], one["kind"]) for one in told["tokenizers"]] == [
        ("smoke/tokenizer", "tokenizer"), ("smoke/base", "checkpoint"), ("smoke/sft", "checkpoint"), ("smoke/dpo", "checkpoint"),
        ("smoke/chat", "checkpoint"),
    ]  # fmt: skip
    assert told["documents"][0] == {"id": told["documents"][0]["id"], "name": "smoke/corpus", "held_out": True}
    assert str(web.store) not in json.dumps(told)


def test_a_text_is_shown_in_the_ids_of_the_tokenizers_library(web, tokenizer_id):
    library = library_of(next(web.store.glob("artifacts/train_tokenizer-*/tokenizer.json")))
    for text in [*ODD, *TEXTS[:3], "x" * 100_000]:
        status, told = web.ask("/api/tokenizer/encode", method="POST", body={"tokenizer": tokenizer_id, "text": text})
        assert status == 200
        assert told["ids"] == library.encode(text, add_special_tokens=False).ids
        assert told["num_bytes"] == len(text.encode()) and told["is_exact"]
        parts = [told["tokens"][str(i)] for i in told["ids"]]
        assert b"".join(bytes.fromhex(part["hex"]) if "hex" in part else part["text"].encode() for part in parts) == text.encode()


def test_what_looks_like_a_special_token_is_text_unless_it_is_asked_for(web, tokenizer_id):
    body = {"tokenizer": tokenizer_id, "text": "a<|end|>b"}
    _, plain = web.ask("/api/tokenizer/encode", method="POST", body=body)
    _, special = web.ask("/api/tokenizer/encode", method="POST", body={**body, "specials": True})
    assert not any(token.get("special") for token in plain["tokens"].values())
    assert [special["tokens"][str(i)].get("special", False) for i in special["ids"]] == [False, True, False]


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"text": "a"}, 400, "tokenizer"),
        ({"tokenizer": "../../etc/passwd", "text": "a"}, 400, "tokenizer"),
        ({"tokenizer": "0" * 16, "text": "a"}, 404, "tokenizer"),
        ({"tokenizer": None, "text": "a" * 100_001}, 400, "100000"),
        ({"tokenizer": None, "text": 5}, 400, "text"),
        ({"tokenizer": None, "text": "a", "path": "/etc/passwd"}, 400, "path"),
    ],
)
def test_a_wrong_request_is_refused_by_name(web, tokenizer_id, body, status, named):
    body = {**body, "tokenizer": tokenizer_id} if body.get("tokenizer", "") is None else body
    found, told = web.ask("/api/tokenizer/encode", method="POST", body=body)
    assert (found, named in told["error"]["message"]) == (status, True)


def test_a_lone_surrogate_is_refused_and_the_server_lives(web, tokenizer_id):
    status, told = web.ask("/api/tokenizer/encode", method="POST", body={"tokenizer": tokenizer_id, "text": "\ud800"})
    assert status == 400 and "Invalid JSON" in told["error"]["message"]
    assert web.ask("/health")[0] == 200


def test_why_a_token_is_told_with_its_merges(web, tokenizer_id):
    status, told = web.ask("/api/tokenizer/why", method="POST", body={"tokenizer": tokenizer_id, "text": "return the value", "place": 0})
    assert status == 200
    assert told["place"] == 0 and told["piece"][0]["text"] == "".join(
        [told["steps"][-1]["left"]["text"], told["steps"][-1]["right"]["text"]]
    )
    assert all(0 <= step["rank"] < told["num_merges"] for step in told["steps"])
    status, told = web.ask("/api/tokenizer/why", method="POST", body={"tokenizer": tokenizer_id, "text": "a", "place": 1})
    assert status == 400 and "place: 1" in told["error"]["message"]


def test_the_vocabulary_is_searched_by_part_beginning_and_id_page_by_page(web, tokenizer_id):
    def search(**params):
        text = "&".join(f"{name}={value}" for name, value in params.items())
        status, told = web.ask(f"/api/tokenizer/vocabulary?tokenizer={tokenizer_id}&{text}")
        assert status == 200, told
        return told

    every = [search(offset=offset, limit=200) for offset in range(0, 1024, 200)]
    rows = [row for page in every for row in page["rows"]]
    assert [row["id"] for row in rows] == list(range(1024)) and every[0]["num_found"] == 1024
    texts = {row["id"]: row.get("text", "") for row in rows}
    assert {row["id"] for row in search(text="re", limit=200)["rows"]} == {i for i, text in texts.items() if "re" in text}
    assert {row["id"] for row in search(text="%20t", how="begins")["rows"]} == {i for i, text in texts.items() if text.startswith(" t")}
    assert [row["id"] for row in search(text="101", how="id")["rows"]] == [101, *range(1010, 1020)]
    assert search(text="end%7C", how="contains")["rows"][0]["special"] is True
    for wrong in ("how=regex", "limit=201", "limit=0", "offset=-1", "offset=x", "text=" + "a" * 201):
        assert web.ask(f"/api/tokenizer/vocabulary?tokenizer={tokenizer_id}&{wrong}")[0] == 400


def test_bytes_per_token_are_those_of_the_report_or_measured_on_held_out_text(web, tokenizer_id):
    report = json.loads(next(web.store.glob(f"artifacts/train_tokenizer-*/{REPORT}")).read_text())
    _, told = web.ask(f"/api/tokenizer/usage?tokenizer={tokenizer_id}")
    assert told["by"]["language"][0]["bytes_per_token"] == report["by"]["language"]["en"]["bytes_per_token"]
    _, listed = web.ask("/api/tokenizer/list")
    corpus = listed["documents"][0]["id"]
    status, measured = web.ask(f"/api/tokenizer/usage?tokenizer={tokenizer_id}&documents={corpus}")
    assert status == 200
    row = measured["by"]["language"][0]
    assert row["name"] == "en" and row["bytes_per_token"] == pytest.approx(row["bytes"] / row["tokens"], rel=1e-3)
    assert 1 < row["bytes_per_token"] < 8
    checkpoint = listed["tokenizers"][1]["id"]
    assert web.ask(f"/api/tokenizer/usage?tokenizer={checkpoint}&documents={corpus}")[1] == measured  # the same file
    status, told = web.ask(f"/api/tokenizer/usage?tokenizer={checkpoint}")
    assert status == 404 and "choose documents" in told["error"]["message"]
