"""Backbones: facets against the block's own weights, grids, positions, strides, and what a user is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from maskmill.backbones import weights_file
from maskmill.backbones.network import Backbone, import_timm, load, resample_positions
from maskmill.errors import ConfigError, WeightsError
from maskmill.recipe.feature_set import FeatureSet

timm = import_timm()
CPU = torch.device("cpu")
HALF = (0.5, 0.5, 0.5)


def small_vit(**options: Any) -> Any:
    """A random ViT of 3 blocks whose biases are not zero."""
    torch.manual_seed(0)
    size = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_classes": 0}
    model = timm.models.vision_transformer.VisionTransformer(dynamic_img_size=True, **(size | options))
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(value, std=0.5)
    return model.eval()


def backbone(model: Any, **keys: Any) -> Backbone:
    return Backbone(model, FeatureSet(backbone="small", **keys), HALF, HALF, CPU)


def pictures(height: int = 64, width: int = 64, count: int = 2) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def normalised(images: torch.Tensor) -> torch.Tensor:
    return (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


def block_inputs(model: Any, images: torch.Tensor) -> list[torch.Tensor]:
    """What each block sees, [b, T, d], by timm's own forward at the native size."""
    seen: list[torch.Tensor] = []
    hooks = [block.register_forward_pre_hook(lambda _m, args: seen.append(args[0])) for block in model.blocks]
    with torch.no_grad():
        model.forward_features(normalised(images))
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("layer", [-1, 0, 1])
@pytest.mark.parametrize(("facet", "part"), [("query", 0), ("key", 1), ("value", 2)])
def test_facets_are_those_of_the_block(facet: str, part: int, layer: int) -> None:
    model, images = small_vit(), pictures()
    block = model.blocks[layer]
    x = block.norm1(block_inputs(model, images)[layer])
    qkv = block.attn.qkv(x).reshape(2, 65, 3, 4, 12)  # [b, T, 3, heads, d_head]
    expected = qkv[:, :, part].reshape(2, 65, 48)
    if facet == "key":
        expected = expected - block.attn.qkv.bias[48:96]
    tokens, cls = backbone(model, facet=facet, layer=layer).forward(images)
    torch.testing.assert_close(tokens, expected[:, 1:].reshape(2, 8, 8, 48), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cls, expected[:, 0], atol=1e-5, rtol=1e-5)


def true_attention(model: Any, images: torch.Tensor, layer: int) -> torch.Tensor:
    """Attention of the cls token over the patches [b, heads, h*w], adding up to one, by timm's own block."""
    attention, seen = model.blocks[layer].attn, []
    attention.fused_attn = False
    hook = attention.attn_drop.register_forward_pre_hook(lambda _m, args: seen.append(args[0].clone()))
    model.forward_features(normalised(images))
    hook.remove()
    weights = seen[0][:, :, 0, -64:]  # [b, heads, T, T] to the cls token's row, patches only
    return weights / weights.sum(-1, keepdim=True)


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("rule", ["subtract", "keep"])
@pytest.mark.parametrize("layer", [-1, 1])
def test_query_and_keys_give_the_attention_of_the_cls_token(layer: int, rule: str, registers: int) -> None:
    from maskmill.cut.attention import cls_logits, softmax

    model, images = small_vit(reg_tokens=registers), pictures()
    with torch.no_grad():
        model.blocks[layer].attn.qkv.weight *= 10  # or the attention is even
    one = backbone(model, facet="key", layer=layer, key_bias=rule)
    tokens, cls, query = one.outputs(images)
    assert one.heads == 4
    assert query is not None
    with torch.no_grad():
        expected = true_attention(model, images, layer).numpy()
    for i in range(2):
        found = softmax(cls_logits(tokens[i].flatten(0, 1).numpy(), query[i].reshape(4, 12).numpy()))
        np.testing.assert_allclose(found, expected[i], atol=1e-6)
    assert expected.std(-1).max() > 5e-3  # of a mean of 1 / 64: not even
    assert torch.equal(one.forward(images)[0], tokens)
    assert torch.equal(one.forward(images)[1], cls)


def test_no_query_where_it_would_not_be_the_attention() -> None:
    images = pictures()
    for facet in ("token", "query", "value"):
        one = backbone(small_vit(), facet=facet)
        assert (one.heads, one.outputs(images)[2]) == (None, None)
    for options in ({"class_token": False, "global_pool": "avg"}, {"qk_norm": True}):
        one = backbone(small_vit(**options), facet="key")
        assert (one.heads, one.outputs(images)[2]) == (None, None)
    for name in ("beit_base_patch16_224", "eva02_tiny_patch14_224"):  # relative positions, rotated keys
        model = timm.create_model(name, pretrained=False, num_classes=0, depth=1)
        assert backbone(model, facet="key", layer=0).heads is None


def test_token_is_the_normed_output() -> None:
    model, images = small_vit(), pictures()
    with torch.no_grad():
        expected = model.forward_features(normalised(images))
    tokens, cls = backbone(model).forward(images)
    torch.testing.assert_close(tokens.flatten(1, 2), expected[:, 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cls, expected[:, 0], atol=1e-5, rtol=1e-5)


def test_tokens_lie_where_their_pixels_are() -> None:
    """Row-major [h, w]: a patch that changes moves its own token of block 0's values the most."""
    model = small_vit(class_token=False, global_pool="avg")
    model.pos_embed.data.zero_()
    images = pictures(48, 80, 1)
    changed = images.clone()
    changed[0, 16:24, 56:64] = 255 - changed[0, 16:24, 56:64]
    one = backbone(model, facet="value", layer=0)
    moved = (one.forward(changed)[0] - one.forward(images)[0]).norm(dim=-1)[0]  # [6, 10]
    assert moved.shape == (6, 10)
    assert np.argwhere(moved.numpy() > 1e-6).tolist() == [[2, 7]]


def test_a_vector_added_to_the_key_bias_changes_nothing() -> None:
    model, images = small_vit(), pictures()
    subtracted, kept = (backbone(model, facet="key", key_bias=rule).forward(images)[0] for rule in ("subtract", "keep"))
    with torch.no_grad():
        model.blocks[-1].attn.qkv.bias[48:96] += 30 * torch.randn(48)
    again, kept_again = (
        backbone(model, facet="key", key_bias=rule).forward(images)[0] for rule in ("subtract", "keep")
    )
    assert torch.equal(subtracted, again)
    assert not torch.allclose(kept, kept_again, atol=1)


def test_later_blocks_are_not_computed() -> None:
    model = small_vit()
    called: list[int] = []
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_args, i=i: called.append(i))
    for facet in ("key", "token"):
        one = backbone(model, facet=facet, layer=1)
        called.clear()
        one.forward(pictures())
        assert called == ([0] if facet == "key" else [0, 1])


@pytest.mark.parametrize("grid", [(8, 8), (5, 11), (12, 3), (1, 1)])
def test_rectangular_grids(grid: tuple[int, int]) -> None:
    images = pictures(grid[0] * 8, grid[1] * 8)
    for facet in ("token", "key"):
        one = backbone(small_vit(), facet=facet)
        tokens, cls = one.forward(images)
        assert tokens.shape == (2, *grid, 48)
        assert cls.shape == (2, 48)
        assert (one.stride, one.multiple, one.depth) == (8, 8, 48)


def test_positions_return_to_the_native_ones() -> None:
    """After other grids the native grid gives the same numbers as at first."""
    one, images = backbone(small_vit(), facet="key"), pictures()
    first = one.forward(images)[0]
    other = one.forward(pictures(40, 96))[0]
    assert torch.equal(one.forward(images)[0], first)
    assert torch.equal(one.forward(pictures(40, 96))[0], other)


def test_resampled_positions() -> None:
    torch.manual_seed(0)
    positions = torch.randn(1, 2 + 6 * 6, 5)
    assert resample_positions(positions, (6, 6), (6, 6)) is positions
    grown = resample_positions(positions, (6, 6), (12, 9))
    assert grown.shape == (1, 2 + 108, 5)
    assert torch.equal(grown[:, :2], positions[:, :2])
    flat = resample_positions(torch.full((1, 37, 3), 0.7), (6, 6), (4, 13))
    torch.testing.assert_close(flat, torch.full((1, 1 + 52, 3), 0.7))
    # A grid that depends on y only stays so: axes are not swapped.
    ramp = torch.arange(6.0).repeat_interleave(6).reshape(1, 36, 1)
    tall = resample_positions(ramp, (6, 6), (12, 4)).reshape(12, 4)
    assert (tall[1:] >= tall[:-1] - 0.2).all()
    torch.testing.assert_close(tall[:, 0], tall[:, 3])
    # Bicubic without antialiasing, a half in size: each value is the mean of four neighbours by (-3, 19, 19, -3) / 32.
    line = torch.randn(8)
    half = resample_positions(line.repeat_interleave(8).reshape(1, 64, 1), (8, 8), (4, 4)).reshape(4, 4)[:, 0]
    weights = torch.tensor([-3.0, 19, 19, -3]) / 32
    torch.testing.assert_close(half[1], (line[1:5] * weights).sum())


@pytest.mark.parametrize("facet", ["token", "key"])
def test_registers_are_dropped(facet: str) -> None:
    model, images = small_vit(reg_tokens=3), pictures()
    tokens, cls = backbone(model, facet=facet).forward(images)
    assert tokens.shape == (2, 8, 8, 48)
    x = block_inputs(model, images)[-1]
    assert x.shape[1] == 1 + 3 + 64
    block = model.blocks[-1]
    with torch.no_grad():
        rows = (
            functional.linear(block.norm1(x), block.attn.qkv.weight[48:96]) if facet == "key" else model.norm(block(x))
        )
    torch.testing.assert_close(tokens.flatten(1, 2), rows[:, 4:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cls, rows[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("facet", ["token", "key"])
@pytest.mark.parametrize("registers", [0, 2])
def test_without_cls_token_cls_is_the_mean(facet: str, registers: int) -> None:
    model = small_vit(class_token=False, global_pool="avg", reg_tokens=registers)
    tokens, cls = backbone(model, facet=facet).forward(pictures())
    torch.testing.assert_close(cls, tokens.mean((1, 2)))


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "eva02_tiny_patch14_224"])
def test_projections_stored_in_other_ways(name: str) -> None:
    """BEiT keeps q and v biases beside a fused projection, EVA-02 has three projections; neither has a key bias."""
    torch.manual_seed(0)
    options = {"pretrained": False, "num_classes": 0, "depth": 1}
    model = timm.create_model(name, **options | ({} if "beit" in name else {"dynamic_img_size": True}))
    attention, d = model.blocks[0].attn, model.embed_dim
    model.requires_grad_(False)
    for facet, part in {"query": 0, "key": 1, "value": 2}.items():
        if attention.qkv is not None:
            weight, bias = attention.qkv.weight[part * d : (part + 1) * d], getattr(attention, f"{facet[0]}_bias")
        else:
            single = getattr(attention, f"{facet[0]}_proj")
            weight, bias = single.weight, single.bias
        if bias is not None and facet != "key":
            torch.nn.init.normal_(bias)
        for rule in ("subtract", "keep"):
            seen: list[torch.Tensor] = []
            hook = attention.register_forward_pre_hook(lambda _m, args, seen=seen: seen.append(args[0].clone()))
            one = backbone(model, facet=facet, layer=0, key_bias=rule)
            tokens, _ = one.forward(pictures(one.stride * 16, one.stride * 16, 1))
            hook.remove()
            with torch.inference_mode():
                whole = functional.linear(seen[-1], weight, None if facet == "key" and rule == "subtract" else bias)
            torch.testing.assert_close(tokens.flatten(1, 2), whole[:, 1:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stride", [None, 16, 8])
def test_cnn_output_stride(stride: int | None, tmp_path: Path) -> None:
    file = saved(timm.create_model("resnet10t", pretrained=False, num_classes=0), "resnet10t", tmp_path)
    one = load(file, FeatureSet(backbone="resnet10t", stride=stride), CPU)
    tokens, cls = one.forward(pictures(64, 96))
    step = stride or 32
    assert tokens.shape == (2, 64 // step, 96 // step, 512)
    assert (one.stride, one.multiple, one.depth) == (step, step, 512)
    torch.testing.assert_close(cls, tokens.mean((1, 2)))


def test_cnn_level(tmp_path: Path) -> None:
    model = timm.create_model("resnet10t", pretrained=False, num_classes=0).eval()
    one = load(saved(model, "resnet10t", tmp_path), FeatureSet(backbone="resnet10t", layer=-2), CPU)
    assert (one.stride, one.depth) == (16, 256)
    only = timm.create_model("resnet10t", pretrained=False, features_only=True, out_indices=(-2,)).eval()
    only.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        expected = only(normalised(pictures()))[0]
    torch.testing.assert_close(one.forward(pictures())[0].permute(0, 3, 1, 2), expected)


@pytest.mark.parametrize("facet", ["token", "key"])
def test_a_batch_gives_what_single_images_give(facet: str) -> None:
    one, images = backbone(small_vit(), facet=facet), pictures(56, 72, 5)
    together = one.forward(images)
    for i in range(5):
        for whole, single in zip(together, one.forward(images[i : i + 1]), strict=True):
            torch.testing.assert_close(whole[i], single[0], atol=1e-5, rtol=1e-5)


def saved(model: Any, architecture: str, folder: Path) -> Path:
    facts = {"architecture": architecture, "mean": HALF, "std": HALF}
    file = folder / "w.safetensors"
    weights_file.write(file, model.state_dict(), facts)
    return file


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"facet": "key"}, r"facet: 'key' needs a ViT; resnet10t has only 'token'"),
        ({"layer": 9}, r"layer: 9, but resnet10t has 5 feature levels; use -5..4"),
        ({"stride": 7}, r"stride: resnet10t can not give stride 7"),
        ({"stride": 16, "layer": 1}, r"stride: resnet10t can not give stride 16 \(layer 1 has stride 4\)"),
    ],
)
def test_wrong_keys_of_a_cnn(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = saved(timm.create_model("resnet10t", pretrained=False, num_classes=0), "resnet10t", tmp_path)
    with pytest.raises(ConfigError, match=message):
        load(file, FeatureSet(backbone="resnet10t", **keys), CPU)


@pytest.mark.parametrize("facet", ["token", "key"])
def test_wrong_layer_of_a_vit(facet: str) -> None:
    with pytest.raises(ConfigError, match=r"layer: 3, but small has 3 blocks; use -3\.\.2"):
        backbone(small_vit(), facet=facet, layer=3)


def test_wrong_stride_of_a_vit() -> None:
    with pytest.raises(ConfigError, match=r"stride: small can not give stride 4"):
        backbone(small_vit(), stride=4)


def test_damaged_weights(tmp_path: Path) -> None:
    chosen = FeatureSet(backbone="resnet10t")
    with pytest.raises(WeightsError, match="no such file"):
        load(tmp_path / "absent.safetensors", chosen, CPU)
    model = timm.create_model("resnet10t", pretrained=False, num_classes=0)
    file = saved(model, "resnet10t", tmp_path)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="not a weights file"):
        load(file, chosen, CPU)
    with pytest.raises(WeightsError, match="do not fit timm's resnet14t"):
        load(saved(model, "resnet14t", tmp_path), chosen, CPU)
