"""Greedy answers and log-probabilities are those of `transformers`, for folders that it has written itself."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from bloomery.generate.engine import Engine, Sample
from bloomery.generate.sampling import SamplingParams
from bloomery.generate.text import Vocabulary
from bloomery.model.huggingface import load_model

VOCAB, END, PAD = 120, 1, 2
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "eos_token_id": END,
    "pad_token_id": PAD, "bos_token_id": 0, "max_position_embeddings": 256, "initializer_range": 0.15,
}  # fmt: skip
FOLDERS = {
    "llama": transformers.LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=False),
    "llama-mha-tied": transformers.LlamaConfig(**SIZES, num_key_value_heads=4, tie_word_embeddings=True),
    "llama-one-kv-head": transformers.LlamaConfig(**SIZES, num_key_value_heads=1, tie_word_embeddings=False, attention_bias=True),
    "qwen2": transformers.Qwen2Config(**SIZES, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen3": transformers.Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=32, tie_word_embeddings=True),
    "mistral-window": transformers.MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=12),
}


def random_prompts(count: int, *, longest: int) -> list[list[int]]:
    rng = random.Random(0)
    return [[0, *(rng.randrange(3, VOCAB) for _ in range(rng.randrange(longest)))] for _ in range(count)]


def make_folder(name: str, folder: Path) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(FOLDERS[name], dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if key.endswith("bias"):  # zero else
                weight.normal_(std=0.3)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def their_answers(model: Any, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    out = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=num_tokens, pad_token_id=PAD)[:, width:].tolist()
    return [answer[: answer.index(END) + 1] if END in answer else answer for answer in out]


@torch.no_grad()
def their_logps(model: Any, prompts: list[list[int]], answers: list[list[int]]) -> list[list[float]]:
    rows = [torch.tensor([*prompt, *answer]) for prompt, answer in zip(prompts, answers, strict=True)]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)  # on the right: nobody sees it
    logp = model(ids, attention_mask=torch.ones_like(ids)).logits.log_softmax(-1)
    return [
        [float(logp[i, len(prompt) + t - 1, token]) for t, token in enumerate(answer)]
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]


def our_answers(folder: Path, ids: Vocabulary, prompts: list[list[int]], num_tokens: int) -> list[Sample]:
    engine = Engine(load_model(folder), dataclasses.replace(ids, vocab_size=VOCAB))  # type: ignore[type-var]
    return engine.generate(prompts, SamplingParams(max_tokens=num_tokens, temperature=0.0), seeds=[0] * len(prompts))


@pytest.mark.parametrize("name", FOLDERS)
def test_greedy_answers_and_their_log_probabilities_are_those_of_transformers(name: str, tmp_path: Path, ids: Vocabulary) -> None:
    model, prompts = make_folder(name, tmp_path), random_prompts(16, longest=90)
    ours = our_answers(tmp_path, ids, prompts, 20)
    assert [sample.tokens for sample in ours] == their_answers(model, prompts, 20)
    for sample, logps in zip(ours, their_logps(model, prompts, [sample.tokens for sample in ours]), strict=True):
        assert sample.logps == pytest.approx(logps, abs=1e-4)


def test_two_hundred_prompts_get_the_same_text_and_the_same_log_likelihoods(tmp_path: Path, ids: Vocabulary) -> None:
    model, prompts = make_folder("llama", tmp_path), random_prompts(200, longest=100)
    ours = our_answers(tmp_path, ids, prompts, 24)
    assert [sample.tokens for sample in ours] == [
        answer for i in range(0, 200, 50) for answer in their_answers(model, prompts[i : i + 50], 24)
    ]
    assert {sample.finish for sample in ours} == {"end", "length"}
    theirs = their_logps(model, prompts, [sample.tokens for sample in ours])
    assert [sum(sample.logps) for sample in ours] == pytest.approx([sum(logps) for logps in theirs], abs=1e-3)
    assert max(abs(a - b) for sample, logps in zip(ours, theirs, strict=True) for a, b in zip(sample.logps, logps, strict=True)) < 1e-4


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_in_bfloat16_log_probabilities_are_near_those_of_transformers(name: str, tmp_path: Path, ids: Vocabulary) -> None:
    model, prompts = make_folder(name, tmp_path).bfloat16(), random_prompts(16, longest=90)
    half = load_model(tmp_path)
    half.compute_dtype = torch.bfloat16
    engine = Engine(half, dataclasses.replace(ids, vocab_size=VOCAB))  # type: ignore[type-var]
    params = SamplingParams(max_tokens=8)
    for asked in (prompts, [max(prompts, key=len)] * 4):  # the second reads a shared prefix
        samples = engine.generate(asked, params, seeds=range(len(asked)))
        theirs = their_logps(model, asked, [sample.tokens for sample in samples])
        differences = [abs(a - b) for sample, logps in zip(samples, theirs, strict=True) for a, b in zip(sample.logps, logps, strict=True)]
        assert sum(differences) / len(differences) < 0.1
