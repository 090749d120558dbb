"""Networks for RGB that see pictures of N channels: the first layer is adapted as timm does it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from maskmill.backbones import mean_colour, weights_file
from maskmill.backbones._channels import adapted, extended
from maskmill.backbones.colour import Colour
from maskmill.backbones.network import Backbone, import_timm, load
from maskmill.errors import ConfigError
from maskmill.images.decode import resize
from maskmill.recipe.feature_set import FeatureSet, Size

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FIRST = {"test_vit": "patch_embed.proj.weight", "test_resnet": "conv1.0.weight"}  # small networks of timm's own tests


@pytest.fixture(scope="module", params=FIRST)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FeatureSet]:
    """Random weights of a network for RGB."""
    torch.manual_seed(0)
    model = import_timm().create_model(request.param, pretrained=False, num_classes=0)
    file = tmp_path_factory.mktemp(request.param) / "weights.safetensors"
    weights_file.write(file, model.state_dict(), {"architecture": request.param, "mean": MEAN, "std": STD})
    return file, FeatureSet(backbone=request.param, size=Size(square=96))


def pictures() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8))


def opened(network: tuple[Path, FeatureSet], channels: int) -> Backbone:
    found = load(*network, CPU, channels)
    assert isinstance(found, Backbone)
    return found


def test_three_channels_are_the_network_itself(network: tuple[Path, FeatureSet]) -> None:
    ours, plain = opened(network, 3), load(*network, CPU)
    for one, other in zip(ours.forward(pictures()), plain.forward(pictures()), strict=True):
        assert torch.equal(one, other)


def test_two_copies_of_rgb_give_the_tokens_of_rgb(network: tuple[Path, FeatureSet]) -> None:
    """Six kernels of half the size on two copies add up to the three: the closed form of the adaptation."""
    six = opened(network, 6)
    assert six.mean.flatten().tolist() == pytest.approx([*MEAN, *MEAN])
    for wanted, found in zip(
        opened(network, 3).forward(pictures()), six.forward(torch.cat([pictures()] * 2, 3)), strict=True
    ):
        assert found.shape == wanted.shape
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_kernels_are_repeated_and_rescaled(network: tuple[Path, FeatureSet], channels: int) -> None:
    name = FIRST[network[1].backbone]
    theirs, ours = (opened(network, n).model.state_dict() for n in (3, channels))
    for i in range(channels):
        torch.testing.assert_close(ours[name][:, i], theirs[name][:, i % 3] * (3 / channels))
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items() if key != name)
    assert mean_colour(opened(network, channels)).tolist() == [round(255 * MEAN[i % 3]) for i in range(channels)]


@pytest.mark.parametrize("said", [None, "embeds.proj", "nothing"])
def test_a_network_that_can_not_is_refused_in_one_line(said: str | None) -> None:
    state = {"embeds.proj.weight": torch.zeros(4, 12)}  # a linear layer: which of its inputs are red is not said
    model = SimpleNamespace(pretrained_cfg={"first_conv": said}, state_dict=lambda: state)
    with pytest.raises(ConfigError, match=r"^features.<name>.channels: odd can not see 5 channels") as caught:
        adapted(import_timm(), state, model, FeatureSet(backbone="odd"), 5)
    assert "\n" not in str(caught.value)


def test_colour_of_five_channels() -> None:
    values: Any = np.random.default_rng(0).integers(0, 256, (1, 8, 12, 5), dtype=np.uint8)
    five = Colour(FeatureSet(backbone="colour", stride=4), CPU, channels=5)
    tokens, _ = five.forward(torch.from_numpy(values))
    assert tokens.shape == (1, 2, 3, five.depth)
    wanted = values.reshape(2, 4, 3, 4, 5).mean((1, 3)) / 255
    np.testing.assert_allclose(tokens[0, ..., :5], wanted, atol=1e-6)
    three, _ = Colour(FeatureSet(backbone="colour", stride=4), CPU).forward(torch.from_numpy(values[..., :3].copy()))
    assert torch.equal(three[..., :3], tokens[..., :3])
    assert torch.equal(three[..., 3:], tokens[..., 5:])


def test_mean_and_deviation_go_round() -> None:
    assert extended((1, 2, 3), 5) == [1, 2, 3, 1, 2]


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_channels_are_resized_as_those_of_a_photo(channels: int) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    many = photo[..., [i % 3 for i in range(channels)]]
    found, wanted = resize(many, (24, 36)), resize(photo, (24, 36))
    assert found.shape == (24, 36, channels)
    assert all((found[..., i] == wanted[..., i % 3]).all() for i in range(channels))


def test_hashes_of_sets_without_the_key_stay() -> None:
    plain, every = FeatureSet(backbone="colour"), FeatureSet(backbone="colour", channels="all")
    assert "channels" not in plain.model_dump(mode="json")
    assert plain.slug == "colour-token-sq448-" + plain.slug[-6:]
    assert plain.slug != every.slug
    assert plain.weights_slug == every.weights_slug
