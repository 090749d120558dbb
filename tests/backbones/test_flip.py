"""flip: average. The mean by hand, an equivariant network, names of sets without it, and who refuses it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch
import yaml
from torch import nn

from maskmill.backbones import weights_file
from maskmill.backbones.network import Backbone, import_timm, load
from maskmill.device import Compute
from maskmill.errors import ConfigError
from maskmill.features.run import run
from maskmill.plan.images import of_one_size
from maskmill.plan.jobs import jobs
from maskmill.plan.rates import Rates
from maskmill.recipe.base import validate
from maskmill.recipe.feature_set import FeatureSet, Size
from maskmill.recipe.resolve import load as resolve
from maskmill.store.artefact import write_table
from maskmill.store.ragged import Ragged

NAME = "vit_tiny_patch16_224"
CPU = torch.device("cpu")
RECIPES = Path(__file__).parents[2] / "recipes"


def images(count: int = 2, height: int = 48, width: int = 80) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ViT in a file as `maskmill weights` writes it."""
    torch.manual_seed(0)
    model = import_timm().create_model(NAME, pretrained=False, num_classes=0)
    file = tmp_path_factory.mktemp("w") / "w.safetensors"
    facts = {"architecture": NAME, "mean": [0.5] * 3, "std": [0.5] * 3}
    weights_file.write(file, model.state_dict(), facts)
    return file


@pytest.mark.parametrize("facet", ["token", "key"])
def test_the_mean_by_hand(weights: Path, facet: Any) -> None:
    plain = load(weights, FeatureSet(backbone=NAME, facet=facet, layer=1), CPU)
    both = load(weights, FeatureSet(backbone=NAME, facet=facet, layer=1, flip="average"), CPU)
    x = images()
    one, two = plain.outputs(x), plain.outputs(x.flip(2))
    tokens, cls, query = both.outputs(x)
    for column in range(5):  # the mirror of column 0 of 5 is column 4
        wanted = (one[0][:, :, column] + two[0][:, :, 4 - column]) / 2
        torch.testing.assert_close(tokens[:, :, column], wanted, rtol=0, atol=0)
    torch.testing.assert_close(cls, (one[1] + two[1]) / 2, rtol=0, atol=0)
    assert (tokens - one[0]).abs().max() > 0.01  # a ViT is not equivariant
    assert query is None
    assert both.heads is None
    assert (plain.heads is None) == (facet == "token")


def test_the_mirror_image_has_the_mirrored_tokens(weights: Path) -> None:
    both = load(weights, FeatureSet(backbone=NAME, flip="average"), CPU)
    one, two = both.forward(images())[0], both.forward(images().flip(2))[0]
    torch.testing.assert_close(one.flip(2), two, rtol=0, atol=1e-5)


class Means(nn.Module):
    """A network of timm's kind that averages cells and mixes their channels: equivariant to mirroring."""

    feature_info = (SimpleNamespace(),)

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 7, 1)

    def forward_intermediates(self, x: torch.Tensor, indices: list[int], norm: bool = False) -> list[torch.Tensor]:
        return [self.mix(nn.functional.avg_pool2d(x, 8))]


def test_an_equivariant_network_gives_the_same_tokens() -> None:
    model = Means()
    plain, both = (
        Backbone(model, FeatureSet(backbone="means", flip=flip), [0.5] * 3, [0.5] * 3, CPU)
        for flip in ("none", "average")  # type: ignore[arg-type]
    )
    assert (plain.stride, plain.depth) == (8, 7)
    for one, two in zip(plain.forward(images()), both.forward(images()), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


def test_the_stage_stores_the_mean(weights: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(images(1)[0].numpy()).save(tmp_path / "a.png")
    row = {"id": "a", "path": str(tmp_path / "a.png"), "width": 80, "height": 48, "shard": "s0", "label": "a"}
    write_table(tmp_path / "m.parquet", pa.Table.from_pylist([row]))
    chosen = FeatureSet(backbone=NAME, facet="key", size=Size(short_side=48), flip="average")
    out = tmp_path / "f.zarr"
    run(tmp_path / "m.parquet", "s0", chosen.model_dump(mode="json"), weights, out, Compute(1, 1, "cpu"))
    store = Ragged(out, "features")
    tokens = load(weights, chosen, CPU).forward(images(1))[0][0]
    torch.testing.assert_close(torch.from_numpy(store["a"].astype("f4")), tokens, rtol=2e-3, atol=2e-3)
    assert "heads" not in store.attrs


# --- names, configuration, plan ---------------------------------------------------------------------------------------


def test_sets_without_the_key_keep_their_names() -> None:
    """Recorded before there was such a key."""
    lite = FeatureSet(backbone="efficientnet_lite0", size=Size(square=448))
    assert lite.slug == "efficientnet_lite0-token-sq448-0ebf50"
    assert FeatureSet(backbone="vit_small_focus", facet="key", size=Size(square=448)).slug == (
        "vit_small_focus-key-sq448-0b7938"
    )
    assert FeatureSet(backbone="efficientnet_lite0", size=Size(square=448), flip="none").slug == lite.slug
    assert "flip" not in lite.model_dump(mode="json")


def test_a_set_with_the_key_is_another_set() -> None:
    both = FeatureSet(backbone="efficientnet_lite0", size=Size(square=448), flip="average")
    assert both.slug != FeatureSet(backbone="efficientnet_lite0", size=Size(square=448)).slug
    assert validate(FeatureSet, both.model_dump(mode="json"), "x") == both
    assert both.weights_slug == "efficientnet_lite0"


def test_colour_has_no_flip() -> None:
    with pytest.raises(ConfigError, match="colour has no facet, layer, checkpoint or flip"):
        validate(FeatureSet, {"backbone": "colour", "flip": "average"}, "config")


@pytest.mark.parametrize(
    ("recipe", "change", "reason"),
    [
        ("picie", {"adapt": {"unfreeze": True}}, "adapt.unfreeze: true learns from photos"),
        ("kmeans", {"rounds": {"count": 1, "student": "deeplabv3plus", "encoder": "semantic"}}, "student: deeplabv3"),
        ("leopart_cbfe", {}, "foreground.method attention needs the query of the cls token"),
    ],
)
def test_who_can_not_have_it_says_so(tmp_path: Path, recipe: str, change: dict[str, Any], reason: str) -> None:
    body = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())
    for stage, keys in change.items():
        body[stage] = body.get(stage, {}) | keys
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(body))
    config: dict[str, Any] = {"recipes": [str(tmp_path / "r.yaml")]}
    resolve(config, RECIPES)
    config["features"] = {name: {"flip": "average"} for name in body["features"]}
    with pytest.raises(ConfigError, match=rf"flip: average, but .*{reason}"):
        resolve(config, RECIPES)


def test_a_plan_counts_the_second_pass() -> None:
    found = []
    for flip in ("none", "average"):
        run_ = resolve({"recipes": ["kmeans"], "features": {"semantic": {"flip": flip}}}, RECIPES)
        (work,) = (w for w in jobs(run_, of_one_size(10, 10, {(375, 500): 1.0})) if w.rule == "features")
        rate = Rates().of(work, run_)
        assert rate is not None
        found.append(rate.seconds)
    assert found[1] == 2 * found[0]
