"""Heads that train their backbone on photos: gradients in pieces, views of photos, and what the stage promises."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbone_photos import CNN, COMMON, SETS, VIT, write_photos, write_weights
from scipy.ndimage import gaussian_filter

from maskmill.adapt import _encoder, _views, _warp, iic, infer, run
from maskmill.adapt._encoder import BackboneWithHead, Encoder
from maskmill.adapt._photos import PhotoImages
from maskmill.adapt.picie import Params
from maskmill.backbones import weights_file
from maskmill.backbones.network import load
from maskmill.errors import ConfigError, StoreError
from maskmill.numerics.blocks import one_thread
from maskmill.recipe.feature_set import Size
from maskmill.store.artefact import read_tensors
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.training import loop
from maskmill.training.resources import Resources

CPU = torch.device("cpu")
METHODS = {
    "iic": COMMON | {"shift": 1, "scale": 0.5},
    "mdc": COMMON | {"epoch_steps": 2},
    "picie": COMMON | {"epoch_steps": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


def tower(weights: Path, name: str = CNN, threads: int = 1) -> BackboneWithHead:
    facts = weights_file.read(weights)[1]
    encoder = Encoder(load(weights, SETS[name], CPU), {k: facts[k] for k in ("architecture", "mean", "std")}, threads)  # type: ignore[arg-type]
    torch.manual_seed(1)
    return BackboneWithHead(encoder, torch.nn.Conv2d(encoder.backbone.depth, 5, 1)).train()


def fit(method: str, weights: Path, manifest: Path, out: Path, threads: int = 1, name: str = CNN, **own: Any) -> Path:
    source = run.PhotoSource(manifest, weights, SETS[name])
    out.mkdir(exist_ok=True)
    target = out / "head.safetensors"
    body = {"method": method, **METHODS[method], **own}
    files = run.HeadFiles(target, out / "monitor.json")
    run.fit(source, body, files, seed=0, clusters=3, resources=Resources(threads, "cpu"))
    return target


@pytest.mark.parametrize("name", list(SETS))
def test_before_it_learns_the_tower_gives_the_stored_tokens(name: str, weights: dict[str, Path]) -> None:
    photos = np.random.default_rng(0).integers(0, 256, (5, 64, 96, 3), dtype=np.uint8)
    expected = load(weights[name], SETS[name], CPU).forward(torch.from_numpy(photos))[0]
    built = tower(weights[name], name)
    with torch.no_grad():
        found = built(torch.from_numpy(photos).permute(0, 3, 1, 2).float())
        wanted = built.head(expected.permute(0, 3, 1, 2))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", list(SETS))
def test_gradients_in_pieces_are_those_of_the_whole(
    name: str, weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is not a sum over images, as IIC's and the clusterings' is not."""
    x = 255 * torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = []
    for size, threads in ((2, 1), (2, 2), (5, 1)):
        monkeypatch.setitem(_encoder.PIECE, "cpu", size)
        built = tower(weights[name], name, threads)
        with one_thread():  # as in the trainer
            built(x).softmax(1).mean((0, 2, 3)).square().sum().backward()
        found.append({key: p.grad for key, p in built.named_parameters() if p.grad is not None})
    plain = tower(weights[name], name)
    if plain.positions is not None:
        plain.eval()(x[:1])  # sets the embeddings for the grid
    plain.head(plain.tokens(x)).softmax(1).mean((0, 2, 3)).square().sum().backward()
    reference = {key: p.grad for key, p in plain.named_parameters() if p.grad is not None}
    assert any(key.startswith("model.") and value.abs().max() > 0 for key, value in reference.items())
    assert "model.pos_embed" not in reference
    for gradients in found:
        for key, value in reference.items():
            scale = float(value.abs().max()) + 1e-12
            torch.testing.assert_close(gradients[key] / scale, value / scale, rtol=0, atol=2e-4)
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


@pytest.mark.parametrize("method", list(METHODS))
def test_the_backbone_learns_and_threads_change_nothing(
    method: str, weights: dict[str, Path], manifest: Path, tmp_path: Path
) -> None:
    one = read_tensors(fit(method, weights[CNN], manifest, tmp_path / "one"))[0]
    two = read_tensors(fit(method, weights[CNN], manifest, tmp_path / "two", threads=2))[0]
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)
    start = {key: value.numpy() for key, value in weights_file.read(weights[CNN])[0].items()}
    stem = next(key for key in one if key.endswith("model.conv1.0.weight"))
    norm = next(key for key in one if key.endswith("model.bn1.running_mean"))
    assert 0 < np.abs(one[stem] - start["conv1.0.weight"]).max() < 0.01
    np.testing.assert_array_equal(one[norm], start["bn1.running_mean"])


@pytest.mark.parametrize("method", list(METHODS))
def test_a_stopped_training_goes_on_as_if_it_had_not(
    method: str, weights: dict[str, Path], manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(method, weights[CNN], manifest, tmp_path / "whole")
    move = loop._move

    def then_signal(average: dict, task: loop.Task, at: int) -> None:
        move(average, task, at)
        if at + 1 == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_move", then_signal)
        with pytest.raises(loop.StoppedError, match="adapt: stopped by SIGTERM after step 3"):
            fit(method, weights[CNN], manifest, tmp_path / "stopped")
    assert fit(method, weights[CNN], manifest, tmp_path / "stopped").read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("name", list(SETS))
def test_codes_of_a_shard_come_from_its_photos(
    name: str, weights: dict[str, Path], manifest: Path, tmp_path: Path
) -> None:
    target = fit("mdc", weights[name], manifest, tmp_path / "fit", name=name, batch_size=3)
    for threads in (1, 2):
        run.apply_to_photos(target, manifest, "s0", tmp_path / f"codes{threads}.zarr", threads, "cpu")
    one, two = (Ragged(tmp_path / f"codes{threads}.zarr") for threads in (1, 2))
    assert one.ids == [f"im{i}" for i in range(0, 10, 2)]
    assert one.depth == 8
    assert {one[key].shape[:2] for key in one.ids} == {(8, 8) if name == CNN else (4, 4)}
    for key in one.ids:
        np.testing.assert_array_equal(one[key], two[key])
    model = infer.Head.load(target, "cpu")
    images = PhotoImages(manifest, weights[name], SETS[name], 10, CPU)
    np.testing.assert_allclose(model.codes(images[images.ids.index("im2")]), one["im2"], atol=2e-3)
    rows = np.concatenate([one[key].reshape(-1, 8) for key in one.ids])
    assert np.unique((rows @ model.prototypes.T).argmax(1)).size > 1  # type: ignore[union-attr]


def test_photos_are_read_once_while_they_fit(weights: dict[str, Path], manifest: Path) -> None:
    held = PhotoImages(manifest, weights[CNN], SETS[CNN], 10, CPU, threads=2)
    first = held.several([3, 1, 3])
    assert [array.shape for array in first] == [(64, 64, 3)] * 3
    assert first[0] is held[3]
    none = PhotoImages(manifest, weights[CNN], SETS[CNN], 0, CPU)
    assert none[3] is not none[3]
    np.testing.assert_array_equal(none[3], held[3])


def test_light_is_what_its_formulas_say() -> None:
    x = torch.rand(1, 3, 9, 11, generator=torch.Generator().manual_seed(0)) * 100 + 50
    same = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]])

    def changed(place: int, value: float) -> torch.Tensor:
        one = same.clone()
        one[0, place] = value
        return _warp.relight(x, one)

    torch.testing.assert_close(_warp.relight(x, same), x, rtol=0, atol=1e-3)
    torch.testing.assert_close(changed(0, 1.2), 1.2 * x)
    grey = (x * torch.tensor(_warp.GREY)[:, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(changed(1, 0.0), grey.mean().expand_as(x))
    torch.testing.assert_close(changed(2, 0.0), grey.expand_as(x))
    torch.testing.assert_close(changed(3, 1.0), x, rtol=0, atol=1e-3)
    turned = changed(3, 0.1)
    luminance = (turned * torch.tensor(_warp.GREY)[:, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(luminance, grey, rtol=0, atol=0.2)  # a turn of the hue keeps it
    assert (turned - x).abs().max() > 1
    blurred = changed(4, 1.0)[0, 0].numpy()
    inner = gaussian_filter(x[0, 0].numpy().astype("f8"), 1.0, truncate=8)[4:-4, 4:-4]
    np.testing.assert_allclose(blurred[4:-4, 4:-4], inner, rtol=2e-3)
    flat = torch.full((1, 3, 9, 11), 77.0)
    torch.testing.assert_close(_warp.relight(flat, torch.tensor([[1.0, 1.0, 1.0, 0.0, 2.0]])), flat, rtol=1e-4, atol=0)


def test_the_views_of_a_photo_hold_for_a_pass() -> None:
    params = Params(unfreeze=True)
    one = _views.draw([4, 7], [0, 0], 3, params, 0)
    np.testing.assert_array_equal(_views.draw([7], [0], 3, params, 0)[1][0], one[1][1])
    assert not np.array_equal(_views.draw([7], [1], 3, params, 0)[1][0], one[1][1])
    lights = _views.draw(range(400), [0] * 400, 3, params, 0)[1]
    assert lights.shape == (400, 2, 5)
    assert 0.7 <= lights[..., :3].min() < 0.72 < 1.28 < lights[..., :3].max() <= 1.3
    assert np.abs(lights[..., 3]).max() <= 0.1
    assert np.mean(lights[..., 0] == 1) == pytest.approx(0.2, abs=0.05)
    assert np.mean(lights[..., 4] == 0) == pytest.approx(0.5, abs=0.06)
    assert _views.size(torch.zeros(1, 3, 448, 336), 0.5, 16) == (224, 160)


def test_tokens_and_photos_are_not_confused(weights: dict[str, Path], manifest: Path, tmp_path: Path) -> None:
    target = fit("picie", weights[CNN], manifest, tmp_path / "fit")
    with RaggedWriter(tmp_path / "f.zarr", "features", depth=3) as out:
        out.append("a", np.ones((2, 2, 3), np.float32))
    with pytest.raises(StoreError, match="sees photos; give --manifest and --shard"):
        run.apply(target, tmp_path / "f.zarr", tmp_path / "codes.zarr")
    frozen = tmp_path / "frozen.safetensors"
    rng = np.random.default_rng(0)
    with RaggedWriter(tmp_path / "g.zarr", "features", depth=16) as out:
        for i in range(8):
            out.append(str(i), rng.standard_normal((6, 6, 16)).astype("f4"))
    own = {"method": "picie", **METHODS["picie"], "unfreeze": False}
    run.fit([tmp_path / "g.zarr"], own, run.HeadFiles(frozen), seed=0, clusters=3, resources=Resources(device="cpu"))
    with pytest.raises(StoreError, match="sees stored tokens; give --features"):
        run.apply_to_photos(frozen, manifest, "s0", tmp_path / "codes.zarr")


def test_what_cannot_learn_is_refused(weights: dict[str, Path], manifest: Path) -> None:
    keys = SETS[VIT].model_copy(update={"facet": "key"})
    with pytest.raises(ConfigError, match=r"adapt\.unfreeze: vit_tiny_patch16_224, facet key: a head can train"):
        PhotoImages(manifest, weights[VIT], keys, 10, CPU)
    ragged = SETS[VIT].model_copy(update={"size": Size(short_side=64)})
    with pytest.raises(ConfigError, match=r"gives photos of 3 sizes.*set features\.<name>\.size: \{square: \.\.\.\}"):
        PhotoImages(manifest, weights[VIT], ragged, 10, CPU)


def test_views_are_exact_where_the_network_computes_in_half_precision() -> None:
    """A turn by nothing, at the size as it is, changes no pixel and no place."""
    x = 255 * torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0.0, 0.0, 1.0, 0.0]]).repeat(2, 1)
    same = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]).expand(2, 2, 5)
    seen: list[torch.Tensor] = []

    class Spy:
        def probabilities(self, view: torch.Tensor, over: bool) -> torch.Tensor:
            seen.append(view)
            return view.softmax(1)

    with torch.autocast("cpu", torch.bfloat16):
        one, two, _ = iic.views(Spy(), (x, boxes, same), 1.0, False, 8)  # type: ignore[arg-type]
    for view in seen:
        torch.testing.assert_close(view, x, rtol=0, atol=1e-3)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)
    assert two.dtype == torch.float32


def test_the_verb_says_what_is_missing(weights: dict[str, Path], manifest: Path, tmp_path: Path) -> None:
    from maskmill.cli.adapt import adapt_fit, adapt_map

    body = {"method": "mdc", **METHODS["mdc"]}
    out = tmp_path / "head.safetensors"
    with pytest.raises(ConfigError, match=r"feature_set\.backbone"):
        adapt_fit(manifest, json.dumps(body), out, weights=weights[CNN])
    with pytest.raises(ConfigError, match="unfreeze: true needs --weights"):
        adapt_fit(manifest, json.dumps(body), out, features=tmp_path)
    with pytest.raises(ConfigError, match="one of the two"):
        adapt_fit(manifest, json.dumps(body), out)
    with pytest.raises(ConfigError, match="one of the two"):
        adapt_map(out, tmp_path / "codes.zarr")
