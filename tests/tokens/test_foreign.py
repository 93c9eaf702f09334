"""Tokenizers of other people's checkpoints give the ids that AutoTokenizer gives."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from bloomery.core.errors import DataError
from bloomery.tokens.chat import render
from bloomery.tokens.tokenizer import Tokenizer, load_tokenizer
from bloomery.tokens.train import PATTERNS

TEXTS = [
    "The furnace is 1234 degrees hot, isn't it?  Yes\n\n\tno", "Cafe\u0301 na\u00efve \u2126", "日本語のテキスト 12", " leading, trailing ",
    "<|endoftext|> and </s> are text", "emoji 🙂🏽\x00 end", "", "   ", "the the the cat",
]  # fmt: skip


def make_qwen(folder: Path) -> None:
    """Byte-level with a normaliser and Qwen's pattern; no bos, and padding is the end."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERNS["qwen2"]), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, alphabet=pre_tokenizers.ByteLevel.alphabet(), specials=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    save(tokenizer, folder, bos_token=None, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def make_smollm(folder: Path) -> None:
    """Byte-level with single digits and GPT-2's pattern; the bos it names is never added."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, alphabet=pre_tokenizers.ByteLevel.alphabet(), specials=["<|endoftext|>", "<|im_start|>"])
    save(tokenizer, folder, bos_token="<|im_start|>", eos_token="<|endoftext|>", pad_token=None)


def make_llama3(folder: Path) -> None:
    """Byte-level with a bos that the post-processor puts before every text."""
    make_qwen(folder)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    begin = tokenizer.token_to_id("<|im_start|>")
    template = processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", begin)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    save(tokenizer, folder, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token=None)


def make_mistral(folder: Path) -> None:
    """As SentencePiece makes it: blanks are a letter, unknown characters single bytes."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    train(tokenizer, alphabet=[], specials=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))])
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = data["added_tokens"][:3]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(data))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    save(tokenizer, folder, bos_token="<s>", eos_token="</s>", pad_token=None)


def train(tokenizer: tokenizers.Tokenizer, *, alphabet: list[str], specials: list[str]) -> None:
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator([text for text in TEXTS if "<" not in text and "\x00" not in text] * 3, trainer)


def save(tokenizer: tokenizers.Tokenizer, folder: Path, **names: str | None) -> None:
    from transformers import PreTrainedTokenizerFast

    given = {role: token for role, token in names.items() if token is not None}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **given).save_pretrained(folder)


def plain_ids(auto: Any, text: str) -> list[int]:
    ids: list[int] = auto(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


@pytest.mark.parametrize("make", [make_qwen, make_smollm, make_llama3, make_mistral])
def test_ids_are_those_of_auto_tokenizer_and_their_bytes_are_the_text(tmp_path: Path, make: Any) -> None:
    from transformers import AutoTokenizer

    make(tmp_path)
    ours, auto = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert ours.vocab_size == len(auto)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == plain_ids(auto, text), text
        whole = ours.decode(ids)
        expected = auto.backend_tokenizer.normalizer.normalize_str(text) if auto.backend_tokenizer.normalizer else text
        assert whole == expected.replace("▁", " ")
        assert ours.token_bytes()[ids].sum() == len(whole.encode())


@pytest.mark.parametrize(
    ("make", "bos", "end", "pad"),
    [
        (make_qwen, None, "<|endoftext|>", "<|endoftext|>"),
        (make_smollm, None, "<|endoftext|>", "<|endoftext|>"),
        (make_llama3, "<|im_start|>", "<|im_end|>", "<|im_end|>"),
        (make_mistral, "<s>", "</s>", "</s>"),
    ],
)
def test_a_text_begins_as_auto_tokenizer_begins_it_and_ends_with_eos(
    tmp_path: Path, make: Any, bos: str | None, end: str, pad: str
) -> None:
    from transformers import AutoTokenizer

    make(tmp_path)
    ours, auto = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert [*ours.begin, *ours.encode("the cat")] == auto("the cat")["input_ids"]
    assert ours.bos_id == (None if bos is None else ours.special_ids[bos])
    assert (ours.end_id, ours.pad_id) == (ours.special_ids[end], ours.special_ids[pad]) and ours.end_id == auto.eos_token_id


def test_the_end_is_looked_up_in_the_models_config_where_the_tokenizer_names_none(tmp_path: Path) -> None:
    make_qwen(tmp_path)
    end = load_tokenizer(tmp_path).special_ids["<|im_end|>"]
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [end, 0]}))
    assert load_tokenizer(tmp_path).end_id == end
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 151643}))
    with pytest.raises(DataError, match=r"eos_token_id in config\.json is 151643"):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(DataError, match="nothing says which token ends a text"):
        load_tokenizer(tmp_path)


def test_a_vocabulary_that_cannot_spell_every_text_is_refused(tmp_path: Path) -> None:
    make_qwen(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pre_tokenizer": {"type": "Whitespace"}}))
    with pytest.raises(DataError, match="neither a ByteLevel pre-tokenizer nor byte_fallback"):
        load_tokenizer(tmp_path)


def test_a_conversation_cannot_be_rendered_without_marks_for_its_roles(tmp_path: Path) -> None:
    make_qwen(tmp_path)
    tokenizer: Tokenizer = load_tokenizer(tmp_path)
    with pytest.raises(DataError, match=r"the tokenizer has no <\|system\|>, <\|user\|>, <\|assistant\|>"):
        render(tokenizer, [{"role": "user", "content": "hello"}])


def test_an_added_token_never_comes_of_text_marked_special_or_not(tmp_path: Path) -> None:
    make_qwen(tmp_path)
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.add_tokens(["<think>"])
    save(tokenizer, tmp_path, eos_token="<|endoftext|>")
    ours = load_tokenizer(tmp_path)
    text = "a <think> b <|endoftext|>"
    assert "<think>" in ours.special_ids and not set(ours.encode(text)) & set(ours.special_ids.values())
    assert ours.decode(ours.encode(text)) == text


def test_a_lone_surrogate_becomes_a_replacement_character(tmp_path: Path) -> None:
    make_qwen(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
