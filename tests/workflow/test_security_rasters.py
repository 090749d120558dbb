"""Hostile TIFF, JPEG 2000 and Zarr (docs/security.md): nothing is fetched, opened besides, unpickled or unbounded."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from maskmill.errors import InputError
from maskmill.images.raster import open_raster
from maskmill.inputs._check import check_file

VRT = """<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>
<SourceFilename>{}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"""


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", ["a.vrt", "a.tif", "a.jp2", "a.png"])
@pytest.mark.parametrize("target", ["secret.tif", "/vsicurl/http://127.0.0.1:9/x.tif"])
def test_a_virtual_file_is_no_image(name: str, target: str, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "secret.tif", np.zeros((8, 8), np.uint8))
    (tmp_path / name).write_text(VRT.format(target))
    assert check_file(str(tmp_path / name)) == "not an image, or of an unknown format"


@pytest.mark.parametrize(
    "name", ["/vsicurl/http://127.0.0.1:9/x.tif", "/vsizip//tmp/x.zip/x.tif", "GTIFF_DIR:1:/etc/x.tif", "/vsistdin/"]
)
def test_names_that_gdal_would_understand_are_files_that_do_not_exist(name: str) -> None:
    with pytest.raises((InputError, OSError)):
        open_raster(name)


def test_no_file_beside_an_image_is_read(tmp_path: Path) -> None:
    """A world file, a PAM file and an overview of GDAL would place and change it."""
    tifffile.imwrite(tmp_path / "a.tif", np.arange(64, dtype=np.uint16).reshape(8, 8), photometric="minisblack")
    (tmp_path / "a.tfw").write_text("10\n0\n0\n-10\n500000\n5000000\n")
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset><SRS>EPSG:32633</SRS></PAMDataset>")
    with open_raster(tmp_path / "a.tif") as raster:
        assert raster.facts.geo is None


def test_an_ome_tiff_opens_no_other_file(tmp_path: Path) -> None:
    secret = np.full((8, 8), 77, np.uint16)
    tifffile.imwrite(tmp_path / "secret.ome.tif", secret, ome=True, metadata={"axes": "YX"})
    xml = tifffile.tiffcomment(tmp_path / "secret.ome.tif")
    assert xml is not None
    own = np.zeros((8, 8), np.uint16)
    described = xml.replace("secret.ome.tif", "a.ome.tif").replace("<TiffData", "<TiffData", 1)
    described = described.replace(
        "</Pixels>",
        '<TiffData FirstT="1" IFD="0" PlaneCount="1"><UUID FileName="secret.ome.tif">urn:uuid:1</UUID></TiffData>'
        "</Pixels>",
    ).replace('SizeT="1"', 'SizeT="2"')
    tifffile.imwrite(tmp_path / "a.ome.tif", own, description=described, metadata=None)
    try:
        with open_raster(tmp_path / "a.ome.tif") as raster:
            found = [raster.read(page=page).max() for page in range(raster.facts.pages)]
    except InputError:
        return
    assert 77 not in found


def test_a_zarr_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    folder = tmp_path / "a.zarr"
    folder.mkdir()
    head = {
        "zarr_format": 2, "shape": [4, 4], "chunks": [4, 4], "dtype": "|O", "fill_value": None, "order": "C",
        "compressor": None, "filters": [{"id": "pickle", "protocol": 5}],
    }  # fmt: skip
    (folder / ".zarray").write_text(json.dumps(head))
    (folder / "0.0").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    assert isinstance(check_file(str(folder)), str)
    head["dtype"] = "<u2"
    (folder / ".zarray").write_text(json.dumps(head))
    assert isinstance(check_file(str(folder)), str)
    assert not (tmp_path / "ran").exists()


def test_a_zarr_group_does_not_lead_outside(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "secret", data=np.zeros((8, 8), np.uint16))
    for path in ("../secret", str(tmp_path / "secret")):
        group = zarr.create_group(tmp_path / "a.zarr", overwrite=True)
        level = {"path": path, "coordinateTransformations": []}
        axes = [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
        group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [level]}]}
        assert "lies outside" in str(check_file(str(tmp_path / "a.zarr")))


def test_bombs_are_refused_by_their_header(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(2**20, 2**20), chunks=(2**20, 2**18), dtype="u2")
    assert "its blocks have 512.0 GiB each" in str(check_file(str(tmp_path / "a.zarr")))
    zarr.create_array(tmp_path / "b.zarr", shape=(2**20, 2**20), chunks=(64, 64), dtype="u2")
    assert "million are allowed" in str(check_file(str(tmp_path / "b.zarr")))
    tifffile.imwrite(tmp_path / "c.tif", shape=(20000, 20000), dtype=np.uint16, photometric="minisblack", tile=(64, 64))
    assert "20000x20000 pixels, 179 million are allowed" in str(check_file(str(tmp_path / "c.tif")))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("tiled", [True, False])
def test_truncated_files_are_rejected(share: float, tiled: bool, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 60000, (128, 128), dtype=np.uint16)
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric="minisblack", compression="zlib", tile=(32, 32) if tiled else None
    )
    body = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(body[: int(len(body) * share)])
    reason = check_file(str(tmp_path / "a.tif"))
    assert isinstance(reason, str)
    assert "\n" not in reason


def test_a_stack_that_is_cut_off_between_its_pages_is_rejected(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((6, 64, 64), np.uint16), photometric="minisblack", metadata=None)
    body = (tmp_path / "a.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        end = file.pages[2].offset  # behind the pixels of the third page, before its directory
    (tmp_path / "a.tif").write_bytes(body[:end])
    assert "cut off" in str(check_file(str(tmp_path / "a.tif")))
