"""Heads whose codes are masks of one image: ACSeg's modularity, slots, decoders, the argmax cut, the two recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
import yaml
from token_scenes import FAST, scenes, write
from torch import nn
from typer.testing import CliRunner

from maskmill.adapt import _masks, _trainer, acseg, dinosaur
from maskmill.adapt._attention import Attention
from maskmill.adapt._modularity import affinity, modularity
from maskmill.adapt._training import HeadTraining
from maskmill.adapt.acseg.concepts import ConceptHead
from maskmill.adapt.dinosaur.slots import MlpDecoder, SlotAttention, TransformerDecoder
from maskmill.cli.app import app
from maskmill.cut import argmax
from maskmill.errors import ConfigError, NumericsError
from maskmill.recipe.resolve import load
from maskmill.store.ragged import Ragged
from maskmill.training.resources import Resources

RECIPES = Path(__file__).parents[2] / "recipes"


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- modularity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_modularity_of_hard_groups_is_newmans(seed: int, loops: bool) -> None:
    """In networkx a loop of weight w counts twice in the degree, in the affinity once: w is half of its diagonal."""
    rng = np.random.default_rng(seed)
    weights = np.triu(rng.random((9, 9)) * (rng.random((9, 9)) < 0.6), 0 if loops else 1)
    a = weights + np.triu(weights, 1).T
    labels = rng.integers(0, 3, 9)
    graph = nx.Graph()
    graph.add_nodes_from(range(9))
    for i, j in zip(*np.nonzero(weights), strict=True):
        graph.add_edge(int(i), int(j), weight=weights[i, j] / (2 if i == j else 1))
    groups = [set(np.flatnonzero(labels == k).tolist()) for k in range(3) if (labels == k).any()]
    hard = torch.from_numpy(np.eye(3)[labels])
    found = modularity(torch.from_numpy(a)[None], hard[None])
    assert float(found) == pytest.approx(nx.community.modularity(graph, groups), abs=1e-12)


def test_modularity_of_soft_groups_is_the_sum_over_pairs() -> None:
    a, s = affinity(drawn(2, 5, 4)), drawn(2, 5, 3, seed=1).sigmoid()
    for n in range(2):
        degree, m = a[n].sum(1), a[n].sum()
        pairs = [
            (a[n, i, j] - degree[i] * degree[j] / m) * max(s[n, i, k] * s[n, j, k] for k in range(3))
            for i in range(5)
            for j in range(5)
        ]
        assert float(modularity(a, s)[n]) == pytest.approx(float(sum(pairs) / m), abs=1e-6)


def test_the_gradient_of_the_modularity_is_that_of_differences() -> None:
    a = affinity(drawn(1, 5, 4).double())
    s = drawn(1, 5, 3, seed=1).double().sigmoid().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: modularity(a, x), (s,))


def test_a_graph_without_edges_has_no_modularity() -> None:
    assert float(modularity(torch.zeros(1, 4, 4), torch.ones(1, 4, 2))) == 0


def test_affinity_is_the_positive_cosine() -> None:
    x = torch.tensor([[[1.0, 0], [2, 0], [-1, 0], [0, 3]]])
    expected = torch.tensor([[[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]])
    torch.testing.assert_close(affinity(x), expected)


# --- attention ------------------------------------------------------------------------------------------------------


def test_attention_is_that_of_torch() -> None:
    ours, theirs = Attention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    layers = (ours.query, ours.key, ours.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in layers]))
        theirs.in_proj_bias.copy_(torch.cat([layer.bias for layer in layers]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    q, x = drawn(2, 5, 12), drawn(2, 7, 12, seed=1)
    expected, weights = theirs(q, x, x, average_attn_weights=False)
    torch.testing.assert_close(ours(q, x), (expected, weights))
    torch.testing.assert_close(ours.few(q, x), expected)
    causal = nn.Transformer.generate_square_subsequent_mask(7)
    torch.testing.assert_close(ours(x, x, causal=True)[0], theirs(x, x, x, attn_mask=causal)[0])


def test_heads_need_not_divide_the_length_of_a_token() -> None:
    attention = Attention(10, 4)
    q, x = drawn(1, 3, 10), drawn(1, 6, 10, seed=1)
    torch.testing.assert_close(attention.few(q, x), attention(q, x)[0])


# --- concepts -------------------------------------------------------------------------------------------------------


def test_assignments_follow_the_tokens_and_an_image_alone() -> None:
    head = ConceptHead(8, 3, 2, 2, 16, centre=False).eval()
    x = drawn(2, 8, 4, 5)
    codes = head.codes(x).detach()
    assert codes.shape == (2, 3, 4, 5)
    assert float(codes.min()) >= 0
    assert float(codes.max()) <= 1
    torch.testing.assert_close(head.codes(x[1:]), codes[1:])
    turn = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    shuffled = x.flatten(2)[:, :, turn].unflatten(2, (4, 5))
    torch.testing.assert_close(head.codes(shuffled).flatten(2), codes.flatten(2)[:, :, turn])


def test_centred_tokens_do_not_see_a_common_vector() -> None:
    """What all tokens share would make the graph complete, and its modularity next to nothing."""
    head = ConceptHead(8, 3, 1, 2, 16, centre=True)
    x, common = drawn(1, 8, 4, 5), 50 * drawn(1, 8, 1, 1, seed=1)
    near = affinity(head.tokens(x + common))
    torch.testing.assert_close(near, affinity(head.tokens(x)), atol=1e-4, rtol=0)
    assert float((affinity((x + common).flatten(2).mT) > 0.9).float().mean()) == 1


# --- slots and decoders ---------------------------------------------------------------------------------------------


def test_slots_follow_their_draws_and_do_not_see_the_order_of_tokens() -> None:
    slots = SlotAttention(8, 4, 3)
    x, draw = drawn(2, 10, 8), drawn(2, 4, 8, seed=1)
    found, masks = slots(x, draw)
    torch.testing.assert_close(masks.sum(1), torch.ones(2, 10))
    assert not torch.allclose(found[:, 0], found[:, 1])
    turn = torch.tensor([2, 0, 3, 1])
    again, turned = slots(x, draw[:, turn])
    torch.testing.assert_close(again, found[:, turn])
    torch.testing.assert_close(turned, masks[:, turn])
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    same, moved = slots(x[:, order], draw)
    torch.testing.assert_close(same, found)
    torch.testing.assert_close(moved, masks[:, :, order])


def test_one_iteration_of_slot_attention_by_hand() -> None:
    slots = SlotAttention(4, 2, 1)
    x, draw = drawn(1, 3, 4), drawn(1, 2, 4, seed=1)
    found, masks = slots(x, draw)
    start = slots.mean + slots.log_sigma.exp() * draw[0]
    seen = slots.norm_input(x[0])
    q, k, v = slots.query(slots.norm_slots(start)), slots.key(seen), slots.value(seen)
    expected = torch.exp(q @ k.T / 2)
    expected = expected / expected.sum(0)
    torch.testing.assert_close(masks[0], expected)
    new = [
        slots.update(sum(expected[s, t] / expected[s].sum() * v[t] for t in range(3))[None], start[s : s + 1])[0]
        for s in range(2)
    ]
    want = torch.stack([one + slots.mlp(slots.norm_mlp(one)) for one in new])
    torch.testing.assert_close(found[0], want, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
@pytest.mark.parametrize("grid", [(5, 5), (3, 7)])
def test_a_decoder_makes_tokens_and_masks_that_sum_to_one(kind: str, grid: tuple[int, int]) -> None:
    decoder = MlpDecoder(6, 8, 10, 2, 5) if kind == "mlp" else TransformerDecoder(6, 8, 12, 2, 2)
    slots, x = drawn(2, 3, 8), drawn(2, 6, *grid, seed=1)
    made, masks = decoder(slots, x)
    assert made.shape == x.shape
    assert masks.shape == (2, 3, grid[0] * grid[1])
    torch.testing.assert_close(masks.sum(1), torch.ones(2, grid[0] * grid[1]))
    turn = [2, 0, 1]
    again, turned = decoder(slots[:, turn], x)
    torch.testing.assert_close(again, made)
    torch.testing.assert_close(turned, masks[:, turn])


def test_the_mlp_decoder_mixes_what_each_slot_makes() -> None:
    """alpha-weighted sum of every slot's own tokens, as published."""
    decoder = MlpDecoder(6, 8, 10, 2, 4)
    slots, x = drawn(1, 3, 8), drawn(1, 6, 4, 4)
    body = decoder.hidden(slots[:, :, None] + decoder.place.flatten(0, 1))
    alpha = decoder.alpha(body).softmax(1)
    torch.testing.assert_close(decoder(slots, x)[0], (alpha * decoder.out(body)).sum(1).mT.unflatten(2, (4, 4)))


def test_the_transformer_sees_only_the_tokens_before() -> None:
    decoder = TransformerDecoder(6, 8, 12, 2, 2)
    slots, x = drawn(1, 3, 8), drawn(1, 6, 3, 4, seed=1)
    other = x.clone()
    other.flatten(2)[:, :, 7:] += 1
    before, after = decoder(slots, x)[0].flatten(2), decoder(slots, other)[0].flatten(2)
    torch.testing.assert_close(before[:, :, :8], after[:, :, :8])
    assert not torch.allclose(before[:, :, 8], after[:, :, 8])


@pytest.mark.parametrize("decoder", ["mlp", "transformer"])
@pytest.mark.parametrize("masks", ["decoder", "slots"])
def test_codes_of_slots_depend_on_the_image_alone(decoder: str, masks: str) -> None:
    params = dinosaur.Params(decoder=decoder, masks=masks, slots=3, slot_size=8, width=12, layers=1, heads=2, side=4)  # type: ignore[arg-type]
    head = dinosaur.build(6, params, 8).eval()
    x = drawn(2, 6, 4, 5)
    codes = head.codes(x)
    assert codes.shape == (2, 3, 4, 5)
    torch.testing.assert_close(codes.sum(1), torch.ones(2, 4, 5))
    torch.testing.assert_close(head.codes(x[1:]), codes[1:])
    torch.testing.assert_close(head.codes(x), codes, rtol=0, atol=0)


def test_the_rate_rises_and_then_halves() -> None:
    """From 0, and it falls from the end of the warm-up on, as published."""
    params = dinosaur.Params(warmup=10, halve_every=100)
    found = [dinosaur.rate(step, params) for step in (0, 5, 10, 110, 310)]
    assert found == pytest.approx([0, 0.5, 1, 0.5, 0.125])
    assert dinosaur.rate(10_000, dinosaur.Params()) == 1
    assert dinosaur.rate(0, dinosaur.Params(warmup=0)) == 1


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_weights_start_as_published(kind: str) -> None:
    """Biases at 0, Xavier's bounds of the slots and of the transformer's projections, positions and first token."""
    params = dinosaur.Params(decoder=kind, slots=3, slot_size=300, width=200, layers=2, heads=2, side=20)  # type: ignore[arg-type]
    head = _trainer.seeded(HeadTraining(0, torch.device("cpu")), lambda: dinosaur.build(90, params, 8))
    fixed = [*head.input.modules(), *head.slots.mlp.modules()]
    reach = {head.slots.mean: (3 / 300) ** 0.5, head.slots.log_sigma: (3 / 300) ** 0.5}
    decoder = head.decoder
    if kind == "mlp":
        fixed += decoder.modules()
        assert float(decoder.place.detach().std()) == pytest.approx(0.02, rel=0.02)
        reach[decoder.hidden[0].weight] = 300**-0.5  # torch's own rule
    else:
        fixed += [part for layer in decoder.layers for part in (*layer.among.modules(), *layer.across.modules())]
        fixed.append(decoder.out)
        assert float(decoder.begin.detach().std()) == pytest.approx(90**-0.5, rel=0.3)
        assert decoder.tokens[0].bias is decoder.memory[0].bias is None
        reach[decoder.tokens[0].weight] = (6 / (90 + 200)) ** 0.5
        reach[decoder.memory[0].weight] = (6 / (300 + 200)) ** 0.5
        reach[decoder.layers[0].among.key.weight] = (6 / (4 * 200)) ** 0.5
        reach[decoder.layers[0].among.out.weight] = 200**-0.5
        first, second = (dict(layer.named_parameters()) for layer in decoder.layers)
        assert all(torch.equal(value, second[name]) for name, value in first.items())
    for weight, bound in reach.items():
        assert 0.97 * bound < float(weight.detach().abs().max()) <= bound * (1 + 1e-6)
    biases = [layer.bias for layer in fixed if isinstance(layer, nn.Linear) and layer.bias is not None]
    assert len(biases) > 3
    assert not any(bias.any() for bias in biases)


def test_the_published_networks_are_the_defaults() -> None:
    concepts = acseg.build(384, acseg.Params(), 8)
    assert (len(concepts.blocks), concepts.start.shape) == (6, (5, 384))
    assert concepts.blocks[0].forwards[0].out_features == 1024
    slots = dinosaur.build(384, dinosaur.Params(), 8)
    assert slots.slots.draw.shape == (7, 256)
    assert [layer.out_features for layer in slots.decoder.hidden if isinstance(layer, nn.Linear)] == [2048] * 3
    tall = dinosaur.build(384, dinosaur.Params(decoder="transformer"), 8).decoder
    assert (len(tall.layers), tall.layers[0].across.heads, tall.out.in_features) == (4, 8, 384)


def test_what_is_watched() -> None:
    masks = torch.tensor([[[[0.8, 0.6]], [[0.2, 0.4]]], [[[0.3, 0.9]], [[0.7, 0.1]]]])  # [2, 2, 1, 2]
    seen = _masks.mask_monitors(masks)
    assert float(seen["parts"]) == 1.5
    assert float(seen["share"]) == pytest.approx((0.8 + 0.6 + 0.7 + 0.9) / 4)
    assert float(seen["largest"]) == 0.75


# --- the cut --------------------------------------------------------------------------------------------------------


def cut(codes: Any) -> tuple[np.ndarray, dict[str, Any]]:
    return argmax.cut(np.asarray(codes, np.float32), argmax.Params(), 0, "a")


def test_every_channel_that_wins_is_a_segment() -> None:
    """Four channels, of which the second and the last win; ties go to the first, and nothing is no segment."""
    codes = [[[0, 0.6, 0.2, 0.2], [0.1, 0.1, 0, 0.8]], [[0, 0.5, 0.5, 0], [0, 0, 0, 0]]]
    segments, found = cut(codes)
    assert segments.dtype == np.uint8
    assert segments.tolist() == [[1, 2], [1, 0]]
    np.testing.assert_allclose(found["scores"], [0.55, 0.8, 0, 0], rtol=1e-6)
    assert found["confidence"] == pytest.approx((0.6 + 0.8 + 0.5) / 4)
    assert found["groups"] == 2


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.full((2, 2, 3), -0.5), "a: cut.method argmax: negative codes, the least -0.5; it reads masks"),
        (np.ones((2, 2, 255)), r"a: cut.method argmax: 255 channels \(at most 254\)"),
        (np.full((2, 2, 3), np.nan), "a: 4 of 4 tokens are NaN"),
    ],
)
def test_codes_that_are_no_masks_are_refused(codes: np.ndarray, message: str) -> None:
    with pytest.raises(NumericsError, match=message):
        cut(codes)


# --- recipes and verbs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["acseg", "dinosaur"])
@pytest.mark.parametrize("preset", [[], ["small"]])
def test_the_recipes_resolve(method: str, preset: list[str]) -> None:
    recipe = load({"recipes": [method], "preset": preset}, RECIPES).recipes[method]
    assert (recipe.adapt.method, recipe.cut.method, recipe.cluster.method) == (method, "argmax", "kmeans")  # type: ignore[union-attr]
    assert recipe.cut.settings.features == "codes"  # type: ignore[union-attr]
    assert (recipe.stage("adapt").params.steps <= 1000) == bool(preset)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cut": {"features": "semantic", "method": "argmax"}}, "cut.features: 'semantic', but method argmax reads"),
        ({"regions": {"features": "codes", "pool": "mean"}}, "regions.features: the codes of acseg are masks"),
    ],
)
def test_masks_are_cut_and_nothing_else(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    body = yaml.safe_load((RECIPES / "acseg.yaml").read_text()) | change
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(body))
    with pytest.raises(ConfigError, match=message):
        load({"recipes": [str(tmp_path / "own.yaml")]}, RECIPES)


def verb(*words: object) -> None:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("method", ["acseg", "dinosaur"])
def test_from_tokens_to_segments_through_the_verbs(method: str, tmp_path: Path) -> None:
    """fit, map and cut: two segments an image, each of one half."""
    from maskmill.adapt.run import HeadFiles, fit

    images = scenes(16, seed=2)
    stores = write(tmp_path, images)
    fit(
        stores,
        {"method": method, **FAST[method]},
        HeadFiles(tmp_path / "head.safetensors"),
        seed=0,
        clusters=8,
        resources=Resources(device="cpu"),
    )
    verb("adapt", "map", "--features", stores[0], "--head", tmp_path / "head.safetensors", "--out", tmp_path / "c.zarr",
         "--device", "cpu")  # fmt: skip
    section = json.dumps({"features": "codes", "method": "argmax"})
    verb("cut", "--features", tmp_path / "c.zarr", "--params", section, "--out", tmp_path / "cut.zarr")
    codes, segments = Ragged(tmp_path / "c.zarr"), Ragged(tmp_path / "cut.zarr", "segments")
    assert segments.ids == sorted(images)
    assert segments.per_image("scores").shape == (16, codes.depth)
    for image_id in segments.ids:
        np.testing.assert_array_equal(segments[image_id], cut(codes[image_id].astype(np.float32))[0])
    assert (segments.per_image("groups") == segments.per_image("groups").astype(int)).all()
    assert segments.per_image("groups").mean() > 1.5
