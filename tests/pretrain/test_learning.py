"""A network that learns is the network that is read frozen, in any number of threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from maskmill.backbones import weights_file
from maskmill.backbones.attention import cls_logits, softmax
from maskmill.backbones.learning import Learning, Origin, build, drawing, estimate_statistics
from maskmill.backbones.network import load
from maskmill.errors import ConfigError
from maskmill.pretrain.run import check_sides
from maskmill.recipe.feature_set import FeatureSet

VIT, CNN = "vit_tiny_patch16_224", "resnet18"


def network(name: str, drop_path: float = 0.0, channels: int = 3) -> Learning:
    torch.manual_seed(0)
    return build(Origin(FeatureSet(backbone=name), name, channels=channels, drop_path=drop_path))


@pytest.mark.parametrize("name", [VIT, CNN, "tf_efficientnet_lite0"])
@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_tokens_are_those_of_the_frozen_backbone(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    learning = network(name).eval()
    images = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8)
    if name != VIT:
        estimate_statistics(learning, [torch.randn(8, 3, 64, 64)])
    learning.eval()
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    file = tmp_path / "w.safetensors"
    weights_file.write(file, learning.state(), {"architecture": name, "mean": mean, "std": std})
    frozen = load(file, FeatureSet(backbone=name), torch.device("cpu"))
    tokens, cls = frozen.forward(images)
    x = (images.permute(0, 3, 1, 2).float() / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(
        1, 3, 1, 1
    )
    found = learning(x)
    assert torch.allclose(found.tokens.permute(0, 2, 3, 1), tokens, atol=2e-4)
    assert torch.allclose(found.cls, cls, atol=2e-4)


def test_attention_is_that_of_the_keys_and_the_query(tmp_path: Path) -> None:
    learning, x = network(VIT), torch.randn(1, 3, 64, 96)
    file = tmp_path / "w.safetensors"
    weights_file.write(file, learning.state(), {"architecture": VIT, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
    frozen = load(file, FeatureSet(backbone=VIT, facet="key", key_bias="keep"), torch.device("cpu"))
    images = (x.permute(0, 2, 3, 1) * 40 + 128).clamp(0, 255).to(torch.uint8)
    x = (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    tokens, _, query = frozen.outputs(images)
    assert query is not None
    assert learning.heads == 3
    heads = query[0].numpy().reshape(3, -1)
    wanted = softmax(cls_logits(tokens[0].reshape(-1, tokens.shape[-1]).numpy(), heads))
    found = learning(x, attention=True).attention
    assert found is not None
    assert found.shape == (1, 3, 4, 6)
    shares = found[0].flatten(1) / found[0].flatten(1).sum(1, keepdim=True)  # the cls token has a share too
    np.testing.assert_allclose(shares.detach().numpy(), wanted, atol=1e-4)
    assert (found.flatten(2).sum(2) < 1).all()
    with pytest.raises(ConfigError, match="cls token"):
        network(CNN)(torch.randn(1, 3, 64, 64), attention=True)


def test_gradients_reach_positions_of_another_grid_and_every_parameter_that_learns() -> None:
    learning = network(VIT)
    learning(torch.randn(1, 3, 48, 80)).tokens.square().sum().backward()
    grad = learning.model.pos_embed.grad
    assert grad is not None
    assert grad.shape == learning.model.pos_embed.shape
    assert grad.abs().sum() > 0
    lite = network("tf_efficientnet_lite0")
    frozen = [name for name, p in lite.model.named_parameters() if not p.requires_grad]
    assert frozen == ["conv_head.weight", "bn2.weight", "bn2.bias"]  # after the level that is read


def test_hidden_patches_are_not_seen() -> None:
    learning = network(VIT)
    learning.add_mask_token()
    a, b = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 32, 32)
    b[..., 16:] = a[..., 16:]
    masked = torch.tensor([[[True, False], [True, False]]])
    assert torch.allclose(learning(a, masked=masked).tokens, learning(b, masked=masked).tokens, atol=1e-5)
    assert not torch.allclose(learning(a).tokens, learning(b).tokens, atol=1e-2)


def test_batch_norms_see_the_micro_batch_and_keep_nothing() -> None:
    learning = network(CNN).train()
    before = {name: value.clone() for name, value in learning.named_buffers()}
    first = learning(torch.randn(4, 3, 64, 64) + 3)
    assert all(torch.equal(value, before[name]) for name, value in learning.named_buffers())
    assert torch.isfinite(first.tokens).all()
    batches = [torch.randn(4, 3, 64, 64) + i for i in range(3)]
    estimate_statistics(learning, batches)
    bn = next(module for module in learning.modules() if isinstance(module, nn.BatchNorm2d))
    seen = [learning.model.conv1(batch) for batch in batches]
    wanted = torch.stack([each.mean((0, 2, 3)) for each in seen]).mean(0)
    assert torch.allclose(bn.running_mean, wanted, atol=1e-4)
    assert learning.training
    assert not bn.track_running_stats


def test_batch_norms_that_came_with_weights_keep_their_statistics() -> None:
    """At the first step the network says what it says as a frozen backbone, whatever the micro-batch."""
    name = "resnet18"
    given = network(name)
    estimate_statistics(given, [torch.randn(4, 3, 64, 64) + 1])
    state = given.state()
    learning = build(Origin(FeatureSet(backbone=name), name, state, keeps_norms=True)).train()
    x = torch.randn(4, 3, 64, 64)
    assert torch.allclose(learning(x).tokens, given.eval()(x).tokens, atol=1e-5)
    assert torch.allclose(learning(x[:2]).tokens, learning(x).tokens[:2], atol=1e-5)
    estimate_statistics(learning, [torch.randn(4, 3, 64, 64) + 9])
    kept = learning.copy().train().state()
    assert all(torch.equal(value, kept[name]) for name, value in state.items())
    assert learning.model.bn1.weight.requires_grad


def test_stochastic_depth_draws_from_the_generator_of_its_pass() -> None:
    learning, x = network(VIT, drop_path=0.5).train(), torch.randn(3, 3, 32, 32)

    def passed(seed: int) -> torch.Tensor:
        with drawing(torch.Generator().manual_seed(seed)):
            return learning(x).tokens.detach()

    alone = [passed(seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(passed, range(6)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert not torch.equal(alone[0], alone[1])
    assert torch.equal(learning.copy().train()(x).tokens, learning.copy().eval()(x).tokens)  # a teacher drops nothing


def test_a_teacher_is_a_copy_without_gradient() -> None:
    learning = network(VIT)
    teacher = learning.copy()
    assert not any(p.requires_grad for p in teacher.parameters())
    with torch.no_grad():
        learning.model.pos_embed.add_(1)
    assert not torch.equal(teacher.model.pos_embed, learning.model.pos_embed)
    x = torch.randn(1, 3, 32, 32)
    assert not torch.allclose(teacher(x).tokens, learning(x).tokens)  # each resamples its own positions


def test_any_number_of_channels() -> None:
    learning = network(CNN, channels=5)
    assert learning(torch.randn(2, 5, 64, 64)).tokens.shape[:2] == (2, 512)


OTHERS = ("test_vit", "convnext_atto", "swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224", "efficientvit_b0")
MORE = ("deit_tiny_distilled_patch16_224", "vit_small_patch16_dinov3")  # a second token, rotary positions


@pytest.mark.parametrize("name", [*OTHERS, *MORE])
def test_other_networks_learn_too(name: str) -> None:
    learning = network(name)
    side = learning.stride * 4
    assert learning(torch.randn(2, 3, side, side)).tokens.shape == (2, learning.depth, 4, 4)


@pytest.mark.parametrize("name", ["hiera_tiny_224", "beit_base_patch16_224", "vit_small_r26_s32_224"])
def test_networks_that_can_not_be_trained_are_refused_in_a_line(name: str) -> None:
    with pytest.raises(ConfigError, match=r"pretrain: \w+ (can not be trained here|has position embeddings)"):
        network(name)


def test_a_network_without_stochastic_depth_says_so() -> None:
    with pytest.raises(ConfigError, match=r"vgg11_bn .*set pretrain\.drop_path: 0"):
        network("vgg11_bn", drop_path=0.1)


def test_crops_that_do_not_pass_are_named() -> None:
    photos = SimpleNamespace(specs=[SimpleNamespace(side=8)], normalisation=SimpleNamespace(mean=(0.0,) * 3))
    convnext, vit = network("convnext_atto"), network(VIT)
    with pytest.raises(ConfigError, match=r"crops of 8 px do not pass through ConvNeXt"):
        check_sides(photos, convnext, SimpleNamespace(method="dino"))
    photos.specs[0].side = 40
    with pytest.raises(ConfigError, match=r"crops of 40 px are not whole patches of 16 px; set that side to 32 or 48"):
        check_sides(photos, vit, SimpleNamespace(method="dino"))
