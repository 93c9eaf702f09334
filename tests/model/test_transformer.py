"""The transformer against plain loops, and who sees whom in it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bloomery.model.cache import KVCache
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer


def make_model(**changes: Any) -> Transformer:
    sizes = {
        "vocab_size": 50,
        "dim": 24,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "mlp_dim": 40,
        "max_positions": 64,
    }
    model = Transformer(ModelConfig(**{**sizes, **changes}), seed=1)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):  # 0 at first: a test would not see them left out
                weight.copy_(torch.randn(weight.shape, generator=generator))
    return model


PARTS: list[dict[str, Any]] = [
    {},
    {"sliding_window": 3, "full_layers": (0,), "attention_bias": "all"},
    {"sliding_window": 4, "qk_norm": False, "nope_layers": (1,)},
]
"""Settings of the parts that a model may have: windows, layers without, biases, layers without rotation."""


def random_tokens(*shape: int) -> Tensor:
    return torch.randint(0, 50, shape, generator=torch.Generator().manual_seed(len(shape)))


def loops_forward(model: Transformer, tokens: list[int]) -> list[Tensor]:
    """The same function, one token and one head at a time, as the papers write it."""
    config, weights = model.config, dict(model.named_parameters())

    def norm(x: Tensor, name: str) -> Tensor:
        if name not in weights:
            return x
        return x / torch.sqrt((x * x).mean() + config.norm_eps) * weights[name]

    def turn(x: Tensor, position: int) -> Tensor:
        half, out = config.head_dim // 2, x.clone()
        for k in range(half):
            angle = position * config.rope_base ** (-2 * k / config.head_dim)
            out[k] = x[k] * math.cos(angle) - x[k + half] * math.sin(angle)
            out[k + half] = x[k + half] * math.cos(angle) + x[k] * math.sin(angle)
        return out

    stream = [weights["model.embed_tokens.weight"][t] for t in tokens]
    for i in range(config.num_layers):
        prefix, K = f"model.layers.{i}", config.head_dim
        normed = [norm(x, f"{prefix}.input_layernorm.weight") for x in stream]

        def heads(x: Tensor, kind: str, *, prefix: str = prefix, K: int = K) -> list[Tensor]:
            out = weights[f"{prefix}.self_attn.{kind}_proj.weight"] @ x
            return list((out + weights.get(f"{prefix}.self_attn.{kind}_proj.bias", 0)).split(K))

        def turn_here(x: Tensor, position: int, *, i: int = i) -> Tensor:
            return x if i in config.nope_layers else turn(x, position)

        window = 99 if i in config.full_layers or not config.sliding_window else config.sliding_window
        queries = [[turn_here(norm(h, f"{prefix}.self_attn.q_norm.weight"), p) for h in heads(x, "q")] for p, x in enumerate(normed)]
        keys = [[turn_here(norm(h, f"{prefix}.self_attn.k_norm.weight"), p) for h in heads(x, "k")] for p, x in enumerate(normed)]
        values = [heads(x, "v") for x in normed]
        for p in range(len(tokens)):
            out = []
            for h in range(config.num_heads):
                g = h // (config.num_heads // config.num_kv_heads)
                seen = range(max(0, p + 1 - window), p + 1)
                share = torch.stack([queries[p][h] @ keys[s][g] / math.sqrt(K) for s in seen]).softmax(0)
                out.append(sum(part * values[s][g] for part, s in zip(share, seen, strict=True)))
            stream[p] = stream[p] + weights[f"{prefix}.self_attn.o_proj.weight"] @ torch.cat(out)
            stream[p] = stream[p] + weights.get(f"{prefix}.self_attn.o_proj.bias", 0)
        for p, x in enumerate(stream):
            y = norm(x, f"{prefix}.post_attention_layernorm.weight")
            gate = weights[f"{prefix}.mlp.gate_proj.weight"] @ y
            up = weights[f"{prefix}.mlp.up_proj.weight"] @ y
            stream[p] = x + weights[f"{prefix}.mlp.down_proj.weight"] @ (gate * torch.sigmoid(gate) * up)
    return [weights["model.embed_tokens.weight"] @ norm(x, "model.norm.weight") for x in stream]


@pytest.mark.parametrize("parts", PARTS)
def test_the_transformer_is_what_the_papers_write(parts: dict[str, Any]) -> None:
    model, token_BT = make_model(**parts), random_tokens(1, 7)
    with torch.no_grad():
        expected_TV = torch.stack(loops_forward(model, token_BT[0].tolist()))
        torch.testing.assert_close(model(token_BT)[0], expected_TV, atol=1e-5, rtol=1e-5)


def test_a_later_token_changes_nothing_before_it() -> None:
    model, token_BT = make_model(), random_tokens(1, 9)
    changed_BT = token_BT.clone()
    changed_BT[0, 5] += 1
    before, after = model(token_BT), model(changed_BT % 50)
    assert torch.equal(before[0, :5], after[0, :5]) and not torch.equal(before[0, 5:], after[0, 5:])


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_documents_have_the_logits_they_have_alone(dtype: torch.dtype, parts: dict[str, Any]) -> None:
    model = make_model(**parts)
    model.compute_dtype = dtype
    lengths, token_BT = [5, 1, 7], random_tokens(1, 16)
    document_BT = torch.tensor([[1] * 5 + [2] + [3] * 7 + [0] * 3])
    position_BT = torch.tensor([[*range(5), 0, *range(7), 0, 0, 0]])
    packed = model(token_BT, position_BT=position_BT, document_BT=document_BT)[0]
    start = 0
    for length in lengths:
        alone = model(token_BT[:, start : start + length])[0]
        torch.testing.assert_close(packed[start : start + length], alone, atol=1e-5 if dtype == torch.float32 else 0.05, rtol=0)
        start += length


def test_another_document_and_padding_change_no_logit_and_get_no_gradient_across() -> None:
    model, token_BT = make_model(), random_tokens(1, 12)
    document_BT = torch.tensor([[1] * 5 + [2] * 4 + [0] * 3])
    changed_BT = token_BT.clone()
    changed_BT[0, :5], changed_BT[0, 9:] = 7, 8
    before, after = model(token_BT, document_BT=document_BT), model(changed_BT, document_BT=document_BT)
    assert torch.equal(before[0, 5:9], after[0, 5:9])
    more = torch.cat([token_BT, random_tokens(1, 4)], dim=1)
    padded = model(more, document_BT=torch.nn.functional.pad(document_BT, (0, 4)))
    torch.testing.assert_close(padded[0, :9], before[0, :9], atol=1e-5, rtol=0)
    assert torch.isfinite(padded).all()


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("lengths", [[9], [4, 9, 1, 6]])
def test_reading_token_by_token_with_a_cache_gives_the_logits_of_reading_at_once(lengths: list[int], parts: dict[str, Any]) -> None:
    model, longest = make_model(**parts), max(lengths)
    token_BT = random_tokens(len(lengths), longest + 5)
    cache = KVCache(model.config, num_rows=len(lengths), max_tokens=longest + 5, dtype=torch.float32, device="cpu")
    with torch.no_grad():
        full = [model(token_BT[b : b + 1, : length + 5])[0] for b, length in enumerate(lengths)]
        # Prompts padded on the right: what the padding writes must never be seen.
        prompt_BT = torch.stack([torch.where(torch.arange(longest) < n, token_BT[b, :longest], 49) for b, n in enumerate(lengths)])
        position_BT = torch.arange(longest).expand(len(lengths), -1)
        logits = model.logits(model.hidden_states(prompt_BT, position_BT=position_BT, cache=cache))
        for b, length in enumerate(lengths):
            torch.testing.assert_close(logits[b, :length], full[b][:length], atol=1e-5, rtol=0)
        for k in range(5):
            at_B = torch.tensor(lengths) + k
            next_B1 = token_BT.gather(1, at_B[:, None])
            logits = model.logits(model.hidden_states(next_B1, position_BT=at_B[:, None], cache=cache))
            for b, length in enumerate(lengths):
                torch.testing.assert_close(logits[b, 0], full[b][length + k], atol=1e-5, rtol=0)


def test_rows_can_leave_the_cache_and_change_places() -> None:
    model, token_BT = make_model(), random_tokens(3, 6)
    position_BT = torch.arange(5).expand(3, -1)
    cache = KVCache(model.config, num_rows=3, max_tokens=8, dtype=torch.float32, device="cpu")
    with torch.no_grad():
        model.hidden_states(token_BT[:, :5], position_BT=position_BT, cache=cache)
        cache.keep_rows(torch.tensor([2, 0]))
        assert (cache.num_rows, cache.max_tokens) == (2, 8)
        hidden = model.hidden_states(token_BT[[2, 0], 5:], position_BT=torch.full((2, 1), 5), cache=cache)
        torch.testing.assert_close(model.logits(hidden)[:, 0], model(token_BT[[2, 0]])[:, 5], atol=1e-5, rtol=0)


def test_initial_weights_follow_from_the_seed_alone() -> None:
    one, same, other = make_model(), make_model(), Transformer(make_model().config, seed=2)
    assert torch.equal(one.head_weight(), same.head_weight()) and not torch.equal(one.head_weight(), other.head_weight())
    deeper = make_model(num_layers=3)
    assert torch.equal(one.model.layers[0].mlp.gate_proj.weight, deeper.model.layers[0].mlp.gate_proj.weight)
    assert not torch.equal(one.model.layers[0].mlp.gate_proj.weight, one.model.layers[1].mlp.gate_proj.weight)


def test_an_untrained_model_expects_every_token_alike() -> None:
    model = make_model(vocab_size=50)
    logp = model(random_tokens(4, 20)).log_softmax(-1)
    assert abs(-logp.mean().item() - math.log(50)) < 0.1
