"""Attention against plain loops, by every way a CPU has; tests/model/test_attention_cuda.py has the others."""

import math

import pytest
import torch
from torch import Tensor

from bloomery.model import attention
from bloomery.model.attention import Visibility, attend, make_visibility

DOCUMENTS = torch.tensor([[1] * 5 + [2] * 300 + [3] * 15, [1] * 200 + [0] * 120])


def loops(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """Softmax attention, one row and one head at a time; shapes as in `attend`, visible BTS."""
    B, T, H, K = query.shape
    out = torch.empty(B, T, H, K)
    for b in range(B):
        for h in range(H):
            g = h // (H // key.shape[2])
            score = (query[b, :, h] @ key[b, :, g].T) / math.sqrt(K)
            out[b, :, h] = score.masked_fill(~visible[b], -math.inf).softmax(-1) @ value[b, :, g]
    return out


def draw(B: int, T: int, S: int, H: int, G: int, *, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(B, n, heads, 8, generator=generator) for n, heads in ((T, H), (S, G), (S, G))]


def visibility_of(document_BT: Tensor, *, window: int = 0, max_runs: int | None = None, dtype: torch.dtype = torch.float32) -> Visibility:
    position_BT = torch.arange(document_BT.shape[1]).expand_as(document_BT)
    return make_visibility(position_BT, document_BT, num_slots=0, window=window, dtype=dtype, max_runs=max_runs)


@pytest.mark.parametrize("shape", [(2, 4, 6, 6), (2, 4, 1, 9), (1, 6, 3, 8)])
@pytest.mark.parametrize("num_kv_heads", [1, 2])
def test_attention_under_any_mask_is_what_loops_find(shape: tuple[int, int, int, int], num_kv_heads: int) -> None:
    B, H, T, S = shape
    query, key, value = draw(B, T, S, H, num_kv_heads)
    visible = torch.rand(B, T, S, generator=torch.Generator().manual_seed(1)) < 0.6
    visible[..., 0] = True
    bias = torch.zeros(B, 1, T, S).masked_fill(~visible[:, None], -math.inf)
    expected = loops(query, key, value, visible)
    torch.testing.assert_close(attend(query, key, value, Visibility(bias)), expected, atol=1e-5, rtol=0)
    # In bfloat16 short rows take plain products; they may only be less exact.
    narrow = attend(query.bfloat16(), key.bfloat16(), value.bfloat16(), Visibility(bias.bfloat16()))
    torch.testing.assert_close(narrow.float(), expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("window", [0, 7])
@pytest.mark.parametrize("documents", [True, False])
@pytest.mark.parametrize("num_kv_heads", [1, 4])
def test_queries_in_blocks_see_what_queries_at_once_see(documents: bool, num_kv_heads: int, window: int) -> None:
    query, key, value = draw(2, 320, 320, 4, num_kv_heads)
    visible = torch.ones(320, 320).tril().triu(-window + 1 if window else -320).bool().expand(2, -1, -1)
    document_BT = DOCUMENTS if documents else torch.ones_like(DOCUMENTS)
    visible = visible & (document_BT[:, :, None] == document_BT[:, None, :])
    visibility = visibility_of(document_BT, window=window, max_runs=None if documents else 2)
    assert (visibility == Visibility()) == (not documents and not window)
    expected = loops(query, key, value, visible)
    transposed = [x.transpose(1, 2) for x in (query, key, value)]
    in_blocks = attention._attend_in_blocks(*transposed, visibility.bias_B1TS).transpose(1, 2)
    torch.testing.assert_close(in_blocks, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(attend(query, key, value, visibility), expected, atol=1e-5, rtol=0)


def test_a_document_a_row_needs_no_mask_and_padding_makes_one() -> None:
    one_each = torch.ones(3, 8, dtype=torch.long)
    assert visibility_of(one_each, max_runs=3) == Visibility()
    padded = torch.tensor([[1] * 8, [1] * 6 + [0] * 2])
    assert visibility_of(padded, max_runs=3).bias_B1TS is not None


def test_where_documents_begin_is_padded_to_a_round_length_that_no_document_is_lost_of() -> None:
    starts = attention._run_starts(DOCUMENTS, None)
    assert starts.dtype == torch.int32 and len(starts) == 64
    assert starts.unique().tolist() == [0, 5, 305, 320, 520, 640]
    many = torch.arange(130).view(1, -1)
    assert attention._run_starts(many, 130).tolist() == [*range(131)]
    assert attention._run_starts(many[:, :100], 100)[-1] == 100


def test_plain_products_and_the_kernel_have_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    visibility = visibility_of(DOCUMENTS[:, :40], dtype=torch.bfloat16)
    for limit in (0, 256):
        monkeypatch.setattr(attention, "GROUPED_MATMUL_TOKENS", limit)
        inputs = [x.bfloat16().requires_grad_() for x in draw(2, 40, 40, 4, 2)]
        attend(*inputs, visibility).float().square().sum().backward()
        found.append(torch.cat([x.grad.flatten() for x in inputs]).float())
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.999


@pytest.mark.parametrize(
    ("capability", "modules", "expected"),
    [
        (9, {"flash_attn_interface"}, "FA3"),
        (9, {"flash_attn_interface", "flash_attn.cute.interface"}, "FA4"),
        (10, {"flash_attn_interface"}, None),
        (8, {"flash_attn_interface", "flash_attn.cute.interface"}, None),
        (9, set(), None),
    ],
)
def test_a_later_flash_attention_is_taken_where_it_is_installed_and_made_for_the_device(
    capability: int, modules: set[str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (capability, 0))
    monkeypatch.setattr(attention, "_is_installed", modules.__contains__)
    monkeypatch.setattr(attention, "activate_flash_attention_impl", taken.append)
    assert attention.use_installed_kernels(torch.device("cuda")) == expected
    assert taken == ([expected] if expected else [])
    assert set(attention.FLASH_PACKAGES) == set(torch.nn.attention.list_flash_attention_impls())
