"""What only a CUDA device can show: its kernels see the same documents as the mask does."""

import pytest
import torch

from bloomery.core.stage import Launch
from bloomery.model.attention import Visibility, attend, make_visibility
from bloomery.model.config import ModelShape, make_model_config
from bloomery.model.transformer import Transformer
from bloomery.stages.pretrain import next_token_objective
from bloomery.tokens.loader import Batch
from bloomery.train.compute import prepare_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CUDA = torch.device("cuda")


def documents() -> torch.Tensor:
    """Three rows of 96: many documents, one, and one with padding."""
    rows = [[1] * 10 + [2] * 50 + [3] * 36, [1] * 96, [1] * 40 + [2] * 30 + [0] * 26]
    return torch.tensor(rows)


def visibility_of(device: torch.device, dtype: torch.dtype, *, window: int = 0, max_runs: int | None = None) -> Visibility:
    position = torch.arange(96, device=device).repeat(3, 1)
    return make_visibility(position, documents().to(device), num_slots=0, window=window, dtype=dtype, max_runs=max_runs)


@pytest.mark.parametrize("window", [0, 20])
@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_the_kernel_for_documents_gives_what_the_mask_gives(num_kv_heads: int, window: int) -> None:
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, 96, heads, 64, generator=draw).bfloat16() for heads in (4, num_kv_heads, num_kv_heads))
    slope = torch.randn(3, 96, 4, 64, generator=draw) * (documents() > 0)[..., None, None]
    found = []
    for device, dtype in ((CUDA, torch.bfloat16), (torch.device("cpu"), torch.float32)):
        inputs = [x.detach().to(device, dtype).requires_grad_() for x in (query, key, value)]
        visibility = visibility_of(device, dtype, window=window)
        assert (visibility.run_start_R is not None) == (device == CUDA)
        out = attend(*inputs, visibility)
        (out.float() * slope.to(device)).sum().backward()
        found.append([x.float().cpu() for x in (out * (slope != 0).to(device), *(x.grad for x in inputs))])
    for fast, exact in zip(*found, strict=True):
        assert (fast - exact).norm() / exact.norm() < 0.01


def test_a_bound_on_the_documents_changes_nothing() -> None:
    counted = visibility_of(CUDA, torch.bfloat16).run_start_R
    bounded = visibility_of(CUDA, torch.bfloat16, max_runs=200).run_start_R
    assert counted.unique().tolist() == bounded.unique().tolist() == [0, 10, 60, 96, 192, 232, 262, 288]


def test_without_documents_attention_is_causal() -> None:
    query, key, value = torch.randn(3, 2, 128, 4, 64, generator=torch.Generator().manual_seed(1)).to(CUDA, torch.bfloat16)
    mask = torch.full((128, 128), -torch.inf, device=CUDA).triu(1)
    scores = torch.einsum("bthk,bshk->bhts", query.float(), key.float()) / 8 + mask
    expected = torch.einsum("bhts,bshk->bthk", scores.softmax(-1), value.float())
    assert (attend(query, key, value, Visibility()).float() - expected).norm() / expected.norm() < 0.01


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_a_compiled_model_on_cuda_has_the_gradients_of_an_eager_one_in_float32_on_a_cpu(precision: str) -> None:
    if precision == "fp8":
        pytest.importorskip("torchao")
    config = make_model_config(ModelShape(dim=1024, num_layers=2, head_dim=128), vocab_size=512, max_positions=96)
    ids = torch.randint(0, 512, (3, 97), generator=torch.Generator().manual_seed(0))
    document = documents()
    batch = Batch(ids[:, :-1], ids[:, 1:], (document > 0).float(), document, torch.arange(96).repeat(3, 1))
    gradients = []
    for device, launch, chosen in ((torch.device("cpu"), Launch(compile="off"), "fp32"), (CUDA, Launch(), precision)):
        model = Transformer(config).to(device)
        prepare_model(model, precision=chosen, launch=launch, device=device)
        next_token_objective(model, batch.to(device), z_loss=1e-4).loss_sum.backward()
        gradients.append(torch.cat([p.grad.flatten().cpu() for p in model.parameters()]))
    assert (gradients[0] - gradients[1]).norm() / gradients[0].norm() < {"bf16": 0.03, "fp8": 0.3}[precision]
