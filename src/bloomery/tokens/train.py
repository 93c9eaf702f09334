"""Byte-level BPE training (Sennrich et al. 2016, arXiv:1508.07909; on bytes as in GPT-2), and the files that hold the result.

Training is rustbpe's (2.6 times as fast as Hugging Face's trainer, with the same vocabulary); Hugging Face's is used
where rustbpe has no wheel. The result is written as the `tokenizer.json` that Llama-3 has, so that every reader of
that file reads ours, and with a pre-tokenizer pattern that llama.cpp knows by name: it refuses any other.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal  # Any: the values of a JSON document

import tokenizers

from bloomery.core.errors import ConfigError
from bloomery.core.files import write_text
from bloomery.tokens.chat import CHAT_TEMPLATE
from bloomery.tokens.tokenizer import SPECIAL_TOKENS, byte_characters, split_long_whitespace

try:
    import rustbpe
except ImportError:  # no wheel for this platform
    rustbpe = None

PatternName = Literal["llama3", "qwen2"]

PATTERNS: dict[PatternName, str] = {
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""How text is cut into pieces before merging, letter for letter as in the tokenizer.json of Llama-3 and of Qwen2.
llama.cpp's names for them are `llama-bpe` and `qwen2`."""

SPARE_MERGES = 64
"""Trained in excess: now and then two merges give the same bytes, and one of the two ids could never be used."""


def train_bpe(texts: Iterable[str], *, vocab_size: int, pattern: PatternName, extra_specials: Sequence[str] = ()) -> list[bytes]:
    """The bytes of each token, in the order of ids and without specials: the 256 single bytes, then one a merge.

    `vocab_size` counts the specials, SPECIAL_TOKENS and the extra ones. The list is shorter than asked for when `texts`
    has too few different pieces. Raises ConfigError if vocab_size leaves no room for bytes and specials.
    """
    smallest = 256 + len(SPECIAL_TOKENS) + len(extra_specials)
    if vocab_size < smallest:
        raise ConfigError(
            f"vocab_size = {vocab_size} is too small: 256 bytes, the {len(SPECIAL_TOKENS)} special tokens of the chat format and "
            f"{len(extra_specials)} more of your own need {smallest}"
        )
    wanted = vocab_size - smallest + 256
    pieces = (part for text in texts for part in split_long_whitespace(text))
    if rustbpe is None:
        found = _train_with_hugging_face(pieces, wanted + SPARE_MERGES, PATTERNS[pattern])
    else:
        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(pieces, wanted + SPARE_MERGES, pattern=PATTERNS[pattern])
        found = [bytes(token) for token, _ in sorted(trainer.get_mergeable_ranks(), key=lambda pair: pair[1])]
    return list(dict.fromkeys(found))[:wanted]


def is_one_piece(name: str, pattern: PatternName) -> bool:
    """Whether `name` is one piece of text, so that merges may make it: as a special token it would be in the vocabulary twice."""
    return len(_split(PATTERNS[pattern]).pre_tokenize_str(name)) == 1


def write_tokenizer(folder: Path, tokens: list[bytes], *, pattern: PatternName, extra_specials: Sequence[str] = ()) -> None:
    """Writes tokenizer_config.json, then tokenizer.json, of `tokens` (from `train_bpe`); specials get the last ids, extra ones after."""
    specials = list(enumerate([*SPECIAL_TOKENS, *extra_specials], start=len(tokens)))
    config = {
        "add_bos_token": False,
        "add_eos_token": False,
        "added_tokens_decoder": {str(i): _added_token(token) for i, token in specials},
        "bos_token": "<|bos|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_text(folder / "tokenizer_config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    write_text(folder / "tokenizer.json", json.dumps(_tokenizer_json(tokens, specials, pattern), indent=1, ensure_ascii=False) + "\n")


def _tokenizer_json(tokens: list[bytes], specials: Sequence[tuple[int, str]], pattern: PatternName) -> dict[str, Any]:
    table = byte_characters()
    names = ["".join(table[byte] for byte in token) for token in tokens]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, **_added_token(token)} for i, token in specials],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PATTERNS[pattern]}, "behavior": "Isolated", "invert": False},
                {**byte_level, "use_regex": False},
            ],
        },
        "post_processor": {**byte_level, "use_regex": True},
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {name: i for i, name in enumerate(names)},
            "merges": [list(pair) for pair in _merges(names)],
        },
    }


def _merges(names: list[str]) -> Iterator[tuple[str, str]]:
    # tiktoken merges ANY two neighbours whose bytes together are a token; a merge list only the pairs it names. So it
    # names every way to cut a token into two tokens (as the conversion of Llama-3's did), and all readers agree.
    rank = {name: i for i, name in enumerate(names)}
    for name in names[256:]:
        cuts = [(name[:k], name[k:]) for k in range(1, len(name)) if name[:k] in rank and name[k:] in rank]
        yield from sorted(cuts, key=lambda pair: (rank[pair[0]], rank[pair[1]]))


def _added_token(content: str) -> dict[str, Any]:
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def _split(pattern: str) -> tokenizers.pre_tokenizers.Split:
    return tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")


def _train_with_hugging_face(texts: Iterable[str], num_tokens: int, pattern: str) -> list[bytes]:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([_split(pattern), byte_level])
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=num_tokens, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [bytes([b]) for b in range(256)] + [bytes(byte_of[c] for c in left + right) for left, right in merges]
