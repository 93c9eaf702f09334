"""The derivatives that are written out, against autograd's."""

import pytest
import torch

from bloomery.model.kernels import rms_norm, rotate


def test_rms_norm_has_the_gradients_that_autograd_finds() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(3, 4, 6, generator=generator), torch.rand(6, generator=generator) + 0.5
    upstream = torch.randn(3, 4, 6, generator=generator)
    ours = [t.clone().requires_grad_() for t in (x, weight)]
    theirs = [t.clone().requires_grad_() for t in (x, weight)]
    out = rms_norm(*ours, 1e-6)
    expected = theirs[0] / torch.sqrt(theirs[0].square().mean(-1, keepdim=True) + 1e-6) * theirs[1]
    torch.testing.assert_close(out, expected)
    out.backward(upstream)
    expected.backward(upstream)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_rms_norm_keeps_the_dtype_and_computes_in_float32() -> None:
    x = (torch.randn(5, 64, generator=torch.Generator().manual_seed(1)) * 300).bfloat16()
    out = rms_norm(x, torch.ones(64), 1e-6)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, rms_norm(x.float(), torch.ones(64), 1e-6).bfloat16())


def test_a_row_of_zeros_is_normalised_to_zeros_with_a_finite_gradient() -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    rms_norm(x, torch.ones(8), 1e-6).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_rotation_keeps_lengths_depends_on_distance_only_and_its_gradient_turns_back() -> None:
    generator = torch.Generator().manual_seed(2)
    angle = torch.arange(6).float()[None, :, None, None] * torch.tensor([1.0, 0.1, 0.01]).repeat(2)
    x = torch.randn(1, 6, 2, 6, generator=generator, requires_grad=True)
    turned = rotate(x, angle.cos(), angle.sin())
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    same = rotate(x[:, :1].expand_as(x), angle.cos(), angle.sin())
    products = torch.einsum("thk,shk->ts", same[0], same[0])
    assert products[0, 2].item() == pytest.approx(products[3, 5].item(), rel=1e-4)
    upstream = torch.randn(turned.shape, generator=generator)
    turned.backward(upstream)
    torch.testing.assert_close(x.grad, rotate(upstream, angle.cos(), -angle.sin()))
