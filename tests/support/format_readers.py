"""Small readers of the formats that export writes, from the descriptions of the formats; none of our code is used."""

from __future__ import annotations

import json
import runpy
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import yaml
from PIL import Image

Read = tuple[list[str], dict[str, np.ndarray]]  # names from class 1, {image: mask}


def voc(folder: Path) -> Read:
    """0 background, 255 void, names in the order of labelmap.txt; the last line is that of void."""
    lines = [line for line in (folder / "labelmap.txt").read_text("utf-8").splitlines() if line[0] != "#"]
    ids = (folder / "ImageSets/Segmentation/train.txt").read_text("utf-8").splitlines()
    masks = {}
    for i in ids:
        with Image.open(folder / f"SegmentationClass/{i}.png") as image:
            masks[i] = np.array(image)
            colours = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
        for value, line in zip([*range(len(lines) - 1), 255], lines, strict=True):
            assert line.split(":")[1] == ",".join(map(str, colours[value]))
    assert len({line.split(":")[1] for line in lines}) == len(lines)
    meta = json.loads((folder / "dataset_meta.json").read_text("utf-8"))
    assert [line.split(":")[0] for line in lines][:2] == ["background", meta["labels"][1].replace(":", "_")]
    return meta["labels"][1:-1], masks


def mmseg(folder: Path) -> Read:
    """As LoadAnnotations of MMSegmentation: with reduce_zero_label 0 becomes ignore and all others move down."""
    config = runpy.run_path(str(folder / "dataset.py"))
    settings = config["train_dataloader"]["dataset"]
    masks = {}
    for line in (folder / settings["ann_file"]).read_text("utf-8").splitlines():
        prefix = settings["data_prefix"]["seg_map_path"]
        with Image.open(folder / prefix / f"{line}{settings['seg_map_suffix']}") as image:
            mask = np.array(image)
        if settings["reduce_zero_label"]:
            mask[mask == 0] = 255
            mask = mask - 1
            mask[mask == 254] = 255
        assert set(np.unique(mask).tolist()) <= {*range(config["num_classes"]), 255}
        masks[line] = mask
    assert len(config["metainfo"]["classes"]) == len(config["metainfo"]["palette"]) == config["num_classes"]
    assert json.loads((folder / "metainfo.json").read_text("utf-8"))["classes"] == [*config["metainfo"]["classes"]]
    return [*config["metainfo"]["classes"]], masks


def coco_panoptic(folder: Path) -> Read:
    """Categories of the ids in the PNGs; the one of supercategory background becomes 0, no segment 255."""
    body = json.loads((folder / "annotations/panoptic_train.json").read_text())
    kinds = {kind["id"]: kind for kind in body["categories"]}
    names = {image["id"]: image["maskmill_id"] for image in body["images"]}
    masks = {}
    for entry in body["annotations"]:
        with Image.open(folder / "annotations/panoptic_train" / entry["file_name"]) as image:
            rgb = np.array(image).astype(np.uint32)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 256 * 256 * rgb[..., 2]
        mask = np.full(ids.shape, 255, np.uint8)
        assert set(np.unique(ids).tolist()) - {0} == {segment["id"] for segment in entry["segments_info"]}
        for segment in entry["segments_info"]:
            there = ids == segment["id"]
            rows, columns = np.nonzero(there)
            assert segment["area"] == there.sum()
            assert segment["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert segment["iscrowd"] == 0
            kind = kinds[segment["category_id"]]
            mask[there] = 0 if kind["supercategory"] == "background" else kind["id"]
        masks[names[entry["image_id"]]] = mask
    assert all(set(kind) == {"id", "name", "supercategory", "isthing", "color"} for kind in kinds.values())
    return [kind["name"] for kind in body["categories"] if kind["supercategory"] != "background"], masks


def cvat(folder: Path) -> Read:
    """Masks in the order of their layers; runs along the rows of a box, the first one of zeros."""
    root = ElementTree.parse(folder / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    names = [label.findtext("name") or "" for label in root.iter("label")]
    assert [label["name"] for label in json.loads((folder / "labels.json").read_text("utf-8"))] == names
    masks = {}
    for number, image in enumerate(root.iter("image")):
        assert image.get("id") == str(number)
        mask = np.zeros((int(image.attrib["height"]), int(image.attrib["width"])), np.uint8)
        for part in sorted(image.iter("mask"), key=lambda part: int(part.attrib["z_order"])):
            top, left, height, width = (int(part.attrib[key]) for key in ("top", "left", "height", "width"))
            runs = [int(run) for run in part.attrib["rle"].split(",")]
            there = np.repeat(np.arange(len(runs)) % 2, runs).reshape(height, width).astype(bool)
            assert there.any(axis=0)[[0, -1]].all()
            assert there.any(axis=1)[[0, -1]].all()
            mask[top : top + height, left : left + width][there] = names.index(part.attrib["label"]) + 1
        masks[Path(image.attrib["name"]).with_suffix("").as_posix()] = mask
    return names, masks


def label_studio(folder: Path, prefix: str = "/data/local-files/?d=") -> Read:
    """Brushes of the predictions, in their order."""
    view = ElementTree.parse(folder / "config.xml").getroot()
    names = [label.attrib["value"] for label in view.iter("Label")]
    brushes, image = view.find("BrushLabels"), view.find("Image")
    assert brushes is not None
    assert image is not None
    masks = {}
    for file in sorted(folder.glob("tasks-*.json")):
        for task in json.loads(file.read_text()):
            url = task["data"][image.attrib["value"].removeprefix("$")]
            assert url.startswith(prefix)
            mask: np.ndarray | None = None
            for result in task["predictions"][0]["result"]:
                assert (result["from_name"], result["to_name"]) == (brushes.get("name"), image.get("name"))
                values = rle_pack(bytes(result["value"]["rle"]))
                layer = values.reshape(result["original_height"], result["original_width"], 4)
                assert set(np.unique(layer).tolist()) <= {0, 255}
                mask = np.zeros(layer.shape[:2], np.uint8) if mask is None else mask
                [name] = result["value"]["brushlabels"]
                mask[layer[..., 3] > 0] = names.index(name) + 1
            name = unquote(url.removeprefix(prefix)).rpartition(".")[0]
            masks[name] = np.zeros((0, 0), np.uint8) if mask is None else mask
    return names, masks


def rle_pack(body: bytes) -> np.ndarray:
    """Values uint8 [n] of a code of thi.ng's rle-pack."""
    bits = "".join(f"{byte:08b}" for byte in body)
    place = 0

    def read(width: int) -> int:
        nonlocal place
        place += width
        return int(bits[place - width : place], 2)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        run = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if run else [read(word) for _ in range(length)]
    assert len(values) == total
    assert len(bits) - place <= 8
    return np.array(values, np.uint8)


def yolo(folder: Path, sizes: dict[str, tuple[int, int]]) -> Read:
    """Pixels whose centre is inside a polygon by the even-odd rule; no two lines may claim one."""
    body: dict[str, Any] = yaml.safe_load((folder / "data.yaml").read_text("utf-8"))
    assert list(body["names"]) == list(range(len(body["names"])))
    masks = {}
    for name, (height, width) in sizes.items():
        mask = np.zeros((height, width), np.uint8)
        for line in (folder / f"labels/{name}.txt").read_text().splitlines():
            first, *numbers = line.split()
            corners = np.array(numbers, np.float32).reshape(-1, 2)
            assert corners.min() >= 0
            assert corners.max() <= 1
            inside = even_odd(corners.astype(np.float64) * (width, height), (height, width))
            assert inside.any()
            assert not mask[inside].any()
            mask[inside] = int(first) + 1
        masks[name] = mask
    return list(body["names"].values()), masks


def even_odd(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which pixel centres [H, W] a ray to the left leaves through an odd number of edges."""
    x, y = np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5
    inside = np.zeros(size, bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        rows = (y0 <= y) != (y1 <= y)
        if rows.any():
            cut = x0 + (y[rows] - y0) * (x1 - x0) / (y1 - y0)
            inside[rows] ^= x[None] > cut[:, None]
    return inside
