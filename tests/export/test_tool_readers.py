"""Exports read by the tools' own readers, where they are installed (the extra `tools`, and Ultralytics)."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_scenes import NAMES, scenes, write_scenes

from maskmill.export._polygons import polygons
from maskmill.export._runs import brush
from maskmill.export.run import run

FORMATS = ["coco_panoptic", "voc", "yolo", "cvat", "label_studio"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With copies of photos: Datumaro refuses CVAT files without, and links that lead out of a COCO folder."""
    path = tmp_path_factory.mktemp("tools")
    run(params={"formats": FORMATS, "photos": "copy"}, **write_scenes(path, scenes()))
    return path / "export"


def tool(name: str) -> Any:
    pytest.importorskip(name.partition(".")[0], reason=f"{name} is not installed")
    return importlib.import_module(name)


def without_ignore(mask: np.ndarray) -> np.ndarray:
    return np.where(mask == 255, 0, mask)


def layers(item: Any) -> Iterator[tuple[int | None, np.ndarray]]:
    for annotation in item.annotations:
        yield annotation.label, np.asarray(annotation.image).astype(bool)


def test_datumaro_reads_voc(folder: Path) -> None:
    dataset = tool("datumaro").Dataset.import_from(str(folder / "voc"), "voc_segmentation")
    labels = [label.name for label in next(iter(dataset.categories().values())).items]
    assert labels == ["background", *NAMES, "ignored"]
    for name, mask in scenes().items():
        read = np.full(mask.shape, 99, np.uint8)
        for label, layer in layers(dataset.get(name, "train")):
            read[layer] = 255 if label == len(NAMES) + 1 else label
        assert (read == mask).all()


def test_datumaro_reads_coco_panoptic(folder: Path) -> None:
    dataset = tool("datumaro").Dataset.import_from(str(folder / "coco_panoptic"), "coco_panoptic")
    labels = [label.name for label in next(iter(dataset.categories().values())).items]
    assert labels == [*NAMES, "background"]
    for name, mask in scenes().items():
        read = np.full(mask.shape, 255, np.uint8)
        for label, layer in layers(dataset.get(name, "train")):
            assert label is not None
            read[layer] = 0 if label == len(NAMES) else label + 1
        assert (read == mask).all()


def test_datumaro_reads_cvat(folder: Path) -> None:
    dataset = tool("datumaro").Dataset.import_from(str(folder / "cvat"), "cvat")
    labels = [label.name for label in next(iter(dataset.categories().values())).items]
    assert labels == list(NAMES)
    items = {item.id: item for item in dataset}
    for name, mask in scenes().items():
        read = np.zeros(mask.shape, np.uint8)
        for label, layer in layers(items[name]):
            assert label is not None
            read[layer] = label + 1
        assert (read == without_ignore(mask)).all()


def test_label_studio_decodes_its_brushes(folder: Path) -> None:
    sdk = tool("label_studio_sdk.converter.brush")
    [file] = (folder / "label_studio").glob("tasks-*.json")
    for task in json.loads(file.read_text()):
        mask = scenes()[task["data"]["maskmill_id"]]
        read = np.zeros(mask.shape, np.uint8)
        for result in task["predictions"][0]["result"]:
            flat = result | result["value"]  # as the SDK's converter hands it to its decoder
            [layer] = sdk.decode_from_annotation("tag", [flat]).values()
            read[layer > 0] = NAMES.index(flat["brushlabels"][0]) + 1
        assert (read == without_ignore(mask)).all()


def test_brushes_are_the_bytes_of_label_studios_encoder() -> None:
    sdk = tool("label_studio_sdk.converter.brush")
    rng = np.random.default_rng(0)
    for density in (0, 0.02, 0.5, 0.98, 1):
        mask = rng.random((57, 43)) < density
        assert list(brush(mask)) == sdk.mask2rle((mask * 255).astype(np.uint8))
    mask = np.zeros((700, 900), bool)
    mask[300:600] = True
    assert list(brush(mask)) == sdk.mask2rle((mask * 255).astype(np.uint8))


def test_label_studio_accepts_the_configuration(folder: Path) -> None:
    interface = tool("label_studio_sdk.label_interface").LabelInterface(
        (folder / "label_studio/config.xml").read_text()
    )
    control = interface.get_control("tag")
    assert list(control.labels) == list(NAMES)
    [file] = (folder / "label_studio").glob("tasks-*.json")
    for task in json.loads(file.read_text()):
        assert interface.validate_prediction(task["predictions"][0])


def filled(cv2: Any, shares: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """As Ultralytics' polygon2mask: float32 shares times the size, cut to integers, cv2.fillPoly."""
    corners = (shares.astype(np.float32) * np.array([size[1], size[0]], np.float32)).astype(np.int32)
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, corners[None], color=1)
    return mask.astype(bool)


def test_opencv_fills_the_polygons_of_yolo(folder: Path) -> None:
    cv2 = tool("cv2")
    for name, mask in scenes().items():
        read = np.zeros(mask.shape, np.uint8)
        for line in (folder / f"yolo/labels/{name}.txt").read_text().splitlines():
            first, *numbers = line.split()
            layer = filled(cv2, np.array(numbers, np.float32).reshape(-1, 2), mask.shape)
            assert layer.any()
            assert not read[layer].any()
            read[layer] = int(first) + 1
        assert (read == without_ignore(mask)).all()


def test_opencv_fills_polygons_of_random_masks() -> None:
    cv2 = tool("cv2")
    rng = np.random.default_rng(1)
    for _ in range(500):
        mask = rng.integers(0, 4, rng.integers(1, 16, 2)).astype(np.uint8)
        size = mask.shape
        read = np.zeros(size, np.uint8)
        for value, corners in polygons(mask, (0, 255)):
            read[filled(cv2, corners / (size[1], size[0]), size)] = value
        assert (read == mask).all()


def test_ultralytics_reads_yolo(folder: Path) -> None:
    data = tool("ultralytics.data.utils")
    for name, mask in scenes().items():
        files = (str(folder / f"yolo/images/{name}.jpg"), str(folder / f"yolo/labels/{name}.txt"))
        if min(mask.shape) < 10:  # Ultralytics takes smaller photos for damaged ones
            continue
        [_, classes, shape, segments, *_, message] = data.verify_image_label(
            (*files, "", False, len(NAMES), 0, 0, False)
        )
        assert (message, shape) == ("", mask.shape)
        read = np.zeros(mask.shape, np.uint8)
        for first, shares in zip(classes[:, 0], segments, strict=True):
            corners = shares * np.array([shape[1], shape[0]], np.float32)
            read[data.polygon2mask(shape, [corners.reshape(-1)]).astype(bool)] = first + 1
        assert (read == without_ignore(mask)).all()


def test_ome_zarr_reads_the_labels(tmp_path: Path) -> None:
    """By ome-zarr's own reader, which napari calls: levels, colours, names and scales."""
    reader, parse = tool("ome_zarr.reader").Reader, tool("ome_zarr.io").parse_url
    mask = scenes()["nested"].repeat(40, axis=0).repeat(30, axis=1)
    run(params={"formats": ["ome_zarr"]}, **write_scenes(tmp_path, {"a/b": mask}))
    nodes = list(reader(parse(str(tmp_path / "export/ome_zarr/a/b.zarr/labels/maskmill")))())
    [node] = [node for node in nodes if node.data]
    assert [level.shape for level in node.data] == [(840, 630), (420, 315)]
    assert (node.data[0].compute() == mask).all()
    assert node.metadata["properties"][1]["class"] == NAMES[0]
    assert set(node.metadata["color"]) >= {*range(len(NAMES) + 1), 255}
    listed = list(reader(parse(str(tmp_path / "export/ome_zarr/a/b.zarr/labels")))())
    assert any(len(each.data) == 2 for each in listed)
