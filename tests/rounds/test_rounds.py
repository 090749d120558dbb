"""Rounds: what the student learns, that it is the same for any threads and shards, and what its file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from token_students import IDS, SMALL, fit, noisy, scene, write_world

from maskmill.errors import NumericsError, StoreError
from maskmill.rounds import _classes, _losses
from maskmill.rounds._masks import Masks
from maskmill.rounds.infer import Student
from maskmill.rounds.run import MaskFiles, Round, Sources, StudentFiles, predict, train
from maskmill.rounds.token_head import Params, features, training
from maskmill.rounds.token_head.network import TokenDecoder
from maskmill.store.artefact import read_tensors, write_tensors
from maskmill.store.ragged import Ragged
from maskmill.training.resources import Resources
from maskmill.training.team import Team


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_world(tmp_path_factory.mktemp("world"), [IDS])


@pytest.fixture(scope="module")
def student(world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(world, tmp_path_factory.mktemp("student") / "student.safetensors")


def test_the_student_is_better_than_its_noisy_teacher(world: dict[str, Any], student: Path, tmp_path: Path) -> None:
    predict(student, {name: paths[0] for name, paths in world["features"].items()}, MaskFiles(tmp_path / "m.zarr"))
    masks = Ragged(tmp_path / "m.zarr", "masks")
    assert masks.ids == IDS
    assert masks.attrs == {"clusters": 2, "ignore": 255, "round": 1}
    right, taught = [], []
    for image_id in IDS:
        truth = np.repeat(np.repeat(scene(image_id)[0], 2, 0), 2, 1)
        right.append((masks[image_id] == truth).mean())
        taught.append((noisy(scene(image_id)[0], image_id) == truth).mean())
    assert np.mean(taught) < 0.83
    assert np.mean(right) > 0.93


def test_same_seed_same_bytes_for_any_threads(world: dict[str, Any], student: Path, tmp_path: Path) -> None:
    again = fit(world, tmp_path / "b.safetensors", threads=2)
    assert again.read_bytes() == student.read_bytes()
    other = fit(world, tmp_path / "c.safetensors", seed=1)
    assert not np.array_equal(read_tensors(other)[0]["head.stem.weight"], read_tensors(student)[0]["head.stem.weight"])


def test_shards_and_cache_do_not_matter(student: Path, tmp_path: Path) -> None:
    split = write_world(tmp_path, [IDS[7:], IDS[:3], IDS[3:7]])
    split["features"] = dict(reversed(split["features"].items()))
    again = fit(split, tmp_path / "s.safetensors", cache_mib=0)
    expected, got = read_tensors(student)[0], read_tensors(again)[0]
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(value, got[name], err_msg=name)


def test_a_student_file_is_all_that_inference_needs(world: dict[str, Any], student: Path, tmp_path: Path) -> None:
    model = Student.load(student)
    assert (model.clusters, model.features, model.upsample) == (2, ["a", "b"], 2)
    assert model.feature_params == {"a": {"set": "a"}, "b": {"set": "b"}}
    truth, features = scene("img03")
    stored = {name: features[name].astype(np.float16) for name in features}
    logits = model.logits(stored)
    assert logits.shape == (3, 2 * truth.shape[0], 2 * truth.shape[1])
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits.argmax(0), model.mask(stored))
    predict(student, {name: paths[0] for name, paths in world["features"].items()}, MaskFiles(tmp_path / "m.zarr"))
    np.testing.assert_array_equal(Ragged(tmp_path / "m.zarr")["img03"], model.mask(stored))
    loss = read_tensors(student)[0]["loss"]
    assert len(loss) == SMALL["steps"]
    assert loss[0] == pytest.approx(np.log(3), rel=1e-3)  # the classifier starts at zero
    assert loss[-5:].mean() < 0.9 * loss[0]


def test_ignored_cells_take_no_part(tmp_path: Path) -> None:
    """Whatever an ignored cell would have been, the shares and the loss are those of the known cells."""
    mask = np.array([[1, 1, 0, 255], [1, 255, 255, 255]], np.uint8)
    shares = features.class_shares(mask, (1, 2), 3)
    np.testing.assert_allclose(shares[0, 0], [0, 0.75, 0])
    np.testing.assert_allclose(shares[0, 1], [0.25, 0, 0])
    logits = torch.randn(1, 3, 1, 2, generator=torch.Generator().manual_seed(0))
    target = torch.from_numpy(shares).permute(2, 0, 1)[None]
    loss, _ = _losses.cross_entropy(logits, target, torch.ones(3), Params(), 0.0)
    logp = logits.log_softmax(1)
    assert float(loss) == pytest.approx(float(-0.75 * logp[0, 1, 0, 0] - 0.25 * logp[0, 0, 0, 1]), rel=1e-6)


def test_label_smoothing_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 3, 4, generator=generator)
    label = torch.randint(5, (2, 3, 4), generator=generator)
    target = torch.nn.functional.one_hot(label, 5).permute(0, 3, 1, 2).float()
    got = _losses.cross_entropy(logits, target, torch.ones(5), Params(), 0.1)[0] / 24
    expected = torch.nn.functional.cross_entropy(logits, label, label_smoothing=0.1)
    assert float(got) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (8, 8), (1, 1)])
def test_shares_of_any_grid_sum_to_the_known_share(size: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).choice([0, 1, 2, 255], (8, 8)).astype(np.uint8)
    shares = features.class_shares(mask, size, 3)
    assert shares.shape == (*size, 3)
    if size == (1, 1):
        np.testing.assert_allclose(shares[0, 0], [(mask == c).mean() for c in range(3)])
    if size == (8, 8):
        np.testing.assert_array_equal(shares.sum(2), mask != 255)
    assert (shares.sum(2) <= 1 + 1e-6).all()


def test_nothing_known_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    blank = {i: np.full((4, 4), 255, np.uint8) for i in IDS[:2]}
    world = write_world(tmp_path, [IDS[:2]], blank)
    with pytest.raises(NumericsError, match=r"masks: every cell .* raise paint\.keep_closest"):
        fit(world, tmp_path / "s.safetensors")


def test_images_with_nothing_known_are_left_out(tmp_path: Path) -> None:
    masks = {i: np.full((4, 4), 255 if i < "img02" else 1, np.uint8) for i in IDS[:4]}
    world = write_world(tmp_path, [IDS[:1], IDS[1:4]], masks)
    images = features.LabelledFeatures(world["features"], Masks(world["masks"], 3), 0)
    assert images.ids == ["img02", "img03"]
    np.testing.assert_array_equal(images.counts, [0, 32, 0])


def test_a_class_without_cells_is_never_predicted(tmp_path: Path) -> None:
    masks = {i: np.full((4, 4), int(i[3:]) % 2, np.uint8) for i in IDS[:4]}
    world = write_world(tmp_path, [IDS[:4]], masks)
    model = Student.load(fit(world, tmp_path / "s.safetensors", steps=3, label_smoothing=0.5))
    logits = model.logits(scene("img01")[1])
    assert (logits[2] < -1000).all()


def test_masks_of_another_codebook_are_refused(tmp_path: Path) -> None:
    world = write_world(tmp_path, [IDS[:1]], {IDS[0]: np.full((4, 4), 7, np.uint8)})
    with pytest.raises(StoreError, match=r"0\.zarr: holds class 7 of 2 clusters"):
        fit(world, tmp_path / "s.safetensors")


def test_missing_features_are_named(world: dict[str, Any], student: Path, tmp_path: Path) -> None:
    partial = write_world(tmp_path, [IDS[:4]])
    partial["masks"] = world["masks"]
    with pytest.raises(StoreError, match="feature set 'a': holds no image"):
        fit(partial, tmp_path / "s.safetensors")
    with pytest.raises(StoreError, match="needs a, b; missing: b"):
        predict(student, {"a": world["features"]["a"][0]}, MaskFiles(tmp_path / "m.zarr"))
    with pytest.raises(StoreError, match="features of 10 channels for a student made for 12"):
        Student.load(student).mask({"a": scene("img01")[1]["b"], "b": scene("img01")[1]["b"]})
    with pytest.raises(StoreError, match="missing: b"):
        Student.load(student).mask({"a": scene("img01")[1]["a"]})


def test_a_file_that_is_no_student_is_named(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", {"x": np.zeros(3)})
    with pytest.raises(StoreError, match="not a student file"):
        Student.load(tmp_path / "x.safetensors")


def test_constant_features_are_an_error() -> None:
    with pytest.raises(NumericsError, match="'a': all 10 sampled tokens are equal"):
        features.fit_projection(np.ones((10, 4), np.float32), 2, "a")


def test_projection_is_standardised_pca() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((500, 5)) @ rng.standard_normal((5, 5)) * [1, 10, 0.1, 1, 0] + 3).astype(np.float32)
    projection = features.fit_projection(rows, 3, "a")
    z = projection(rows.reshape(20, 25, 5)).reshape(3, -1)  # [p, m]
    np.testing.assert_allclose(z.mean(1), 0, atol=1e-4)
    covariance = np.cov(z, bias=True)
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0, atol=1e-4)
    assert np.trace(covariance) == pytest.approx(3, rel=1e-4)
    alive = rows[:, :4].astype(np.float64)
    alive = (alive - alive.mean(0)) / alive.std(0)
    expected = np.linalg.eigvalsh(np.cov(alive.T, bias=True))[::-1][:3]
    np.testing.assert_allclose(np.diag(covariance), expected / expected.mean(), rtol=1e-3)


def test_interpolating_first_or_projecting_first_is_the_same() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((4, 6, 5)).astype(np.float32)
    projection = features.fit_projection(tokens.reshape(-1, 5), 3, "a")
    other = {"fine": np.zeros((9, 9, 2), np.float32), "coarse": tokens}
    identity = features.Projection(np.zeros(2, np.float32), np.eye(2, dtype=np.float32))
    got = features.align(other, {"fine": identity, "coarse": projection})[2:]
    maps = torch.from_numpy(tokens).permute(2, 0, 1)[None]
    fine = torch.nn.functional.interpolate(maps, (9, 9), mode="bilinear")[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(got, projection(fine), atol=1e-4)


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    head = TokenDecoder(4, 8, 3, 3)
    torch.nn.init.normal_(head.classify.weight)
    x = torch.randn(1, 4, 5, 7)
    alone = head(x, torch.ones(1, 1, 5, 7))
    padded, valid = torch.full((1, 4, 9, 8), 3.0), torch.zeros(1, 1, 9, 8)
    padded[:, :, :5, :7], valid[:, :, :5, :7] = x, 1
    torch.testing.assert_close(head(padded, valid)[:, :, :5, :7], alone, atol=1e-5, rtol=1e-5)


def test_class_weights() -> None:
    counts = np.array([900, 100, 0])
    np.testing.assert_allclose(_classes.class_weights(counts, 0.0), [1, 1, 0])
    full = _classes.class_weights(counts, 1.0)
    assert full[0] * 0.9 == pytest.approx(full[1] * 0.1)  # both classes count alike
    assert (full * counts / 1000).sum() == pytest.approx(1)


def test_every_image_once_an_epoch(world: dict[str, Any]) -> None:
    images = features.LabelledFeatures(world["features"], Masks(world["masks"], 3), 0)
    steps = list(training.batches(images, Params(steps=4, batch_size=6), 5, 0))
    drawn = [i for step in steps for chosen, _ in step for i in chosen]
    assert sorted(drawn[:12]) == sorted(drawn[12:]) == list(range(12))


def test_a_gpu_computes_its_share_of_a_step_at_once() -> None:
    """On the CPU micro-batches do not depend on the number of processes, with which sums would change."""
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [training.micro_size(cpu, size, Team(0, n)) for size, n in ((16, 1), (16, 4), (3, 1))] == [4, 4, 4]
    assert training.micro_size(cuda, 16, Team(0, 1)) == 16
    assert training.micro_size(cuda, 18, Team(1, 4)) == 5  # nobody is without work
    assert training.micro_size(cuda, 1000, Team(0, 1)) == training.MICRO["cuda"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_learns_the_same_rule(world: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "s.safetensors"
    train(
        Sources(world["features"]),
        world["masks"],
        SMALL,
        StudentFiles(out),
        round=Round(1, 0, 2),
        resources=Resources(1, "cuda"),
    )
    model = Student.load(out, "cuda")
    right = [(model.mask(scene(i)[1])[::2, ::2] == scene(i)[0]).mean() for i in IDS]
    assert np.mean(right) > 0.93
