"""Training finds the most frequent pairs, makes exactly as many tokens as asked, and the same bytes every time."""

import json
from collections import Counter
from pathlib import Path

import pytest
import tokenizers
import transformers

from bloomery.core.errors import ConfigError
from bloomery.tokens import train
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import PATTERNS, train_bpe, write_tokenizer

WORDS = ["low", "lower", "lowest", "newer", "newest", "wider", "widest", "slow", "slower"]
TEXTS = [" ".join(WORDS[(i * i + k) % len(WORDS)] for k in range(7)) for i in range(30)]


def brute_force_bpe(words: Counter[bytes], num_merges: int) -> list[bytes]:
    """BPE as in the paper's listing: count pairs, merge the most frequent; of equal ones the pair of lowest ids."""
    tokens = [bytes([b]) for b in range(256)]
    rank = {token: i for i, token in enumerate(tokens)}
    split = {word: [bytes([b]) for b in word] for word in words}
    for _ in range(num_merges):
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for word, count in words.items():
            for pair in zip(split[word], split[word][1:], strict=False):
                pairs[pair] += count
        if not pairs:
            break
        left, right = min(pairs, key=lambda pair: (-pairs[pair], rank[pair[0]], rank[pair[1]]))
        rank[left + right] = len(tokens)
        tokens.append(left + right)
        for word, parts in split.items():
            merged, i = [], 0
            while i < len(parts):
                if parts[i : i + 2] == [left, right]:
                    merged.append(left + right)
                    i += 2
                else:
                    merged.append(parts[i])
                    i += 1
            split[word] = merged
    return tokens


def test_merges_are_those_of_byte_pair_encoding_written_from_the_paper() -> None:
    words = Counter(piece.encode() for text in TEXTS for piece, _ in pieces(text))
    assert train_bpe(TEXTS, vocab_size=264 + 20, pattern="llama3") == brute_force_bpe(words, 20)


def pieces(text: str) -> list[tuple[str, tuple[int, int]]]:
    return tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERNS["llama3"]), "isolated").pre_tokenize_str(text)


def test_the_specials_are_counted_in_the_vocabulary() -> None:
    assert len(train_bpe(TEXTS, vocab_size=280, pattern="llama3")) == 272


def test_a_corpus_with_too_little_in_it_gives_a_smaller_vocabulary(tmp_path: Path) -> None:
    tokens = train_bpe(["aaaa"], vocab_size=4096, pattern="llama3")
    assert tokens[256:] == [b"aa", b"aaaa"]
    write_tokenizer(tmp_path, tokens, pattern="llama3")
    assert load_tokenizer(tmp_path).vocab_size == 266


def test_no_two_ids_stand_for_the_same_bytes() -> None:
    # "abc" comes of ab + c in one word and of a + bc in the other: two merges, one token.
    texts = ["xab xab xab xab abc abc abc", "bcy bcy bcy bcy aabc aabc " * 4, "abcabc cabc bcab " * 9]
    tokens = train_bpe(texts, vocab_size=264 + 40, pattern="llama3")
    assert len(set(tokens)) == len(tokens)


def test_a_vocabulary_without_room_for_bytes_and_specials_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"vocab_size = 261 .* need 264"):
        train_bpe(TEXTS, vocab_size=261, pattern="llama3")


def test_extra_specials_come_after_those_of_the_chat_format_and_count(tmp_path: Path) -> None:
    extra = ["<|tool|>", "<|reserved_0|>"]
    tokens = train_bpe(TEXTS, vocab_size=290, pattern="llama3", extra_specials=extra)
    write_tokenizer(tmp_path, tokens, pattern="llama3", extra_specials=extra)
    ours, auto = load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours.vocab_size == len(auto) == 290
    assert [ours.special_ids[name] for name in extra] == [auto.convert_tokens_to_ids(name) for name in extra] == [288, 289]
    assert not {288, 289} & set(ours.encode("a <|tool|> and <|reserved_0|>"))
    with pytest.raises(ConfigError, match=r"vocab_size = 263 is too small.*2 more of your own need 266"):
        train_bpe(TEXTS, vocab_size=263, pattern="llama3", extra_specials=extra)


def test_ids_beyond_two_bytes_are_written_and_read(tmp_path: Path) -> None:
    tokens = [bytes([b]) for b in range(256)]
    tokens += [first + second for first in tokens for second in tokens]
    write_tokenizer(tmp_path, tokens, pattern="llama3")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocab_size == len(tokens) + 8 > 65_536
    assert max(tokenizer.encode("a \u00ff\u00ff")) < tokenizer.vocab_size and tokenizer.end_id > 65_536


def test_the_same_texts_give_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tokenizer(tmp_path / name, train_bpe(TEXTS, vocab_size=300, pattern="qwen2"), pattern="qwen2")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_library_reads_and_writes_the_file_without_changing_it(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, train_bpe(TEXTS, vocab_size=300, pattern="llama3"), pattern="llama3")
    ours = json.loads((tmp_path / "tokenizer.json").read_text())
    assert json.loads(tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).to_str()) == ours


def test_digits_are_cut_in_threes_for_llama3_and_one_by_one_for_qwen2(tmp_path: Path) -> None:
    for pattern, expected in (("llama3", ["123", "456", "7"]), ("qwen2", list("1234567"))):
        write_tokenizer(tmp_path / pattern, train_bpe(["1234567 " * 50], vocab_size=290, pattern=pattern), pattern=pattern)
        tokenizer = load_tokenizer(tmp_path / pattern)
        assert [tokenizer.decode([i]) for i in tokenizer.encode("1234567")] == expected


def test_hugging_faces_trainer_takes_over_where_rustbpe_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = train_bpe(TEXTS, vocab_size=264 + 12, pattern="llama3")
    monkeypatch.setattr(train, "rustbpe", None)
    tokens = train_bpe(TEXTS, vocab_size=264 + 12, pattern="llama3")
    assert len(tokens) == len(expected)
    assert len(set(tokens) & set(expected)) >= 262  # equally frequent pairs go in another order
    write_tokenizer(tmp_path, tokens, pattern="llama3")
    assert load_tokenizer(tmp_path).decode(load_tokenizer(tmp_path).encode(TEXTS[0])) == TEXTS[0]


def test_a_page_of_a_million_blanks_does_not_stop_the_training() -> None:
    assert len(train_bpe([*TEXTS, "x" + " " * 1_000_003 + "y"], vocab_size=272, pattern="llama3")) == 264
