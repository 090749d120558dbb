"""Refiners: closed forms, an O(n^2) mean field, pydensecrf where it is installed, symmetries, errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_fill_holes, correlate1d, label

from maskmill.errors import ConfigError, NumericsError
from maskmill.images.interpolate import one_hots
from maskmill.recipe.base import validate
from maskmill.recipe.sections import Paint, Refine
from maskmill.refine import bilateral, crf, filled, guided, refine, refine_segments
from maskmill.refine._gauss import smooth, taps
from maskmill.refine._lattice import Lattice

METHODS = ["crf", "guided", "bilateral"]
PIXELS = crf.Params(side=0, xy_std=6, rgb_std=20, compat=5, xy_std_smooth=1.5, compat_smooth=2, iterations=5)


def scene(height: int = 40, width: int = 48, seed: int = 0, noise: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """A photo with a bright disc on a dark ground, and the disc."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    disc = (y - height / 2 + 0.5) ** 2 + (x - width / 2 + 0.5) ** 2 < (min(height, width) / 3) ** 2
    body = np.where(disc[..., None], [200, 150, 60], [40, 80, 120]) + rng.integers(
        -noise, noise + 1, (height, width, 3)
    )
    return body.clip(0, 255).astype(np.uint8), disc


def rough(disc: np.ndarray) -> np.ndarray:
    """The disc as blocks of eight pixels: what a token grid sees."""
    y, x = (np.minimum(np.arange(side) // 8 * 8 + 4, side - 1) for side in disc.shape)
    return disc[y[:, None], x].astype(np.uint8)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(0))
    return e / e.sum(0)


def brute_force(
    logits: np.ndarray, image: np.ndarray, p: crf.Params, valid: np.ndarray | None = None, cut: bool = True
) -> np.ndarray:
    """Mean field with all n^2 pairs in float64 [k, H, W]; `cut`: the Gaussian ends where ours does."""
    k, height, width = logits.shape
    y, x = (axis.ravel() for axis in np.mgrid[:height, :width])
    colour = image.reshape(-1, 3).astype(float)
    dy, dx = y[:, None] - y, x[:, None] - x
    far = (dy**2 + dx**2) / (2 * p.xy_std**2) + ((colour[:, None] - colour) ** 2).sum(2) / (2 * p.rgb_std**2)
    near = np.exp(-(dy**2 + dx**2) / (2 * p.xy_std_smooth**2))
    reach = np.ceil(3 * p.xy_std_smooth)
    near = near * ((np.abs(dy) <= reach) & (np.abs(dx) <= reach)) if cut else near
    votes = np.ones(height * width) if valid is None else valid.ravel().astype(float)
    kernels = []
    for kernel in (near, np.exp(-far)):
        kernel = kernel * votes[:, None] * votes
        norm = np.where(votes > 0, 1 / np.sqrt(np.maximum(kernel.sum(1), 1e-20)), 0)
        kernels.append(norm[:, None] * kernel * norm)
    unary = logits.reshape(k, -1).astype(float)
    q = softmax(unary)
    for _ in range(p.iterations):
        q = softmax(unary + p.compat_smooth * q @ kernels[0] + p.compat * q @ kernels[1])
    return q.reshape(k, height, width)


# the two filters


def test_gaussian_is_the_separable_filter() -> None:
    x = np.random.default_rng(0).random((11, 3, 7)).astype(np.float32)
    for std in (0.4, 1.0, 1.7, 3.0, 90.0):  # reaches odd, even, and beyond the image
        half = taps(std, 11)
        reach = len(half) - 1
        padded, out = np.zeros((11 + 2 * reach, 3, 7), np.float32), np.empty_like(x)
        padded[reach : reach + 11] = x
        smooth(padded, half, out)
        kernel = np.concatenate([half[:0:-1], half])
        wanted = correlate1d(correlate1d(x, kernel, 0, mode="constant"), kernel, 2, mode="constant")
        np.testing.assert_allclose(out, wanted, rtol=1e-5)


def test_lattice_weights_are_barycentric() -> None:
    image = np.random.default_rng(1).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    lattice = Lattice.of(image, 4.0, 7.0)
    np.testing.assert_allclose(lattice.weights.sum(1), 1, atol=1e-6)
    assert lattice.weights.min() >= 0
    assert lattice.vertices.max() == lattice.size - 1
    ahead, behind = lattice.neighbours[..., 0], lattice.neighbours[..., 1]
    for direction in range(6):  # the way there is the way back
        known = np.flatnonzero(ahead[direction] < lattice.size)
        np.testing.assert_array_equal(behind[direction][ahead[direction][known]], known)


def test_lattice_filter_is_nearly_the_gaussian_kernel() -> None:
    image = scene(24, 24, noise=12)[0]
    value = np.random.default_rng(2).random((24 * 24, 1)).astype(np.float32)
    lattice = Lattice.of(image, 6.0, 25.0)
    ones = np.ones_like(value)
    got = lattice.filter(value) / lattice.filter(ones)
    y, x = (axis.ravel() for axis in np.mgrid[:24, :24])
    place = np.stack([x / 6, y / 6, *(image.reshape(-1, 3).T / 25.0)], 1)
    kernel = np.exp(-0.5 * ((place[:, None] - place) ** 2).sum(2))
    wanted = kernel @ value / kernel.sum(1, keepdims=True)
    assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.95
    assert np.abs(got - wanted).max() < 0.06  # the values spread over 0..1


def test_a_lattice_of_noise_outgrows_the_first_table() -> None:
    image = np.random.default_rng(3).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    lattice = Lattice.of(image, 0.5, 1.0)
    assert lattice.size > 20 * 20 * 5  # every pixel alone, with vertices of its own
    np.testing.assert_allclose(lattice.filter(np.ones((400, 1), np.float32)).shape, (400, 1))


# the mean field


@pytest.mark.parametrize("classes", [2, 3, 11])
def test_crf_agrees_with_all_pairs(classes: int) -> None:
    rng = np.random.default_rng(classes)
    image, disc = scene(20, 26, noise=20)
    logits = rng.normal(0, 0.5, (classes, 20, 26)).astype(np.float32)
    logits[1] += disc
    logits[0] += ~disc
    got, wanted = crf.refine(logits, image, PIXELS), brute_force(logits, image, PIXELS)
    np.testing.assert_allclose(got.sum(0), 1, atol=1e-4)
    assert (got.argmax(0) == wanted.argmax(0)).mean() > 0.99
    assert np.abs(got - wanted).mean() < 0.01


def test_without_bilateral_term_crf_is_exact_smoothing() -> None:
    image = scene(20, 22)[0]
    plain = PIXELS.model_copy(update={"compat": 0.0})
    for classes in (2, 4):
        logits = np.random.default_rng(0).normal(0, 1, (classes, 20, 22)).astype(np.float32)
        np.testing.assert_allclose(crf.refine(logits, image, plain), brute_force(logits, image, plain), atol=2e-3)


def test_without_terms_crf_is_the_softmax() -> None:
    image = scene(9, 8)[0]
    off = crf.Params(compat=0, compat_smooth=0)
    for classes in (2, 5):
        logits = np.random.default_rng(0).normal(0, 2, (classes, 9, 8)).astype(np.float32)
        np.testing.assert_allclose(crf.refine(logits, image, off), softmax(logits), atol=1e-3)


def test_a_constant_photo_smooths_and_a_constant_map_stays() -> None:
    flat = np.full((30, 30, 3), 90, np.uint8)
    speck = np.zeros((30, 30), np.uint8)
    speck[15, 15] = 1
    half = np.zeros((30, 30), np.uint8)
    half[:, 15:] = 1
    assert not refine(speck, flat, Refine(method="crf")).any()
    np.testing.assert_array_equal(refine(half, flat, Refine(method="crf", compat=0)), half)
    np.testing.assert_array_equal(refine(half * 0 + 3, flat, Refine(method="crf")), np.full((30, 30), 3))


def test_two_classes_as_two_of_many() -> None:
    image, disc = scene()
    logits = one_hots(disc)[1]
    third = np.concatenate([logits, np.full((1, *disc.shape), -50, np.float32)])
    np.testing.assert_allclose(crf.refine(third, image, PIXELS)[:2], crf.refine(logits, image, PIXELS), atol=2e-3)


def test_classes_that_die_out_change_nothing() -> None:
    """Nine classes are dropped to eight or fewer on the way."""
    image, disc = scene()
    logits = np.concatenate([one_hots(disc)[1] * 6, np.full((9, *disc.shape), -9, np.float32)])
    got = crf.refine(logits, image, PIXELS)
    assert got.shape == logits.shape
    assert (got.argmax(0) == brute_force(logits, image, PIXELS).argmax(0)).mean() > 0.99


@pytest.mark.parametrize("classes", [2, 5])
def test_crf_agrees_with_pydensecrf(classes: int) -> None:
    dense = pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed")
    image, disc = scene(120, 140, noise=15)
    p = crf.Params(side=0, xy_std=20, rgb_std=8)
    shift = [np.roll(rough(disc), 7 * c, 1) for c in range(classes - 1)]
    logits = np.stack([1.0 - np.max(shift, 0), *shift]).astype(np.float32)
    model = dense.DenseCRF2D(140, 120, classes)
    model.setUnaryEnergy(-np.log(softmax(logits)).reshape(classes, -1).astype(np.float32))
    model.addPairwiseGaussian(sxy=p.xy_std_smooth, compat=p.compat_smooth)
    model.addPairwiseBilateral(sxy=p.xy_std, srgb=p.rgb_std, rgbim=image, compat=p.compat)
    wanted = np.array(model.inference(p.iterations)).reshape(logits.shape).argmax(0)
    assert (crf.refine(logits, image, p).argmax(0) == wanted).mean() > 0.99


def test_the_scale_rule_is_a_resize() -> None:
    """Standard deviations for 480 px on an image of 96 px are a fifth of theirs."""
    image, disc = scene(96, 96)
    small = {"xy_std": 10, "xy_std_smooth": 0.6, "side": 0}
    a, b = (refine(rough(disc), image, Refine(method="crf", **own)) for own in ({}, small))
    np.testing.assert_array_equal(a, b)


# every method


@pytest.mark.parametrize("method", METHODS)
def test_refining_a_rough_mask_finds_the_edge(method: str) -> None:
    image, disc = scene(96, 96)
    before, after = rough(disc), refine(rough(disc), image, Refine(method=method))
    assert after.dtype == before.dtype
    assert iou(after > 0, disc) > max(0.95, iou(before > 0, disc))


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=25)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.booleans(), st.integers(0, 2**31))
def test_any_size(method: str, height: int, width: int, classes: int, grey: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = image[..., :1].repeat(3, 2) if grey else image
    labels = rng.integers(0, classes, (height, width)).astype(np.uint8)
    after = refine(labels, image, Refine(method=method))
    assert after.shape == labels.shape
    assert set(np.unique(after)) <= set(np.unique(labels))


@pytest.mark.parametrize("method", METHODS)
def test_void_is_kept_and_does_not_vote(method: str) -> None:
    image, disc = scene()
    labels = rough(disc)
    void = np.zeros(labels.shape, bool)
    void[:, 30:] = True
    as_label, other = np.where(void, 255, labels).astype(np.uint8), np.where(void, 7, labels).astype(np.uint8)
    after = refine(as_label, image, Refine(method=method, side=0), 255)
    np.testing.assert_array_equal(after == 255, void)
    again = refine(other, image, Refine(method=method, side=0), void)
    np.testing.assert_array_equal(again[~void], after[~void])  # what void pixels hold does not matter
    assert (again[void] == 7).all()
    np.testing.assert_array_equal(refine(np.full((40, 48), 255), image, Refine(method=method), 255), 255)


def test_void_pixels_are_as_if_absent() -> None:
    image, disc = scene(18, 20, noise=20)
    rng = np.random.default_rng(0)
    void = rng.random((18, 20)) < 0.3
    for classes in (2, 3):
        logits = rng.normal(0, 0.5, (classes, 18, 20)).astype(np.float32)
        logits[1] += disc
        logits[0] += ~disc
        logits[0, void] += 9  # would win if it had a vote
        got, wanted = crf.refine(logits, image, PIXELS, void), brute_force(logits, image, PIXELS, ~void)
        assert (got.argmax(0) == wanted.argmax(0))[~void].mean() > 0.98
        np.testing.assert_allclose(got[:, void], softmax(logits)[:, void], atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_permuted_classes_give_the_permuted_result(method: str) -> None:
    image, disc = scene()
    labels = rough(disc) + 2 * rough(np.roll(disc, 12, 1))
    names = np.array([30, 10, 20, 0])
    plain = refine(labels, image, Refine(method=method))
    assert (refine(names[labels], image, Refine(method=method)) == names[plain]).mean() > 0.998  # ties


@pytest.mark.parametrize("method", METHODS)
def test_flipping_flips(method: str) -> None:
    image, disc = scene(49, 64, noise=20)
    labels = rough(np.roll(disc, 5, 1))
    section = Refine(method=method, side=0)
    there = refine(labels, image, section)
    back = refine(labels[:, ::-1], np.ascontiguousarray(image[:, ::-1]), section)[:, ::-1]
    floor = 0.97 if method == "bilateral" else 0.995  # the solver's cells begin at the left edge
    assert (there == back).mean() > floor


@pytest.mark.parametrize("method", METHODS)
def test_again_gives_the_same_bits(method: str) -> None:
    image, disc = scene()
    module = {"crf": crf, "guided": guided, "bilateral": bilateral}[method]
    one, two = (module.refine(one_hots(disc)[1], image, module.Params()) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_none_changes_nothing() -> None:
    image, disc = scene()
    np.testing.assert_array_equal(refine(rough(disc), image, Refine()), rough(disc))


def test_guided_filter_of_an_affine_map_is_the_map() -> None:
    """Section 3.1: what is affine in the colours is reproduced, up to eps."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)
    affine = (image / 255.0) @ [0.5, -0.3, 0.2] + 0.1
    got = guided.refine(affine[None].astype(np.float32), image, guided.Params(radius=5, eps=1e-9, side=0))
    np.testing.assert_allclose(got[0], affine, atol=1e-4)


def test_bilateral_solver_keeps_constants_and_takes_one_full_object() -> None:
    image, disc = scene(64, 64)
    flat = bilateral.refine(np.full((1, 64, 64), 0.7, np.float32), image, bilateral.Params(side=0))
    np.testing.assert_allclose(flat, 0.7, atol=1e-3)
    mask = rough(disc)
    mask[:16, :16] = 1  # another object
    mask[30:33, 30:33] = 0  # a hole
    section = Refine(method="bilateral", smoothness=1e-3, side=0)
    after, _ = refine_segments(mask * 5, image, section)
    assert set(np.unique(after)) == {0, 5}
    assert label(after)[1] == 1
    assert after[30:33, 30:33].all()
    assert label(refine(mask, image, section))[1] == 2  # a rule for proposals, not for masks with several objects


# segments


def test_a_segment_that_would_shrink_away_is_kept() -> None:
    flat = np.full((64, 64, 3), 90, np.uint8)
    segments = np.zeros((16, 16), np.uint8)
    segments[8, 8] = 3  # a speck that every refiner smooths away
    after, kept = refine_segments(segments, flat, Refine(method="crf", side=0))
    assert kept == 1
    assert set(np.unique(after)) == {0, 3}
    lost, kept = refine_segments(segments, flat, Refine(method="crf", side=0), keep_iou=0)
    assert kept == 0
    assert not lost.any()


def test_segments_are_refined_together_on_the_fine_grid() -> None:
    image, disc = scene(64, 64)
    coarse = rough(disc)[4::8, 4::8] * 2
    after, kept = refine_segments(coarse, image, Refine(method="crf"))
    assert after.shape == (64, 64)
    assert after.dtype == np.uint8
    assert kept == 0
    assert iou(after == 2, disc) > 0.95
    nothing, kept = refine_segments(coarse * 0, image, Refine(method="crf"))
    assert not nothing.any()
    assert kept == 0


# errors


def test_bad_arrays_are_named() -> None:
    image, disc = scene(10, 12)
    section = Refine(method="crf")
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]"):
        refine(disc, image.astype(float), section)
    with pytest.raises(ValueError, match=r"\(10, 11\) does not fit an image of \(10, 12\)"):
        refine(disc[:, 1:], image, section)
    with pytest.raises(ValueError, match="void of shape"):
        refine(disc, image, section, disc[1:])
    with pytest.raises(ValueError, match="no void label"):
        refine(np.zeros((2, 10, 12)), image, section, 255)
    with pytest.raises(NumericsError, match="NaN"):
        refine(np.full((2, 10, 12), np.nan), image, section)
    with pytest.raises(NumericsError, match=r"too small for an image of 10000x10000"):
        Lattice.of(np.broadcast_to(np.zeros(3, np.uint8), (10000, 10000, 3)), 1e-6, 1e-6)


def test_sections() -> None:
    assert Paint(refine="crf").refine.params == crf.Params()
    assert Paint(refine={"method": "crf", "xy_std": 67}).refine.params == crf.Params(xy_std=67)
    assert Paint().refine.method == Paint(refine=None).refine.method == "none"
    full = Paint(refine="guided").model_dump(mode="json")
    assert full["refine"] == {"method": "guided"} | guided.Params().model_dump()
    assert Paint(**full) == Paint(refine="guided")
    for bad, words in {
        "crff": r"unknown method 'crff' \(did you mean 'crf'\?\)",
        ("crf", "xy_sdt"): r"crf: xy_sdt: unknown key \(did you mean 'xy_std'\?\)",
        ("crf", "iterations"): r"crf: iterations: .* found 0",
        ("crf", "radius"): r"crf: radius: unknown key; known: xy_std",
    }.items():
        section = bad if isinstance(bad, str) else {"method": bad[0], bad[1]: 0}
        with pytest.raises(ConfigError, match=r"paint\.refine: " + words):
            validate(Paint, {"refine": section}, "config.yaml", "paint")
    with pytest.raises(ConfigError, match=r"paint\.refine: give a method name"):
        validate(Paint, {"refine": True}, "config.yaml", "paint")


def test_holes_of_segments_are_filled_and_other_segments_stay() -> None:
    """A hole is cut off from the border by its own segment; over corners it is not connected with the outside."""
    drawn = ["1111...", "1..1..2", "1.31..2", "1111...", "...222.", "...2.2.", "....2.."]  # 2: open, and a closed ring
    before = np.array([[0 if c == "." else int(c) for c in row] for row in drawn], np.uint8)
    after = filled(before)
    expected = before.copy()
    expected[1:3, 1:3] = [[1, 1], [1, 3]]
    expected[5, 4] = 2
    np.testing.assert_array_equal(after, expected)
    for s in (1, 2, 3):  # scipy's own rule, each segment alone
        alone = binary_fill_holes(before == s)
        np.testing.assert_array_equal(after == s, (alone & (before == 0)) | (before == s))
    np.testing.assert_array_equal(filled(after), after)


def test_a_hole_that_the_crf_opens_is_filled_where_it_is_asked_for() -> None:
    """A dark spot in the bright disc falls to the background; CutLER fills the holes of its masks after the CRF."""
    image, disc = scene(64, 64)
    y, x = np.mgrid[:64, :64]
    spot = (y - 32) ** 2 + (x - 32) ** 2 < 5**2
    image[spot] = image[0, 0]
    segments = rough(disc)
    settings = Refine.model_validate({"method": "crf", "side": 0, "xy_std": 40, "rgb_std": 20, "compat_smooth": 3})
    open_, _ = refine_segments(segments, image, settings)
    assert (open_[spot] == 0).mean() > 0.8
    closed, kept = refine_segments(segments, image, settings, fill_holes=True)
    assert kept == 0
    np.testing.assert_array_equal(closed > 0, binary_fill_holes(open_ > 0))
    assert (closed[spot] == 1).all()
