"""The tokenizer of a checkpoint as llama.cpp wants it: tokens with their types, merges, and the name of how text is cut.

llama.cpp has no general tokenizer: how text is cut into pieces before merging is one of its own programs, chosen by
`tokenizer.ggml.pre`. A tokenizer.json that cuts in a way that llama.cpp has no name for is refused: under the name of
another it would load, and encode wrongly without a word.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple  # Any: the values of a tokenizer.json

from bloomery.core.errors import DataError
from bloomery.core.files import read_json

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""llama.cpp's types of tokens (`llama_token_type`)."""

LLAMA3_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTES, GPT2_SPLIT, DIGITS = "to bytes", "GPT-2's pattern", "single digits"

KNOWN_SPLITS: dict[tuple[str, ...], str] = {
    (LLAMA3_SPLIT, BYTES): "smaug-bpe",
    (QWEN2_SPLIT, BYTES): "qwen2",
    (GPT2_SPLIT,): "gpt-2",
    (DIGITS, GPT2_SPLIT): "smollm",
}
"""llama.cpp's names of the ways to cut text that are in use with these architectures."""
WHOLE_PIECES = {"smaug-bpe": "llama-bpe"}
"""Its names where, besides, a piece that is a token is not merged at all (`ignore_merges`)."""


class Vocabulary(NamedTuple):
    """What the `tokenizer.ggml.*` keys of a GGUF hold. `pre` and `merges` are empty for SentencePiece's, `scores` for the others."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    space_prefix: bool
    chat_template: str


def read_vocabulary(folder: Path, *, num_rows: int) -> Vocabulary:
    """The vocabulary in a checkpoint's folder, filled up to the model's `num_rows` with tokens that are never used.

    Raises DataError for a tokenizer that llama.cpp has no name for.
    """
    path = folder / "tokenizer.json"
    data: dict[str, Any] = read_json(path)
    tokens, types = _tokens(data, num_rows, path)
    merges = [pair.split(" ") if isinstance(pair, str) else list(pair) for pair in data["model"].get("merges", [])]
    template = _chat_template(folder)
    if data["model"].get("byte_fallback"):
        space_prefix = _check_sentencepiece(data, path)
        byte_types = [BYTE if re.fullmatch(r"<0x[0-9A-F]{2}>", token) else kind for token, kind in zip(tokens, types, strict=True)]
        return Vocabulary("llama", "default", tokens, byte_types, [], _scores(tokens, merges), space_prefix, template)
    pre = _name_of_split(data, path)
    return Vocabulary("gpt2", pre, tokens, types, [" ".join(pair) for pair in merges], [], False, template)


def _tokens(data: Mapping[str, Any], num_rows: int, path: Path) -> tuple[list[str], list[int]]:
    found: dict[int, tuple[str, int]] = {i: (token, NORMAL) for token, i in data["model"]["vocab"].items()}
    unknown = data["model"].get("unk_token")
    for added in data.get("added_tokens", []):
        kind = UNKNOWN if added["content"] == unknown else CONTROL if added["special"] else USER_DEFINED
        found[added["id"]] = (added["content"], kind)
    if found and max(found) >= num_rows:
        raise DataError(f"{path}: has the id {max(found)}, but the model's embeddings have {num_rows} rows")
    filled = [found.get(i, (f"[PAD{i}]", UNUSED)) for i in range(num_rows)]
    return [token for token, _ in filled], [kind for _, kind in filled]


def _name_of_split(data: Mapping[str, Any], path: Path) -> str:
    splitter = data.get("pre_tokenizer") or {}
    parts = [_describe(part) for part in (splitter.get("pretokenizers") or [splitter])]
    normalizer = (data.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):  # NFC: Qwen's; llama.cpp leaves it out for them, and text in NFC is what models see
        raise DataError(f"{path}: its normalizer is {normalizer}, which llama.cpp does not have")
    name = KNOWN_SPLITS.get(tuple(parts))
    if name is None:
        raise DataError(
            f"{path}: text is cut by {parts}, which llama.cpp has no name for: it knows GPT-2's, SmolLM's, Llama 3's and Qwen2's "
            "way. Export the model as hf, or train a tokenizer with one of them (train_tokenizer: pattern)"
        )
    return WHOLE_PIECES.get(name, name) if data["model"].get("ignore_merges") else name


def _describe(part: Mapping[str, Any]) -> str:
    kind = part.get("type")
    if kind == "Split" and part.get("behavior") == "Isolated" and not part.get("invert") and "Regex" in part["pattern"]:
        return str(part["pattern"]["Regex"])
    if kind == "ByteLevel" and not part.get("add_prefix_space"):
        return GPT2_SPLIT if part.get("use_regex", True) else BYTES
    if kind == "Digits" and part.get("individual_digits"):
        return DIGITS
    return json.dumps(dict(part), sort_keys=True)


def _check_sentencepiece(data: Mapping[str, Any], path: Path) -> bool:
    """Whether a blank is put before a text. Raises DataError for steps that SentencePiece's reader in llama.cpp does not take."""
    normalizer, splitter = data.get("normalizer") or {}, data.get("pre_tokenizer") or {}
    steps = [json.dumps(step, sort_keys=True) for step in (normalizer.get("normalizers") or [normalizer]) if step]
    blanks = json.dumps({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, sort_keys=True)
    prefix = json.dumps({"type": "Prepend", "prepend": "▁"}, sort_keys=True)
    if splitter.get("type") == "Metaspace" and not steps and not splitter.get("split", True):
        return str(splitter.get("prepend_scheme", "always")) != "never"
    if not splitter and set(steps) <= {blanks, prefix} and blanks in steps:
        return prefix in steps
    raise DataError(f"{path}: text is prepared by {steps} and {dict(splitter)}, which llama.cpp does not do for SentencePiece's tokens")


def _scores(tokens: list[str], merges: list[list[str]]) -> list[float]:
    # SentencePiece merges the pair whose result scores highest; a merge list, the pair that stands first.
    first: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        first.setdefault(left + right, rank)
    return [-float(first.get(token, len(merges))) for token in tokens]


def _chat_template(folder: Path) -> str:
    if (folder / "chat_template.jinja").is_file():
        template: Any = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    else:
        names = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
        template = names.get("chat_template") or ""
    if not isinstance(template, str):  # several, by name
        template = next((item["template"] for item in template if item.get("name") == "default"), "")
    # Readers outside transformers have no `generation` tag; an `if true` takes the same blanks away.
    template = re.sub(r"\{%(-?)\s*generation\s*(-?)%\}", r"{%\1 if true \2%}", template)
    return str(re.sub(r"\{%(-?)\s*endgeneration\s*(-?)%\}", r"{%\1 endif \2%}", template))
