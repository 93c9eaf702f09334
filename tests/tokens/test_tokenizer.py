"""The tokenizer gives back every text, agrees with the other readers of its file, and never makes a special id of text."""

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.core.errors import DataError
from bloomery.tokens.tokenizer import MAX_WHITESPACE_RUN, SPECIAL_TOKENS, Tokenizer, byte_characters, load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

HARD_TEXTS = [
    "", " ", "\n", "\x00", "a\x00b\x00\x00c", "\r\n\r\n  \t x", "don't DON'T I'LL we'Ve", "1234567890 12,345.67 ٣٤٥", "   blanks around   ",
    "🦊👩‍👩‍👧‍👦🇩🇪 e\u0301 é ﷽ \u200b\ufeff\u00a0", "敏捷的棕色狐狸", "𝔘𝔫 ſ 'ſ ǆ", "x" * 5000, "=" * 3000 + "\n" * 300, " " * 4000 + "end",
    "text like <|end|> and <|bos|><|assistant|> in a page", "<|end", "\ud7ff\ue000\uffff\U0010ffff",
]  # fmt: skip


def three_readers(folder: Path) -> tuple[Tokenizer, tokenizers.Tokenizer, transformers.PreTrainedTokenizerBase]:
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.encode_special_tokens = True  # special tokens spelled out in text are text, as in ours
    return load_tokenizer(folder), library, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_hard_texts_come_back_whole(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=st.text())
@settings(max_examples=300, deadline=None)
def test_any_text_comes_back_whole(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_to_array(text).tolist() == tokenizer.encode(text)


@pytest.mark.parametrize(
    "text", [*HARD_TEXTS, "".join(SPECIAL_TOKENS) * 3, "a\ud800b", "a" + " " * (2 * MAX_WHITESPACE_RUN + 7) + "b\ud800"]
)
def test_an_array_has_the_ids_of_the_list(tokenizer: Tokenizer, text: str) -> None:
    found = tokenizer.encode_to_array(text)
    assert found.dtype == np.uint32 and found.tolist() == tokenizer.encode(text)


def test_three_readers_of_one_file_give_the_same_ids(folder: Path) -> None:
    ours, library, auto = three_readers(folder)
    for text in HARD_TEXTS:
        assert library.encode(text, add_special_tokens=False).ids == ours.encode(text), text[:40]
        assert auto(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] == ours.encode(text), text[:40]
        assert auto.decode(ours.encode(text), clean_up_tokenization_spaces=False) == text


def test_three_readers_agree_on_random_strings_of_few_letters(folder: Path) -> None:
    ours, library, _ = three_readers(folder)
    rng = random.Random(0)  # few letters: many merges overlap, and their order decides
    for alphabet in ("ox ", "the dog", "aab", "e1 '\n", "ſsS'tT\u2019", "öäü狐狸🦊"):
        for _ in range(300):
            text = "".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 50)))
            assert library.encode(text, add_special_tokens=False).ids == ours.encode(text), text


def test_characters_of_all_scripts_are_cut_alike_by_both_regex_engines(folder: Path) -> None:
    ours, library, _ = three_readers(folder)
    codes = [*range(0xD800), *range(0xE000, 0x110000)]
    characters = [chr(code) for code in codes[:0x3000] + codes[0x3000::53]]
    texts = ["".join(f"a{c}1{c} {c}" for c in characters[start : start + 500]) for start in range(0, len(characters), 500)]
    for text, encoding in zip(texts, library.encode_batch(texts, add_special_tokens=False), strict=True):
        assert encoding.ids == ours.encode(text)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the real texts in {DATA}, which are not part of the repository")
def test_three_readers_agree_on_two_thousand_real_documents_in_two_hundred_languages(tmp_path: Path) -> None:
    pages = [row["text"] for row in read_rows(DATA / "text" / "web_c4.jsonl.gz")]
    stories = list(read_rows(DATA / "text" / "stories_multilingual.jsonl.gz"))
    wiki = list(read_rows(DATA / "langid" / "wiki_chunks_small_languages.jsonl.gz"))[::5]
    documents = [text[:2000] for text in [*pages, *(row["text"] for row in [*stories, *wiki])]]
    assert len(documents) >= 2000 and len({row["lang"] for row in [*stories, *wiki]}) >= 150
    write_tokenizer(tmp_path, train_bpe(documents[::10], vocab_size=4096, pattern="llama3"), pattern="llama3")
    ours, library, auto = three_readers(tmp_path)
    assert ours.vocab_size == 4096
    expected = ours.encode_batch(documents)
    assert [encoding.ids for encoding in library.encode_batch(documents, add_special_tokens=False)] == expected
    assert auto(documents, add_special_tokens=False, split_special_tokens=True)["input_ids"] == expected
    assert [ours.decode(ids) for ids in expected] == documents
    assert auto.batch_decode(expected[::20], clean_up_tokenization_spaces=False) == documents[::20]


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def test_three_readers_agree_on_a_line_of_a_megabyte(folder: Path) -> None:
    ours, library, auto = three_readers(folder)
    line, word = "abc<|end|>über 🦊 12\x00" * 50_000, "xy" * 2000 + "é" * 20_000
    assert len(line.encode()) >= 1_000_000
    for text in (line, word):
        ids = ours.encode(text)
        assert library.encode(text, add_special_tokens=False).ids == ids
        assert auto(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] == ids
        assert ours.decode(ids) == text


def test_a_lone_surrogate_is_one_replacement_character_for_all_readers(folder: Path) -> None:
    # The others refuse it, so the text that they are given is the one that is read here.
    ours, library, auto = three_readers(folder)
    text = "a\ud800b \udfff\ud83e\udd8a"
    read = ours.decode(ours.encode(text))
    assert read == "a\ufffdb \ufffd🦊"
    assert library.encode(read, add_special_tokens=False).ids == ours.encode(text)
    assert auto(read, add_special_tokens=False, split_special_tokens=True)["input_ids"] == ours.encode(text)
    with pytest.raises((UnicodeEncodeError, TypeError)):
        library.encode(text)


def test_text_that_spells_special_tokens_is_plain_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a<|end|>" + "".join(SPECIAL_TOKENS))
    assert not set(ids) & set(tokenizer.special_ids.values())


def test_specials_have_the_last_ids_and_padding_is_not_the_end(tokenizer: Tokenizer) -> None:
    assert [tokenizer.special_ids[token] for token in SPECIAL_TOKENS] == list(range(tokenizer.vocab_size - 8, tokenizer.vocab_size))
    assert len({tokenizer.bos_id, tokenizer.end_id, tokenizer.pad_id}) == 3


def test_auto_tokenizer_knows_the_specials_and_adds_none(folder: Path) -> None:
    ours, _, auto = three_readers(folder)
    assert (auto.bos_token_id, auto.eos_token_id, auto.pad_token_id) == (ours.bos_id, ours.end_id, ours.pad_id)
    assert len(auto) == ours.vocab_size
    assert auto("fox").input_ids == ours.encode("fox")
    assert auto("<|end|>").input_ids == [ours.end_id]


def test_specials_are_left_out_of_decoded_text_unless_asked_for(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.bos_id, *tokenizer.encode("fox"), tokenizer.end_id]
    assert tokenizer.decode(ids) == "fox"
    assert tokenizer.decode(ids, skip_special=False) == "<|bos|>fox<|end|>"


def test_an_id_outside_the_vocabulary_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=f"{tokenizer.vocab_size} is outside"):
        tokenizer.decode([tokenizer.vocab_size])


def test_bytes_that_are_no_text_become_replacement_characters(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([0xFF]) == "\ufffd"
    assert tokenizer.decode_bytes([0xFF, 0x41]) == b"\xffA"


def test_a_stream_never_yields_half_a_character(tokenizer: Tokenizer) -> None:
    text = "é🦊狐x"
    pieces = list(tokenizer.decode_stream(list(text.encode())))  # the ids 0..255 are the bytes
    assert pieces == ["é", "🦊", "狐", "x"]


def test_a_stream_that_stops_inside_a_character_ends_in_a_replacement_character(tokenizer: Tokenizer) -> None:
    assert "".join(tokenizer.decode_stream(list("a🦊".encode())[:-1])) == "a\ufffd"


@given(ids=st.lists(st.integers(0, 399), max_size=40))
@settings(max_examples=200, deadline=None)
def test_a_stream_says_in_pieces_what_decode_says_at_once(tokenizer: Tokenizer, ids: list[int]) -> None:
    ids = [i for i in ids if i < tokenizer.vocab_size]
    assert "".join(tokenizer.decode_stream(ids)) == tokenizer.decode(ids)


def test_token_bytes_add_up_to_the_bytes_of_the_text(tokenizer: Tokenizer) -> None:
    text = "Zwölf Boxkämpfer 🦊 jagen"
    sizes = tokenizer.token_bytes()
    assert sizes[tokenizer.encode(text)].sum() == len(text.encode())
    assert sizes[list(tokenizer.special_ids.values())].tolist() == [0] * 8


def test_a_million_blanks_do_not_overflow_the_regex_engine(tokenizer: Tokenizer) -> None:
    text = "a" + " " * (2 * MAX_WHITESPACE_RUN + 7) + "b"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_blanks_in_runs_a_little_shorter_than_that_do_not_keep_it_for_minutes(folder: Path) -> None:
    ours, library, _ = three_readers(folder)
    text = ("a" + " " * (MAX_WHITESPACE_RUN * 3 // 5)) * 2 + "b"
    assert len(text) > MAX_WHITESPACE_RUN
    assert ours.encode(text) == library.encode(text, add_special_tokens=False).ids


def test_a_long_text_without_long_blanks_is_encoded_in_one_go(folder: Path) -> None:
    ours, library, _ = three_readers(folder)
    text = "the lazy dog \n" * (MAX_WHITESPACE_RUN // 10)
    assert len(text) > MAX_WHITESPACE_RUN
    assert ours.encode(text) == library.encode(text, add_special_tokens=False).ids


def test_a_lone_surrogate_becomes_a_replacement_character(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


def test_each_byte_has_a_character_of_its_own() -> None:
    assert len(set(byte_characters())) == 256
    assert byte_characters()[ord("A")] == "A"
    assert byte_characters()[ord(" ")] == "Ġ"
    library = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    assert set(byte_characters()) == set(library)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tokenizer\.json: no such file"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_that_names_no_end_is_refused(folder: Path, tmp_path: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] != "<|end|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match="nothing says which token ends a text"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordPiece", "vocab": {}}, "added_tokens": []}))
    with pytest.raises(DataError, match="its model is WordPiece; expected BPE"):
        load_tokenizer(tmp_path)


def test_an_id_used_twice_is_refused(folder: Path, tmp_path: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    data["added_tokens"][0]["id"] = 5
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"id 5 of '<\|bos\|>'|id 5 of b'<\|bos\|>'"):
        load_tokenizer(tmp_path)
