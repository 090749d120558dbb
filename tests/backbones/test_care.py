"""shifts, debias, concat, upsample: each by hand or in closed form, together, their names, and who refuses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from PIL import Image

from maskmill.backbones import weights_file
from maskmill.backbones._debias import subspace
from maskmill.backbones._shift import offsets
from maskmill.backbones._upsample import upsampled
from maskmill.backbones.dense import load
from maskmill.backbones.network import import_timm
from maskmill.errors import ConfigError
from maskmill.recipe.base import validate
from maskmill.recipe.feature_set import FeatureSet, Upsample
from maskmill.store.artefact import write_table

VIT, CNN = "vit_tiny_patch16_224", "resnet18"
CPU = torch.device("cpu")
RECIPES = Path(__file__).parents[2] / "recipes"


def asked(**keys: Any) -> FeatureSet:
    return validate(FeatureSet, {"backbone": VIT, "layer": 1, "size": {"square": 48}} | keys, "x")


def images(count: int = 1, height: int = 48, width: int = 64) -> torch.Tensor:
    noise = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=noise)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random ViT and a random CNN as `maskmill weights` writes them."""
    folder = tmp_path_factory.mktemp("w")
    for name in (VIT, CNN):
        torch.manual_seed(0)
        model = import_timm().create_model(name, pretrained=False, num_classes=0)
        facts = {"architecture": name, "mean": [0.5] * 3, "std": [0.5] * 3}
        weights_file.write(folder / f"{name}.safetensors", model.state_dict(), facts)
    return folder


# --- shifts -----------------------------------------------------------------------------------------------------------


def test_shifts_lie_around_the_middle_of_a_token() -> None:
    assert offsets(2, 16) == [-4, 4]
    assert offsets(3, 14) == [-4, 0, 4]
    assert offsets(4, 16) == [-6, -2, 2, 6]


def test_the_mean_over_shifted_copies_by_hand(weights: Path) -> None:
    plain, both = load(weights, asked(), CPU), load(weights, asked(shifts=2), CPU)
    x = images()
    wide = np.pad(x.numpy(), ((0, 0), (4, 4), (4, 4), (0, 0)), mode="edge")
    copies = [torch.from_numpy(wide[:, y : y + 48, z : z + 64].copy()) for y in (0, 8) for z in (0, 8)]
    wanted = sum(plain.forward(copy)[0] for copy in copies) / 4
    torch.testing.assert_close(both.forward(x)[0], wanted, rtol=0, atol=1e-6)
    assert both.outputs(x)[2] is None
    assert both.heads is None


# --- debias -----------------------------------------------------------------------------------------------------------


def test_the_subspace_is_that_of_a_numpy_svd_and_leaves_rounding_out() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(30, 8, generator=generator)
    unit = (rows / rows.norm(dim=1, keepdim=True)).numpy()
    left = np.linalg.svd((unit - unit.mean(0)).T)[0][:, :3]
    found = subspace(rows, 3).numpy()
    np.testing.assert_allclose(found @ found.T, left @ left.T, atol=1e-5)
    assert subspace(torch.ones(30, 8), 3).shape == (8, 0)  # no place differs
    line = torch.stack([torch.linspace(0, 1, 30), torch.ones(30), *torch.zeros(6, 30)], 1)
    assert subspace(line, 5).shape[1] == 2  # an arc of unit vectors in a plane


def test_debiased_tokens_have_length_1_and_nothing_of_the_positional_subspace(weights: Path) -> None:
    plain, found = load(weights, asked(), CPU), load(weights, asked(debias={"components": 4}), CPU)
    tokens, cls = found.forward(images())
    torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(1, 3, 4), rtol=0, atol=1e-5)
    black = plain.forward(torch.zeros(1, 48, 48, 3, dtype=torch.uint8))[0][0].reshape(9, -1)
    basis = subspace(black, 4)
    assert basis.shape == (192, 4)
    assert (tokens @ basis).abs().max() < 1e-5
    given, same = plain.forward(images())
    unit = given / given.norm(dim=-1, keepdim=True)
    assert (unit @ basis).abs().max() > 0.01  # there was something to remove
    torch.testing.assert_close(cls, same, rtol=0, atol=0)


def test_debias_that_leaves_nothing_is_refused(weights: Path) -> None:
    with pytest.raises(ConfigError, match=r"debias.components: 192, but a token of vit_tiny.* has 192 numbers"):
        load(weights, asked(debias={"components": 192}), CPU)


# --- concat -----------------------------------------------------------------------------------------------------------


def test_parts_have_the_lengths_of_their_weights_on_one_grid(weights: Path) -> None:
    parts = [{"backbone": CNN, "layer": 3, "weight": 2.0}, {"layer": 0}]
    both = load(weights, asked(concat=parts), CPU)
    assert both.depth == 192 + 256 + 192
    x = images()
    tokens, cls = both.forward(x)
    assert (tokens.shape, cls.shape) == ((1, 3, 4, 640), (1, 640))
    first, last = load(weights, asked(), CPU).forward(x)[0], load(weights, asked(layer=0), CPU).forward(x)[0]
    cnn = load(weights, asked(backbone=CNN, layer=3), CPU).forward(x)[0]  # of stride 16: it sees the image as it is
    wanted = [first / first.norm(dim=-1, keepdim=True), 2 * cnn / cnn.norm(dim=-1, keepdim=True)]
    wanted.append(last / last.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(tokens, torch.cat(wanted, -1), rtol=0, atol=1e-6)


def test_a_part_of_another_stride_sees_the_image_so_that_the_grid_is_that_of_the_set(weights: Path) -> None:
    both = load(weights, asked(backbone=CNN, layer=-1, concat=[{"backbone": VIT}]), CPU)
    tokens, _ = both.forward(images(1, 64, 96))  # strides 32 and 16: the ViT sees 32 x 48 pixels
    assert tokens.shape == (1, 2, 3, 512 + 192)
    from torch.nn.functional import interpolate

    small = interpolate(images(1, 64, 96).permute(0, 3, 1, 2).float(), size=(32, 48), mode="bilinear", antialias=True)
    seen = load(weights, asked(layer=-1), CPU).forward(small.round().to(torch.uint8).permute(0, 2, 3, 1))[0]
    torch.testing.assert_close(tokens[..., 512:], seen / seen.norm(dim=-1, keepdim=True), rtol=0, atol=1e-6)


# --- upsample ---------------------------------------------------------------------------------------------------------


def slow_upsampled(tokens: np.ndarray, image: np.ndarray, factor: int, space: float, colour: float) -> np.ndarray:
    """Kopf et al., equation 2, cell by cell; the image has one pixel a fine cell."""
    h, w, d = tokens.shape
    guide = image.astype(float) / 255
    low = guide.reshape(h, factor, w, factor, 3).mean((1, 3))
    out = np.zeros((h * factor, w * factor, d))
    for y in range(h * factor):
        for x in range(w * factor):
            total, top = 0.0, np.zeros(d)
            for i in range(max(0, y // factor - 2), min(h, y // factor + 3)):
                for j in range(max(0, x // factor - 2), min(w, x // factor + 3)):
                    place = (i - ((y + 0.5) / factor - 0.5)) ** 2 + (j - ((x + 0.5) / factor - 0.5)) ** 2
                    apart = ((guide[y, x] - low[i, j]) ** 2).sum()
                    weight = np.exp(-place / (2 * space**2) - apart / (2 * colour**2))
                    total, top = total + weight, top + weight * tokens[i, j]
            out[y, x] = top / total
    return out


@pytest.mark.parametrize("factor", [2, 4])
def test_upsampling_is_the_sum_of_the_paper(factor: int) -> None:
    tokens = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(2))
    picture = images(1, 3 * factor, 4 * factor)
    found = upsampled(tokens, picture, Upsample(factor=factor, colour=0.5))  # type: ignore[arg-type]
    wanted = slow_upsampled(tokens[0].numpy(), picture[0].numpy(), factor, 0.5, 0.5)
    np.testing.assert_allclose(found[0].numpy(), wanted, atol=1e-5)


def test_edges_of_the_photo_part_the_tokens() -> None:
    """Black and white meet inside a token; its white cells take the tokens of the white side."""
    picture = torch.zeros(1, 16, 32, 3, dtype=torch.uint8)
    picture[:, :, 14:] = 255  # tokens of 8 px: the second one has 6 black columns and 2 white ones
    tokens = torch.tensor([0.0, 0.0, 1.0, 1.0]).view(1, 1, 4, 1).expand(1, 2, 4, 1)
    found = upsampled(tokens, picture, Upsample(factor=4))[0, 0, :, 0]
    assert found[:7].max() < 0.01
    assert found[7:].min() > 0.99


def test_equal_tokens_stay_and_other_images_of_a_batch_change_nothing() -> None:
    picture = images(2, 32, 32)
    tokens = torch.randn(2, 2, 2, 3, generator=torch.Generator().manual_seed(3))
    both = upsampled(tokens, picture, Upsample(factor=2))
    torch.testing.assert_close(both[1:], upsampled(tokens[1:], picture[1:], Upsample(factor=2)), rtol=0, atol=0)
    one = upsampled(torch.full((1, 1, 1, 2), 3.0), images(1, 16, 16), Upsample(factor=4))
    torch.testing.assert_close(one, torch.full((1, 4, 4, 2), 3.0))
    broken = torch.full((1, 2, 2, 3), float("nan"))
    assert upsampled(broken, picture[:1], Upsample()).isnan().all()  # the store refuses them


def test_all_together(weights: Path) -> None:
    keys = {"flip": "average", "shifts": 2, "debias": "position", "concat": [{"backbone": CNN}], "upsample": 2}
    found = load(weights, asked(**keys), CPU)
    one = found.forward(images())[0]
    assert one.shape == (1, 6, 8, 192 + 512)
    assert found.stride == 8
    assert found.multiple == 16
    torch.testing.assert_close(one, load(weights, asked(**keys), CPU).forward(images())[0], rtol=0, atol=0)


# --- in a run ---------------------------------------------------------------------------------------------------------


def test_the_stage_stores_tokens_of_all_parts_on_the_finer_grid(weights: Path, tmp_path: Path) -> None:
    from maskmill.device import Compute
    from maskmill.features.run import run
    from maskmill.store.ragged import Ragged

    Image.fromarray(images()[0].numpy()).save(tmp_path / "a.png")
    row = {"id": "a", "path": str(tmp_path / "a.png"), "width": 64, "height": 48, "shard": "s0", "label": "a"}
    write_table(tmp_path / "m.parquet", pa.Table.from_pylist([row]))
    chosen = asked(size={"short_side": 48}, debias={"components": 2}, concat=[{"backbone": CNN}], upsample=2)
    out = tmp_path / "f.zarr"
    run(tmp_path / "m.parquet", "s0", chosen.model_dump(mode="json"), weights, out, Compute(1, 1, "cpu"))
    store = Ragged(out, "features")
    tokens = load(weights, chosen, CPU).forward(images())[0][0]
    assert store["a"].shape == (6, 8, 704)
    torch.testing.assert_close(torch.from_numpy(store["a"].astype("f4")), tokens, rtol=2e-3, atol=2e-3)
    assert (store.attrs["stride"], "heads" in store.attrs) == (8, False)


def test_jobs_read_the_weights_of_all_parts_from_one_folder() -> None:
    from maskmill.plan.jobs import graph_of, one_shard
    from maskmill.recipe.resolve import load as resolve

    keys = {"concat": [{"backbone": "vit_small_focus"}, {"layer": 2}]}
    run = resolve({"recipes": ["kmeans"], "features": {"semantic": keys}}, RECIPES)
    known = one_shard(run)
    assert sorted(job.wildcards["weights"] for job in known.values() if job.rule == "weights") == [
        "efficientnet_lite0",
        "vit_small_focus",
    ]
    (job,) = (job for job in known.values() if job.rule == "features")
    source = graph_of(run).inputs("features", job.wildcards)["weights"]
    assert source.options("weights", source.files) == ["--weights resources/weights"]
    plain = resolve({"recipes": ["kmeans"]}, RECIPES)
    (job,) = (job for job in one_shard(plain).values() if job.rule == "features")
    source = graph_of(plain).inputs("features", job.wildcards)["weights"]
    assert source.options("weights", source.files) == ["--weights resources/weights/efficientnet_lite0.safetensors"]


# --- names, configuration, plan ---------------------------------------------------------------------------------------


def test_keys_that_are_not_set_are_not_in_the_name() -> None:
    """Recorded before there were such keys."""
    lite = validate(FeatureSet, {"backbone": "efficientnet_lite0", "size": {"square": 448}}, "x")
    assert lite.slug == "efficientnet_lite0-token-sq448-0ebf50"
    others = [{"shifts": 2}, {"debias": "position"}, {"concat": [{"layer": 2}]}, {"upsample": 2}]
    sets = [validate(FeatureSet, lite.model_dump(mode="json") | keys, "x") for keys in others]
    assert len({each.slug for each in [lite, *sets]}) == 5
    for each in sets:
        assert validate(FeatureSet, each.model_dump(mode="json"), "x") == each
        assert hash(each) != hash(lite)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"backbone": "colour", "debias": "position"}, "backbone colour has no network to debias or to shift"),
        ({"debias": "place"}, r"debias.method: Input should be 'position', found 'place'"),
        ({"upsample": 3}, r"upsample.factor: Input should be 2 or 4, found 3"),
        ({"shifts": 1}, r"shifts: Input should be greater than or equal to 2, found 1"),
        ({"concat": [{"backbone": "sift", "facet": "key"}]}, "concat: backbone sift has no facet"),
        (
            {"backbone": "vit_small_focus", "debias": {"components": 384}},
            r"debias\.components: 384 directions of tokens of vit_small_focus, which have 384: nothing would be left",
        ),
        (
            {"backbone": "vit_small_focus", "concat": [{"layer": 5}], "dtype": "pq", "pq": {"bytes": 5}},
            "does not divide the length 768",
        ),
    ],
)
def test_settings_that_can_not_be_are_said(keys: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        asked(**({"layer": -1} | keys))


def test_parts_have_names_of_their_own_and_the_checkpoint_of_their_backbone() -> None:
    whole = asked(checkpoint="/a.pth", concat=[{"layer": 0}, {"backbone": VIT}, {"backbone": CNN}], upsample=2)
    name = whole.slug  # read before the parts are made
    parts = whole.parts
    assert [part.checkpoint for part in parts] == ["/a.pth", "/a.pth", "/a.pth", None]
    assert parts[0].slug == asked(checkpoint="/a.pth").slug
    assert len({name, *(part.slug for part in parts)}) == 5


@pytest.mark.parametrize(
    ("recipe", "keys", "reason"),
    [
        ("picie", {"shifts": 2}, r"shifts: 2, but adapt.unfreeze: true learns from photos"),
        ("picie", {"upsample": 2}, r"upsample: 2, but adapt.unfreeze: true learns from photos"),
        ("leopart_cbfe", {"debias": "position"}, r"debias: position, but .*needs the query of the cls token"),
    ],
)
def test_who_can_not_have_them_says_so(tmp_path: Path, recipe: str, keys: dict[str, Any], reason: str) -> None:
    from maskmill.recipe.resolve import load as resolve

    body = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())
    if recipe == "picie":
        body["adapt"] = body["adapt"] | {"unfreeze": True}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(body))
    config: dict[str, Any] = {"recipes": [str(tmp_path / "r.yaml")]}
    config["features"] = dict.fromkeys(body["features"], keys)
    with pytest.raises(ConfigError, match=reason):
        resolve(config, RECIPES)


def test_a_plan_counts_passes_parts_and_cells() -> None:
    from maskmill.plan.artefacts import artefacts
    from maskmill.plan.images import of_one_size
    from maskmill.plan.jobs import jobs
    from maskmill.plan.rates import Rates
    from maskmill.recipe.resolve import load as resolve

    photos = of_one_size(400, 400, {(448, 448): 1.0})

    def planned(keys: dict[str, Any]) -> tuple[float, int]:
        run = resolve({"recipes": ["kmeans"], "features": {"semantic": keys}}, RECIPES)
        (work,) = (each for each in jobs(run, photos) if each.rule == "features")
        rate = Rates().of(work, run)
        assert rate is not None
        return rate.seconds, next(each.bytes for each in artefacts(run, photos) if each.name == "features")

    (seconds, size), (more, same) = planned({}), planned({"shifts": 3})
    assert more == pytest.approx(9 * seconds)
    assert same == size
    more, finer = planned({"upsample": 4})
    assert more == seconds
    assert 14 < finer / size < 16.5
    more, longer = planned({"concat": [{"backbone": "vit_small_focus"}]})
    assert more > 1.5 * seconds
    assert longer / size == pytest.approx(704 / 320, rel=0.1)
