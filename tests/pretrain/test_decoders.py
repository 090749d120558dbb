"""Decoders between features and embeddings: sizes, torch's interpolation and pooling, gradients, dropout."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from maskmill.pretrain._decoders import at_size, bin_means, decoder


def maps(h: int = 7, w: int = 9) -> torch.Tensor:
    return torch.randn(2, 3, h, w, generator=torch.Generator().manual_seed(0), requires_grad=True)


@pytest.mark.parametrize("size", [(14, 18), (7, 9), (20, 31), (1, 1)])
def test_another_size_is_torchs_bilinear_one(size: tuple[int, int]) -> None:
    x = maps()
    expected = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
    found = at_size(x, *size)
    torch.testing.assert_close(found, expected)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(*(torch.autograd.grad((each * weight).sum(), x)[0] for each in (found, expected)))


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
@pytest.mark.parametrize("shape", [(7, 9), (6, 12), (3, 4)])
def test_means_of_parts_are_torchs_adaptive_ones(bins: int, shape: tuple[int, int]) -> None:
    x = maps(*shape)
    torch.testing.assert_close(bin_means(x, bins), functional.adaptive_avg_pool2d(x, bins))


@pytest.mark.parametrize("kind", ["none", "aspp", "psp"])
def test_a_decoder_keeps_the_grid_and_every_weight_learns(kind: str) -> None:
    torch.manual_seed(0)
    module, x = decoder(kind, 3, 8), maps()  # type: ignore[arg-type]
    found = module(x, torch.Generator().manual_seed(0))
    assert found.shape == (2, module.width, 7, 9)
    assert module.width == (3 if kind == "none" else 8)
    found.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())


def test_dropout_keeps_the_mean_and_needs_a_generator() -> None:
    torch.manual_seed(0)
    module, x = decoder("aspp", 3, 8, dropout=0.5), maps()
    module.mix = torch.nn.Identity()  # type: ignore[assignment]
    whole = module(x)
    assert torch.equal(whole, module(x))
    some = torch.stack([module(x, torch.Generator().manual_seed(i)) for i in range(400)])
    assert 0.4 < float((some[0][whole > 0] == 0).float().mean()) < 0.6
    assert float(some.detach().mean()) == pytest.approx(float(whole.detach().mean()), rel=0.02)
