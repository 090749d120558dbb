"""Every kind of image file, built on the fly, with exact expected pixels."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from maskmill.errors import InputError
from maskmill.images.decode import decode, displayed_size, load_label, resize, target_size, verify
from maskmill.recipe.feature_set import Size

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
GREY = RGB[..., 0]
TURNED = {  # EXIF orientation -> what the viewer sees, in words of numpy
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, 1),
}


def body(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


def all_agree(data: bytes, expected: np.ndarray) -> None:
    """Decoding gives exactly these pixels; both size functions agree with it."""
    seen = decode(data)
    assert seen.dtype == np.uint8
    assert seen.flags.c_contiguous
    assert seen.flags.writeable
    np.testing.assert_array_equal(seen, expected)
    assert displayed_size(data) == verify(data) == expected.shape[:2]


def photo() -> np.ndarray:
    y, x = np.mgrid[:80, :120]
    return np.stack([y * 3, x * 2, 255 - y - x], -1).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "PPM"])
def test_rgb(form: str) -> None:
    all_agree(body(Image.fromarray(RGB), form), RGB)


@pytest.mark.parametrize(("form", "options"), [("WEBP", {"lossless": True}), ("JPEG2000", {"irreversible": False})])
def test_rgb_of_modern_formats(form: str, options: dict[str, object]) -> None:
    all_agree(body(Image.fromarray(RGB), form, **options), RGB)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "I;16", "F"])
def test_path_and_bytes_are_the_same(tmp_path: Path, mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # Pillow alone turns this one wrongly when it opens the path
    path = tmp_path / "ein Bild ü.tif"
    path.write_bytes(body(Image.fromarray(GREY).convert(mode), "TIFF", exif=exif))
    assert decode(path).shape == (*displayed_size(path), 3) == (9, 6, 3)
    np.testing.assert_array_equal(decode(path), decode(path.read_bytes()))
    np.testing.assert_array_equal(decode(str(path)), decode(path))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG"])
def test_grey(form: str) -> None:
    flat = np.full((16, 24), 77, np.uint8)
    all_agree(body(Image.fromarray(flat), form), grey(flat))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_one_bit(form: str) -> None:
    bits = GREY > 127
    all_agree(body(Image.fromarray(bits), form), grey(bits * 255))


def test_alpha_lies_over_white() -> None:
    image = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 200, 51]]], np.uint8)
    expected = np.array([[[10, 20, 30], [255, 255, 255], [204, 224, 244]]], np.uint8)
    all_agree(body(Image.fromarray(image), "PNG"), expected)


def test_grey_with_alpha() -> None:
    image = Image.fromarray(np.array([[[100, 255], [100, 0]]], np.uint8), "LA")
    all_agree(body(image, "PNG"), grey(np.array([[100, 255]])))


def palette_image() -> Image.Image:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    return image


@pytest.mark.parametrize("form", ["PNG", "GIF", "TIFF", "BMP"])
def test_palette(form: str) -> None:
    all_agree(body(palette_image(), form), np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8))


@pytest.mark.parametrize("transparency", [1, b"\xff\x00\xff"])
def test_palette_with_transparency(transparency: int | bytes) -> None:
    expected = np.array([[[255, 0, 0], [255, 255, 255], [0, 0, 255]]], np.uint8)
    all_agree(body(palette_image(), "PNG", transparency=transparency), expected)


def test_colour_key_transparency() -> None:
    image = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    expected = np.array([[[255, 255, 255], [4, 5, 6]]], np.uint8)
    all_agree(body(Image.fromarray(image), "PNG", transparency=(1, 2, 3)), expected)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 257, 65535], [0, 1, 255]),  # the whole range: 65535 is white
        ([0, 32768, 5000], [0, 128, 19]),
        ([0, 2047, 4095], [0, 127, 255]),  # 12 bits in 16: the largest is white
        ([100, 200, 200], [128, 255, 255]),  # zero stays black
        ([0, 0, 0], [0, 0, 0]),
    ],
)
def test_sixteen_bit(form: str, values: list[int], expected: list[int]) -> None:
    all_agree(body(Image.fromarray(np.array([values], np.uint16)), form), grey(np.array([expected])))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.2, 0.2, 0.4], [51, 51, 102]),  # in 0..1 the exposure is kept
        ([-10.0, 0.0, 10.0], [0, 128, 255]),
        ([1000.0, np.nan, 1100.0], [0, 0, 255]),
        ([np.inf, 300.0, 310.0], [0, 0, 255]),
        ([np.nan, np.nan, np.nan], [0, 0, 0]),
        ([7.0, 7.0, 7.0], [0, 0, 0]),
    ],
)
def test_float_tiff(values: list[float], expected: list[int]) -> None:
    all_agree(body(Image.fromarray(np.array([values], np.float32)), "TIFF"), grey(np.array([expected])))


@pytest.mark.parametrize(
    ("values", "expected"), [([-100, 0, 100], [0, 128, 255]), ([0, 10**6, 2 * 10**6], [0, 128, 255])]
)
def test_int32_tiff(values: list[int], expected: list[int]) -> None:
    all_agree(body(Image.fromarray(np.array([values], np.int32)), "TIFF"), grey(np.array([expected])))


@pytest.mark.parametrize("form", ["TIFF", "JPEG"])
def test_cmyk(form: str) -> None:
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[..., 0] = 255  # pure cyan
    seen = decode(body(Image.fromarray(ink, "CMYK"), form, **({"quality": 100} if form == "JPEG" else {})))
    assert np.abs(seen.astype(int) - [0, 255, 255]).max() <= 2


def test_lab_tiff() -> None:
    lab = np.zeros((2, 2, 3), np.uint8)
    lab[..., 0] = 255  # white: L = 100, a = b = 0
    seen = decode(body(Image.fromarray(lab, "LAB"), "TIFF"))
    assert seen.min() >= 252


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = body(Image.fromarray(RGB), form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    all_agree(data, TURNED[orientation](RGB))


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("form", ["JPEG", "AVIF"])
def test_exif_orientation_of_lossy_formats(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = body(Image.fromarray(photo()), form, exif=exif, quality=95)
    expected = TURNED[orientation](photo())
    seen = decode(data)
    assert displayed_size(data) == verify(data) == seen.shape[:2] == expected.shape[:2]
    assert np.abs(seen.astype(int) - expected).mean() < 8  # wrong turns differ by more than 40


@pytest.mark.parametrize("value", [0, 9, 77])
def test_unknown_orientation_is_upright(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    all_agree(body(Image.fromarray(RGB), "PNG", exif=exif), RGB)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_does_not_lose_the_pixels(form: str) -> None:
    data = body(Image.fromarray(photo()), form, exif=b"Exif\0\0garbage, not a TIFF header")
    assert decode(data).shape == (80, 120, 3)
    assert displayed_size(data) == verify(data) == (80, 120)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP", "JPEG2000", "AVIF"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_files_are_errors(form: str, share: float) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    data = body(Image.fromarray(noise), form)
    data = data[: int(len(data) * share)]
    for read in (decode, verify):
        with pytest.raises(InputError) as caught:
            read(data)
        assert "\n" not in str(caught.value)


def test_truncated_images_stay_errors_globally() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"II*\0" + bytes(9)]
)
def test_not_an_image(data: bytes) -> None:
    with pytest.raises(InputError):
        decode(data)


def test_missing_file_says_so(tmp_path: Path) -> None:
    for read in (decode, displayed_size, verify):
        with pytest.raises(InputError, match="No such file"):
            read(tmp_path / "absent.png")


def test_decompression_bomb_has_a_way_out() -> None:
    data = body(Image.new("1", (20_000, 10_000)), "PNG")
    for read in (decode, displayed_size, verify):
        with pytest.raises(
            InputError,
            match=r"20000x10000 pixels, 179 million are allowed; set inputs\.window",
        ):
            read(data)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    form=st.sampled_from(["JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP", "PPM"]),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=6),
)
def test_damaged_files_decode_or_raise_input_error(form: str, flips: list[tuple[float, int]]) -> None:
    data = bytearray(body(Image.fromarray(photo()[:32, :32]), form))
    for place, flip in flips:
        data[int(place * len(data))] ^= flip
    try:
        size = verify(bytes(data))
    except InputError:
        return
    assert decode(bytes(data)).shape == (*size, 3)  # what passes the check decodes later, at the size promised


@pytest.mark.parametrize(
    ("size", "multiple", "expected"),
    [
        (Size(square=448), 14, (448, 448)),
        (Size(square=100), 16, (96, 96)),
        (Size(short_side=480), 16, (480, 640)),
        (Size(long_side=640), 16, (480, 640)),
        (Size(long_side=16), 32, (32, 32)),
    ],
)
def test_target_size(size: Size, multiple: int, expected: tuple[int, int]) -> None:
    assert target_size(600, 800, size, multiple) == expected


@given(
    height=st.integers(1, 20_000),
    width=st.integers(1, 20_000),
    side=st.integers(16, 2000),
    rule=st.sampled_from(["square", "short_side", "long_side"]),
    multiple=st.sampled_from([1, 8, 14, 16, 32]),
)
def test_target_size_properties(height: int, width: int, side: int, rule: str, multiple: int) -> None:
    size = Size(**{rule: side})
    h, w = target_size(height, width, size, multiple)
    assert h % multiple == w % multiple == 0
    assert min(h, w) >= multiple
    assert target_size(width, height, size, multiple) == (w, h)
    limit = {"square": 1, "long_side": 1, "short_side": 8}[rule] * side
    assert max(h, w) <= max(limit + multiple / 2, multiple)
    if rule == "short_side" and max(height, width) <= 8 * min(height, width):
        assert abs(min(h, w) - side) <= max(multiple / 2, multiple - side)


def test_resize() -> None:
    image = photo()
    assert resize(image, (80, 120)) is image
    small = resize(image, (20, 30))
    assert small.shape == (20, 30, 3)
    assert small.dtype == np.uint8
    assert small.flags.writeable
    boxes = image.reshape(20, 4, 30, 4, 3).mean((1, 3))
    assert np.abs(small[2:-2, 2:-2] - boxes[2:-2, 2:-2]).max() < 3  # a ramp: antialiased bicubic is the box mean
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resize(stripes, (16, 16)).astype(int) - 127).max() <= 12  # no moire: averaged, not picked


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_labels(tmp_path: Path, form: str) -> None:
    ids = np.array([[0, 1, 254], [255, 7, 7]])
    path = tmp_path / "label"
    palette = Image.fromarray(ids.astype(np.uint8), "P")
    palette.putpalette(list(range(256)) * 3)
    kinds = [palette, Image.fromarray(ids.astype(np.uint8)), Image.fromarray((ids * 200).astype(np.uint16))]
    for image, expected in zip(kinds, [ids, ids, ids * 200], strict=True):
        path.write_bytes(body(image, form))
        assert load_label(path).dtype == np.int32
        np.testing.assert_array_equal(load_label(path), expected)
    path.write_bytes(body(Image.fromarray(ids > 6), form))
    np.testing.assert_array_equal(load_label(path), ids > 6)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_label_turns_with_its_orientation(tmp_path: Path, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "label"
    path.write_bytes(body(Image.fromarray(GREY), form, exif=exif))
    np.testing.assert_array_equal(load_label(path), np.rot90(GREY, -1))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colour_labels_are_errors(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "label.png"
    Image.new(mode, (4, 4)).save(path)
    with pytest.raises(InputError, match=rf"label\.png: label: colours or transparency \(mode {mode}\)"):
        load_label(path)
    with pytest.raises(InputError, match=r"absent\.png: label: No such file"):
        load_label(tmp_path / "absent.png")
