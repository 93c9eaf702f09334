"""llama.cpp loads our GGUF: the same tokens, the same logits, the same greedy text as ours."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bloomery.core.stage import Runtime
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.config import ModelConfig, ModelShape, RopeScaling, make_model_config
from bloomery.model.gguf import read_gguf
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.stages.export import ExportConfig, export
from bloomery.tokens.chat import render
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import PATTERNS, train_bpe, write_tokenizer

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: pip install 'bloomery[parity]'")

TEXTS = [
    "The furnace takes raw ore and gives workable iron.",
    "A quick brown fox jumps over 12 lazy dogs, doesn't it?",
    "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich.",
    "Съешь ещё этих мягких французских булок, да выпей чаю.",
    "敏捷的棕色狐狸跳过懒狗。 🦊🦊 it's 2,345,678 o'clock!\n\n",
    "def add(a: int, b: int) -> int:\n    return a + b  # 1 + 1 == 2\n",
]
TRICKY = [
    "",
    " ",
    "  two  blanks ",
    "a\tb\r\n\r\nc",
    "I'LL we'Ve",
    "12345 1 22 333 4444",
    "é é ﷽ 𝔘",
    "<|end|>",
    "x" * 200,
    "\u200b\u00a0!?…",
]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def train(config: ModelConfig, rows: list[list[int]], *, steps: int = 120) -> Transformer:
    """A model that knows these rows by heart, so that greedy answers are no coin tosses."""
    model = Transformer(config, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    width = max(map(len, rows))
    token_BT = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask_BT = torch.tensor([[1.0] * (len(row) - 1) + [0.0] * (width - len(row)) for row in rows])
    for _ in range(steps):
        logits_BTV = model(token_BT[:, :-1])
        loss_BT = torch.nn.functional.cross_entropy(logits_BTV.transpose(1, 2), token_BT[:, 1:], reduction="none")
        ((loss_BT * mask_BT).sum() / mask_BT.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def make_tokenizer(folder: Path, pattern: str) -> Path:
    write_tokenizer(folder, train_bpe(TEXTS * 3, vocab_size=420, pattern=pattern), pattern=pattern)
    return folder


SHAPES = {
    "qwen3 (ours)": ("llama3", {}),
    "qwen3 (ours), single digits": ("qwen2", {"tied_embeddings": False}),
    "llama": ("llama3", {"qk_norm": False, "num_kv_heads": 1}),
    "qwen2": ("qwen2", {"qk_norm": False, "attention_bias": "qkv"}),
    "smollm3": ("llama3", {"qk_norm": False, "nope_layers": (3,), "num_layers": 5}),
}


@pytest.fixture(scope="module", params=SHAPES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pattern, settings = SHAPES[request.param]
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = load_tokenizer(make_tokenizer(folder / "tokenizer", pattern))
    shape = ModelShape(depth=2, dim=64, head_dim=32, mlp_dim=96, **settings)
    config = make_model_config(shape, vocab_size=tokenizer.vocab_size, max_positions=192)
    rows = [[*tokenizer.begin, *tokenizer.encode(text), tokenizer.end_id] for text in TEXTS]
    save_model(train(config, rows), folder / "model", tokenizer=folder / "tokenizer")
    return folder / "model"


def load_llama(folder: Path, **settings: object) -> "llama_cpp.Llama":
    (path,) = folder.glob("*.gguf")
    defaults = {"n_ctx": 192, "n_threads": 1, "n_threads_batch": 1, "logits_all": True, "verbose": False, "type_k": 0, "type_v": 0}
    return llama_cpp.Llama(str(path), **{**defaults, **settings})


def prompts(tokenizer) -> list[list[int]]:
    """20 beginnings of the texts, some mid-word."""
    rows = [[*tokenizer.begin, *tokenizer.encode(text)] for text in TEXTS]
    return [rows[i % len(rows)][: 2 + i] for i in range(20)]


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "q8_0"])
def test_llama_cpp_gives_the_tokens_logits_and_greedy_text_that_we_give(checkpoint: Path, dtype: str, tmp_path: Path) -> None:
    export(ExportConfig(format="gguf", dtype=dtype), model=checkpoint, out=tmp_path, runtime=Runtime(quiet=True))
    tokenizer, model, theirs = load_tokenizer(checkpoint), load_model(checkpoint), load_llama(tmp_path)
    weights = read_gguf(model, next(tmp_path.glob("*.gguf")))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])  # rounded as the file is
    assert theirs.n_vocab() == model.config.vocab_size
    for text in [*TEXTS, *TRICKY]:
        assert theirs.tokenize(text.encode(), add_bos=False) == tokenizer.encode(text), text
        assert theirs.tokenize(text.encode(), add_bos=True) == [*tokenizer.begin, *tokenizer.encode(text)]
        assert theirs.detokenize(tokenizer.encode(text)).decode().strip() == text.strip()
    asked = prompts(tokenizer)
    ours = Engine(model, tokenizer).generate(asked, SamplingParams(max_tokens=24, temperature=0.0), seeds=[0] * 20)
    found, difference = [], 0.0
    for prompt, sample in zip(asked, ours, strict=True):
        tokens = []
        theirs.reset()
        theirs.eval(prompt)
        while len(tokens) < 24 and tokenizer.end_id not in tokens:
            tokens.append(int(np.argmax(theirs.scores[theirs.n_tokens - 1])))
            theirs.eval(tokens[-1:])
        found.append(tokens)
        with torch.no_grad():
            logits_TV = model(torch.tensor([[*prompt, *sample.tokens]]))[0]
        same = len(prompt) + next((i for i, (a, b) in enumerate(zip(tokens, sample.tokens, strict=False)) if a != b), len(tokens))
        difference = max(difference, float(np.abs(theirs.scores[: same - 1] - logits_TV[: same - 1].numpy()).max()))
    assert found == [sample.tokens for sample in ours]
    # llama.cpp rounds what a matrix is multiplied with to the matrix's own format; ours stays in float32.
    assert difference < {"fp32": 2e-3, "fp16": 5e-2, "bf16": 0.5, "q8_0": 0.5}[dtype], difference


def test_a_chat_is_rendered_to_the_ids_that_we_render(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make_tokenizer(tmp_path / "tokenizer", "llama3"))
    config = make_model_config(ModelShape(depth=1, dim=64, head_dim=32), vocab_size=tokenizer.vocab_size, max_positions=64)
    save_model(Transformer(config, seed=1), tmp_path / "model", tokenizer=tmp_path / "tokenizer")
    export(ExportConfig(format="gguf", dtype="fp16"), model=tmp_path / "model", out=tmp_path / "out", runtime=Runtime(quiet=True))
    theirs = load_llama(tmp_path / "out", n_ctx=64)
    messages = [{"role": "user", "content": "Zwölf Boxer"}, {"role": "assistant", "content": "12"}, {"role": "user", "content": "dogs?"}]
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    marks = {"bos_token": "<|bos|>", "eos_token": "<|end|>"}
    text = Jinja2ChatFormatter(theirs.metadata["tokenizer.chat_template"], **marks)(messages=messages).prompt
    assert theirs.tokenize(text.encode(), add_bos=False, special=True) == render(tokenizer, messages, add_generation_prompt=True).ids
    assert theirs.create_chat_completion(messages, max_tokens=4)["usage"]["prompt_tokens"] == len(
        render(tokenizer, messages, add_generation_prompt=True).ids
    )


STRETCHED = {
    "linear": RopeScaling(kind="linear", factor=2.0),
    "llama3": RopeScaling(kind="llama3", factor=4.0, original_positions=32),
    "yarn": RopeScaling(kind="yarn", factor=4.0, original_positions=32),
}


@pytest.mark.parametrize(("kind", "qk_norm"), [("linear", False), ("linear", True), ("llama3", False), ("yarn", False), ("yarn", True)])
def test_stretched_positions_and_biases_give_our_logits(kind: str, qk_norm: bool, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make_tokenizer(tmp_path / "tokenizer", "llama3"))
    bias = "none" if qk_norm else "all"
    shape = ModelShape(depth=2, dim=64, head_dim=32, rope_scaling=STRETCHED[kind], qk_norm=qk_norm, attention_bias=bias)
    model = Transformer(make_model_config(shape, vocab_size=tokenizer.vocab_size, max_positions=128), seed=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(torch.linspace(-1, 1, len(parameter)))
    save_model(model, tmp_path / "model", tokenizer=tmp_path / "tokenizer")
    export(ExportConfig(format="gguf", dtype="fp32"), model=tmp_path / "model", out=tmp_path / "out", runtime=Runtime(quiet=True))
    theirs, ids = load_llama(tmp_path / "out", n_ctx=128), [i * 7 % tokenizer.vocab_size for i in range(100)]
    theirs.eval(ids)
    with torch.no_grad():
        np.testing.assert_allclose(theirs.scores[:100], model(torch.tensor([ids]))[0].numpy(), atol=3e-3)


def foreign_tokenizer(kind: str, folder: Path) -> None:
    """A tokenizer.json as GPT-2, SmolLM, Qwen2 or Llama 2 has it, trained here by the `tokenizers` library."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    specials = ["<unk>", "<s>", "</s>"]
    if kind == "llama 2":
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        specials += [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=specials, initial_alphabet=["▁"], limit_alphabet=60)
    else:
        tokenizer = Tokenizer(models.BPE())
        llama3_split = pre_tokenizers.Split(Regex(PATTERNS["llama3"]), "isolated")
        parts = {
            "gpt-2": [],
            "smollm": [pre_tokenizers.Digits(individual_digits=True)],
            "llama 3": [llama3_split],
            "qwen2": [pre_tokenizers.Split(Regex(PATTERNS["qwen2"]), "isolated")],
        }[kind]
        is_last = kind in ("gpt-2", "smollm")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=is_last)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*parts, byte_level]) if parts else byte_level
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=specials, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([*TEXTS, *(text.replace(" ", "  ") for text in TEXTS)] * 3, trainer)
    tokenizer.add_special_tokens([AddedToken("<|turn|>", special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    if kind == "llama 2":  # single bytes are no special tokens there
        data = json.loads((folder / "tokenizer.json").read_text())
        data["added_tokens"] = [token for token in data["added_tokens"] if not token["content"].startswith("<0x")]
        (folder / "tokenizer.json").write_text(json.dumps(data))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama 3", "qwen2", "llama 2"])
def test_tokenizers_of_others_give_the_same_ids(kind: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    foreign_tokenizer(kind, tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    # Qwen's models have more rows than tokens.
    config = make_model_config(ModelShape(depth=1, dim=32, head_dim=16), vocab_size=tokenizer.vocab_size + 5, max_positions=64)
    save_model(Transformer(config, seed=1), tmp_path / "model", tokenizer=tmp_path / "tokenizer")
    export(ExportConfig(format="gguf", dtype="fp16"), model=tmp_path / "model", out=tmp_path / "out", runtime=Runtime(quiet=True))
    theirs = load_llama(tmp_path / "out", n_ctx=64)
    for text in [*TEXTS, *TRICKY]:
        assert theirs.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text), (kind, text)
    assert theirs.tokenize(b"<|turn|>", add_bos=False, special=True) == [tokenizer.special_ids["<|turn|>"]]
