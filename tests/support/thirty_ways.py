"""One picture saved in many ways by the field's writers: tifffile, rasterio, zarr, Pillow, imagecodecs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 96, 128
Writer = Callable[[Path], object]


def picture() -> np.ndarray:
    """uint8 [96, 128, 3] of smooth colours between a black and a white field of 8 columns each, as on a test chart."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    colours = [120 + 100 * np.sin(x / 17), 120 + 100 * np.cos(y / 13), 60 + y + 0.0 * x]
    image = np.stack(colours, axis=-1).round().astype(np.uint8)
    image[:, :8], image[:, -8:] = 0, 255
    return image


def depth(image: np.ndarray, bits: int) -> np.ndarray:
    """uint8 as integers of more bits, where 255 is the largest of these."""
    kind = np.uint16 if bits <= 16 else np.uint32
    return np.round(image.astype(np.float64) * ((2**bits - 1) / 255)).astype(kind)


def grey_ways() -> Iterator[tuple[str, str, Writer]]:
    """(name, file name, writer) of the first channel of the picture alone."""
    import imagecodecs
    import tifffile

    grey = picture()[..., 0]
    sixteen, twelve = depth(grey, 16), depth(grey, 12)
    single = (grey / 255).astype(np.float32)

    def tif(name: str, values: np.ndarray, **options: Any) -> tuple[str, str, Writer]:
        options = {"photometric": "minisblack"} | options
        return name, f"{name.replace(' ', '_').replace(',', '')}.tif", lambda p: tifffile.imwrite(p, values, **options)

    yield "PNG 8", "png8.png", lambda p: Image.fromarray(grey).save(p)
    yield "PNG 16", "png16.png", lambda p: p.write_bytes(imagecodecs.png_encode(sixteen))
    yield "PNG 16 of Pillow", "png16p.png", lambda p: Image.fromarray(sixteen).save(p)
    yield "PGM 16", "deep.pgm", lambda p: p.write_bytes(b"P5 128 96 65535\n" + sixteen.astype(">u2").tobytes())
    yield tif("TIFF 8", grey)
    yield tif("TIFF 8 min-is-white", 255 - grey, photometric="miniswhite")
    yield tif("TIFF 16", sixteen)
    yield tif("TIFF 16 min-is-white", 65535 - sixteen, photometric="miniswhite")
    yield tif("TIFF 16 big-endian", sixteen, byteorder=">")
    yield tif("TIFF 12 in 16", twelve)
    yield tif("TIFF 32", depth(grey, 32))
    yield tif("TIFF int16 with negatives", (twelve.astype(np.int16) - 2000))
    yield tif("TIFF float32", single)
    yield tif("TIFF float64", single.astype(np.float64) * 4000 - 1000)
    yield tif("TIFF float16", single.astype(np.float16))
    yield tif("ImageJ", sixteen, imagej=True)
    yield tif("TIFF palette", 255 - grey, photometric="palette", colormap=_falling())


def colour_ways() -> Iterator[tuple[str, str, Writer]]:
    """(name, file name, writer) of the picture in colours."""
    import imagecodecs
    import tifffile

    image = picture()
    sixteen, twelve = depth(image, 16), depth(image, 12)
    opaque = np.full((HEIGHT, WIDTH, 1), 65535, np.uint16)
    infrared = sixteen[..., :1] // 2

    def tif(name: str, values: np.ndarray, **options: Any) -> tuple[str, str, Writer]:
        options = {"photometric": "rgb"} | options
        return name, f"{name.replace(' ', '_').replace(',', '')}.tif", lambda p: tifffile.imwrite(p, values, **options)

    yield "PNG 8", "png8.png", lambda p: Image.fromarray(image).save(p)
    yield "PNG 16", "png16.png", lambda p: p.write_bytes(imagecodecs.png_encode(sixteen))
    yield (
        "PNG 16, alpha",
        "pnga.png",
        lambda p: p.write_bytes(imagecodecs.png_encode(np.concatenate([sixteen, opaque], -1))) and None,
    )
    yield tif("TIFF 8", image)
    yield tif("TIFF 16", sixteen)
    yield tif("TIFF 16 big-endian", sixteen, byteorder=">")
    yield tif("BigTIFF 16", sixteen, bigtiff=True)
    yield tif("TIFF 16 tiled", sixteen, tile=(32, 48))
    yield tif("TIFF 16 planar", sixteen.transpose(2, 0, 1), planarconfig="separate")
    yield tif("TIFF 12 in 16", twelve)
    yield tif("TIFF float32", (image / 255).astype(np.float32))
    for codec in ("lzw", "deflate", "zstd"):
        yield tif(f"TIFF 16 {codec}", sixteen, compression=codec, predictor=True)
    yield tif("TIFF 16 alpha declared", np.concatenate([sixteen, opaque], -1), extrasamples=["unassalpha"])
    yield tif("TIFF 16 infrared unspecified", np.concatenate([sixteen, infrared], -1), extrasamples=["unspecified"])
    yield tif("TIFF 8 infrared unspecified", np.concatenate([image, image[..., :1] // 2], -1), extrasamples=[0])
    yield "TIFF 16 pyramid", "pyramid.tif", lambda p: _pyramid(p, sixteen)
    yield tif("OME-TIFF", sixteen, metadata={"axes": "YXS"}, ome=True)
    yield tif(
        "OME-TIFF channels", sixteen.transpose(2, 0, 1), photometric="minisblack", ome=True, metadata={"axes": "CYX"}
    )
    yield tif("TIFF 16 pages", np.stack([sixteen, sixteen // 2, sixteen // 4]))
    yield "GeoTIFF 16", "geo.tif", lambda p: _gdal(p, sixteen, "GTiff", photometric="RGB")
    yield "GeoTIFF nodata", "gap.tif", lambda p: _gdal(p, _gaps(twelve), "GTiff", photometric="RGB", nodata=-9999)
    yield "COG 16", "cog.tif", lambda p: _gdal(p, sixteen, "COG")
    yield "JPEG 2000 16", "deep.jp2", lambda p: _gdal(p, sixteen, "JP2OpenJPEG", quality=100, reversible="YES")
    yield "Zarr", "plain.zarr", lambda p: _zarr(p, sixteen)
    yield "OME-Zarr", "ome.zarr", lambda p: _ome_zarr(p, sixteen)


def _falling() -> np.ndarray:
    """A palette whose index 0 is white."""
    return np.repeat((np.arange(255, -1, -1) * 257).astype(np.uint16)[None], 3, axis=0)


def _pyramid(path: Path, values: np.ndarray) -> None:
    import tifffile

    with tifffile.TiffWriter(path) as file:
        file.write(values, photometric="rgb", tile=(32, 32), subifds=1, metadata=None)
        file.write(values[::2, ::2], photometric="rgb", tile=(32, 32), subfiletype=1, metadata=None)


def _gaps(values: np.ndarray) -> np.ndarray:
    """Signed, with a gap in the lower left corner."""
    values = values.astype(np.int16)
    values[-10:, 8:28] = -9999
    return values


def _gdal(path: Path, values: np.ndarray, driver: str, **options: Any) -> None:
    import rasterio

    height, width, count = values.shape
    place = rasterio.Affine(10, 0, 500000, 0, -10, 5000000)
    with rasterio.open(
        path, "w", driver=driver, height=height, width=width, count=count, dtype=values.dtype.name,
        crs="EPSG:32633", transform=place, **options,
    ) as file:  # fmt: skip
        file.write(values.transpose(2, 0, 1))


def _zarr(path: Path, values: np.ndarray) -> None:
    import zarr

    array = zarr.create_array(path, shape=values.shape, chunks=(40, 50, 3), dtype=values.dtype)
    array[:] = values


def _ome_zarr(path: Path, values: np.ndarray) -> None:
    """Version 0.5, with two levels."""
    import zarr

    group = zarr.create_group(path)
    axes = [{"name": "c", "type": "channel"}] + [
        {"name": axis, "type": "space", "unit": "micrometer"} for axis in ("y", "x")
    ]
    levels = []
    for i in range(2):
        step = 2**i
        level = np.ascontiguousarray(values.transpose(2, 0, 1)[:, ::step, ::step])
        group.create_array(str(i), data=level, chunks=(1, 40, 50))
        scale = {"type": "scale", "scale": [1.0, 0.5 * step, 0.25 * step]}
        levels.append({"path": str(i), "coordinateTransformations": [scale]})
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}
