"""export.formats: what is written, read back with small readers of the formats, is the mask, pixel for pixel."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_readers import coco_panoptic as panoptic
from format_readers import cvat, even_odd, label_studio, mmseg, rle_pack, voc, yolo
from format_scenes import CLASSES, NAMES, scenes, write_scenes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as coco_masks

from maskmill.errors import ConfigError, InputError, StoreError
from maskmill.export import formats
from maskmill.export._polygons import polygons
from maskmill.export._runs import brush, row_runs
from maskmill.export.formats import label_studio as label_studio_writer
from maskmill.export.formats.voc import plain_names
from maskmill.export.naming import Naming
from maskmill.export.run import run
from maskmill.images.instances import Instances
from maskmill.images.palette import IGNORE, palette, png_palette
from maskmill.recipe import export as section
from maskmill.recipe.resolve import SHIPPED, load

ALL = list(formats.FORMATS)


def exported(folder: Path, masks: dict[str, np.ndarray], params: dict[str, Any], **more: Any) -> Path:
    run(params=params, **write_scenes(folder, masks, **more))
    return folder / "export"


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("formats"), scenes(), {"formats": ALL})


def without_ignore(mask: np.ndarray) -> np.ndarray:
    return np.where(mask == 255, 0, mask)


def same(read: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert set(read) == set(wanted)
    for name, mask in wanted.items():
        assert read[name].shape == mask.shape
        assert (read[name] == mask).all(), name


def test_the_table_of_formats_is_that_of_the_configuration() -> None:
    assert (*formats.FORMATS, *formats.WHOLE) == section.FORMATS
    assert tuple(formats.WHOLE) == section.WHOLE


def test_voc_gives_the_masks_back(everything: Path) -> None:
    names, masks = voc(everything / "voc")
    assert names == list(NAMES)
    same(masks, scenes())


def test_mmseg_gives_the_masks_back(everything: Path) -> None:
    names, masks = mmseg(everything / "mmseg")
    assert names == ["background", *NAMES]
    same(masks, scenes())


def test_mmseg_leaves_out_a_background_that_no_image_has(tmp_path: Path) -> None:
    wanted = {"a": np.array([[1, 255], [6, 2]], np.uint8)}
    names, masks = mmseg(exported(tmp_path, wanted, {"formats": ["mmseg"]}) / "mmseg")
    assert names == list(NAMES)
    same(masks, {"a": np.array([[0, 255], [5, 1]], np.uint8)})


def test_panoptic_gives_the_masks_back(everything: Path) -> None:
    names, masks = panoptic(everything / "coco_panoptic")
    assert names == list(NAMES)
    same(masks, scenes())


def test_cvat_gives_the_masks_back(everything: Path) -> None:
    names, masks = cvat(everything / "cvat")
    assert names == list(NAMES)
    same(masks, {i: without_ignore(mask) for i, mask in scenes().items()})


def test_label_studio_gives_the_masks_back(everything: Path) -> None:
    names, masks = label_studio(everything / "label_studio")
    assert names == list(NAMES)
    wanted = {i: without_ignore(mask) for i, mask in scenes().items()}
    same(masks, {i: mask if mask.any() else mask[:0, :0] for i, mask in wanted.items()})


def test_yolo_gives_the_masks_back(everything: Path) -> None:
    names, masks = yolo(everything / "yolo", {i: mask.shape for i, mask in scenes().items()})
    assert names == list(NAMES)
    same(masks, {i: without_ignore(mask) for i, mask in scenes().items()})


def test_names_and_colours_are_the_same_everywhere(everything: Path) -> None:
    naming = Naming.of(CLASSES)
    colours = [naming.hexadecimal(value) for value in range(len(NAMES) + 1)]
    with (everything / "clusters.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["colour"]) for row in rows] == list(zip(naming.names, colours, strict=True))
    kinds = json.loads((everything / "coco.json").read_text())["categories"]
    assert [(kind["name"], kind["supercategory"]) for kind in kinds] == [(name, "class") for name in NAMES]
    assert [kind["color"] for kind in kinds] == naming.colours[1:].tolist()
    labels = json.loads((everything / "cvat/labels.json").read_text())
    assert [label["color"] for label in labels] == colours[1:]
    for folder in ("masks", "voc/SegmentationClass", "mmseg/ann_dir/train"):
        with Image.open(everything / folder / "ring.png") as image:
            table = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
        assert (table[: len(NAMES) + 1] == naming.colours).all()
        assert tuple(table[255]) == IGNORE


def test_nothing_depends_on_the_number_of_shards_or_runs(tmp_path: Path, everything: Path) -> None:
    again = exported(tmp_path, scenes(), {"formats": ALL})
    files = sorted(path.relative_to(everything) for path in everything.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert [f for f in files if (again / f).read_bytes() != (everything / f).read_bytes()] == []


def test_without_formats_nothing_is_added(tmp_path: Path) -> None:
    folder = exported(tmp_path, scenes(), {})
    assert {path.name for path in folder.iterdir()} == {"masks", "coco.json", "clusters.csv", "export.json"}
    assert section.Export().model_dump() == {"masks": True, "coco": True}


# Instances


def test_instances_may_overlap_where_the_format_allows_it(tmp_path: Path) -> None:
    masks = np.zeros((3, 6, 8), bool)
    masks[0, 1:5, 1:5] = True
    masks[0, 2, 2] = False
    masks[1, 2:6, 3:8] = True
    masks[2, 0, 0] = True
    found = {"a": Instances(masks, np.array([1, 1, 2]), np.array([0.75, 0.5, 0.25], np.float32))}
    mask = np.zeros((6, 8), np.uint8)
    mask[masks[0] | masks[1]] = 1
    mask[5, 0] = 1  # what no instance covers
    folder = exported(tmp_path, {"a": mask}, {"formats": ALL}, found=found)
    same(panoptic(folder / "coco_panoptic")[1], {"a": mask})
    body = json.loads((folder / "coco_panoptic/annotations/panoptic_train.json").read_text())
    assert [kind["isthing"] for kind in body["categories"]] == [1] * 6 + [0]
    areas = {(s["category_id"], s["area"]) for s in body["annotations"][0]["segments_info"]}
    assert areas == {(1, 1), (1, 15), (1, int((masks[1] & ~masks[0]).sum())), (7, int((mask == 0).sum()))}
    [task] = json.loads((folder / "label_studio/tasks-0001.json").read_text())
    results = task["predictions"][0]["result"]
    assert [result["score"] for result in results] == [0.75, 0.5, 0.25]
    for result, layer in zip(results, masks, strict=True):
        assert (rle_pack(bytes(result["value"]["rle"])).reshape(6, 8, 4)[..., 3] > 0).tolist() == layer.tolist()
    lines = [line.split() for line in (folder / "yolo/labels/a.txt").read_text().splitlines()]
    assert [line[0] for line in lines] == ["0", "0", "1"]
    for line, layer in zip(lines, masks, strict=True):
        assert (even_odd(np.array(line[1:], float).reshape(-1, 2) * (8, 6), (6, 8)) == layer).all()
    painted = np.where(masks[0] | masks[1], 1, np.where(masks[2], 2, 0)).astype(np.uint8)
    same(cvat(folder / "cvat")[1], {"a": painted})


def test_stuff_lies_beside_instances(tmp_path: Path) -> None:
    """Classes 1..4 are things, 5 and 6 stuff; a part of class 2 that no instance covers is none of either."""
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 1:4, 1:4] = masks[1, 2:5, 3:6] = True  # which overlap
    found = {"a": Instances(masks, np.array([1, 4]), np.array([0.75, 0.5], np.float32))}
    mask = np.full((6, 8), 6, np.uint8)
    mask[:, 7] = 5
    mask[masks[1]] = 4
    mask[masks[0]] = 1
    mask[5, 0], mask[5, 1], mask[5, 2] = 2, 0, 255
    folder = exported(tmp_path, {"a": mask}, {"formats": ALL}, found=found, things=4)
    same(panoptic(folder / "coco_panoptic")[1], {"a": mask})
    body = json.loads((folder / "coco_panoptic/annotations/panoptic_train.json").read_text())
    assert [kind["isthing"] for kind in body["categories"]] == [1] * 4 + [0] * 3
    layers = [(5, None, mask == 5), (6, None, mask == 6), (1, 0.75, masks[0]), (4, 0.5, masks[1])]
    told = json.loads((folder / "coco.json").read_text())["annotations"]
    assert [(one["category_id"], one.get("score"), one["area"]) for one in told] == [
        (value, score, int(layer.sum())) for value, score, layer in layers
    ]
    for one, (*_, layer) in zip(told, layers, strict=True):
        assert coco_masks.decode(one["segmentation"]).tolist() == layer.tolist()
    [task] = json.loads((folder / "label_studio/tasks-0001.json").read_text())
    results = task["predictions"][0]["result"]
    for result, (value, score, layer) in zip(results, layers, strict=True):
        assert (result["value"]["brushlabels"], result.get("score")) == ([NAMES[value - 1]], score)
        assert (rle_pack(bytes(result["value"]["rle"])).reshape(6, 8, 4)[..., 3] > 0).tolist() == layer.tolist()
    lines = [line.split() for line in (folder / "yolo/labels/a.txt").read_text().splitlines()]
    assert {line[0] for line in lines} == {"4", "5", "0", "3"}
    painted = np.where(mask >= 5, mask, 0)
    painted[masks[0]] = 1
    painted[masks[1]] = 4
    painted[mask == 255] = 0
    same(cvat(folder / "cvat")[1], {"a": painted})


def test_without_instances_no_class_is_a_thing(tmp_path: Path) -> None:
    """Masks of any other student may have stuff: a segment of a class is then all of it in the image."""
    mask = np.array([[1, 1, 5, 5]], np.uint8)
    folder = exported(tmp_path, {"a": mask}, {"formats": ["coco_panoptic"]}, things=4)
    body = json.loads((folder / "coco_panoptic/annotations/panoptic_train.json").read_text())
    assert not any(kind["isthing"] for kind in body["categories"])
    told = json.loads((folder / "coco.json").read_text())["annotations"]
    assert [(one["category_id"], one["area"]) for one in told] == [(1, 2), (5, 2)]


# Codes


@settings(max_examples=200, deadline=None)
@given(mask=hnp.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 3)))
def test_polygons_give_every_part_back(mask: np.ndarray) -> None:
    painted = np.zeros_like(mask)
    for value, corners in polygons(mask, (0, 255)):
        inside = even_odd(corners, mask.shape)
        assert inside.any()
        assert not painted[inside].any()
        painted[inside] = value
        cut = corners.astype(int)  # what a reader that cuts coordinates fills the border of
        assert (mask[cut[:, 1], cut[:, 0]] == value).all()
        for (x0, y0), (x1, y1) in zip(cut, np.roll(cut, -1, axis=0), strict=True):
            assert x0 == x1 or y0 == y1
            assert (mask[min(y0, y1) : max(y0, y1) + 1, min(x0, x1) : max(x0, x1) + 1] == value).all()
    assert (painted == mask).all()


def test_holes_are_joined_with_the_border_above_from_left_to_right() -> None:
    mask = np.ones((3, 5), np.uint8)
    mask[1, 1::2] = 0
    [(value, corners)] = polygons(mask, (0, 255))
    near, far = 1 / 16, 15 / 16
    first, second = (
        [[x + 0.25, near], [x + 0.25, far], [x - near, far], [x - near, 2 + near], [x + 1 + near, 2 + near],
         [x + 1 + near, far], [x + 0.25, far], [x + 0.25, near]]
        for x in (1, 3)
    )  # fmt: skip
    border = [[4 + far, near], [4 + far, 2 + far], [near, 2 + far]]
    assert value == 1
    assert corners.tolist() == [[near, near], *first, *second, *border]


@settings(max_examples=100, deadline=None)
@given(mask=hnp.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.booleans()))
def test_runs_give_every_mask_back(mask: np.ndarray) -> None:
    runs = row_runs(mask)
    assert (runs[1:] > 0).all()
    assert (np.repeat(np.arange(len(runs)) % 2, runs).reshape(mask.shape) == mask).all()
    assert (rle_pack(brush(mask)).reshape(*mask.shape, 4) == mask[..., None] * 255).all()


def test_coordinates_of_wide_images_keep_their_pixel(tmp_path: Path) -> None:
    mask = np.ones((3, 3001), np.uint8)
    mask[1, 1:-1:2] = 0
    folder = exported(tmp_path, {"a": mask}, {"formats": ["yolo"]})
    same(yolo(folder / "yolo", {"a": mask.shape})[1], {"a": mask})


# Names of files, photos


def test_photos_are_linked_copied_or_left_out(tmp_path: Path) -> None:
    masks = {"a/one": np.ones((4, 6), np.uint8), "two": np.ones((4, 6), np.uint8)}
    places = [
        "voc/JPEGImages", "yolo/images", "mmseg/img_dir/train", "cvat/images", "coco_panoptic/images/train",
    ]  # fmt: skip
    for how in ("none", "link", "copy"):
        folder = exported(tmp_path / how, masks, {"formats": ALL, "photos": how})
        for place in places:
            there = [path for path in (folder / place).rglob("*") if not path.is_dir()]
            names = sorted(str(path.relative_to(folder / place)) for path in there)
            assert names == ([] if how == "none" else ["a/one.jpg", "two.jpg"])
            assert all(path.is_symlink() == (how == "link") for path in there)
            for path in there:
                original = tmp_path / how / "photos" / path.relative_to(folder / place)
                assert path.read_bytes() == original.read_bytes()


def test_a_photo_that_exif_turns_is_written_turned(tmp_path: Path) -> None:
    keywords = write_scenes(tmp_path, {"a": np.ones((4, 6), np.uint8)})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 6)).save(tmp_path / "photos/a.jpg", exif=exif)
    run(params={"formats": ["voc"], "photos": "link"}, **keywords)
    path = tmp_path / "export/voc/JPEGImages/a.jpg"
    assert not path.is_symlink()
    with Image.open(path) as image:
        assert (image.size, image.getexif().get(0x0112)) == ((6, 4), None)


def test_a_missing_photo_is_named(tmp_path: Path) -> None:
    keywords = write_scenes(tmp_path, {"a": np.ones((4, 6), np.uint8)})
    (tmp_path / "photos/a.jpg").unlink()
    with pytest.raises(InputError, match=r"photos/a\.jpg: .*restore the file"):
        run(params={"formats": ["voc"], "photos": "link"}, **keywords)
    assert not (tmp_path / "export").exists()


def test_photos_of_several_suffixes(tmp_path: Path) -> None:
    masks = {"a": np.ones((4, 6), np.uint8), "b": np.zeros((4, 6), np.uint8)}
    folder = exported(tmp_path, masks, {"formats": ["mmseg"], "photos": "link"}, suffixes=(".jpg", ".png"))
    same(mmseg(folder / "mmseg")[1], {"a.jpg": masks["a"], "b.png": masks["b"]})
    assert (folder / "mmseg/img_dir/train/b.png").is_symlink()


def test_ids_that_a_list_or_a_path_cannot_hold(tmp_path: Path) -> None:
    one = np.ones((2, 3), np.uint8)
    ids = ["# first", " space", "images/x", "a\nb", "a\x01b", "a\u3000b", "a", "a.png/b"]
    folder = exported(tmp_path, dict.fromkeys(ids, one), {"formats": ALL})
    listed = (folder / "voc/ImageSets/Segmentation/train.txt").read_text().splitlines()
    assert len(listed) == len(ids)
    same(voc(folder / "voc")[1], dict.fromkeys(listed, one))
    with (folder / "voc/renamed.csv").open(newline="") as file:
        renamed = {row["id"]: row["name"] for row in csv.DictReader(file)}
    assert set(renamed) == {"# first", " space", "a\nb", "a.png/b"} or set(renamed) == {
        "# first",
        " space",
        "a\nb",
        "a",
    }
    assert {renamed.get(i, i) for i in ids} == set(listed)
    assert not (folder / "yolo/labels/images").exists()
    assert len(list((folder / "yolo/labels").rglob("*.txt"))) == len(ids)
    label_studio(folder / "label_studio")
    cvat(folder / "cvat")
    panoptic(folder / "coco_panoptic")


def test_label_studio_files_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_studio_writer, "TASKS", 3)
    folder = exported(tmp_path, scenes(), {"formats": ["label_studio"], "image_url": "https://x/?i="}) / "label_studio"
    assert len(list(folder.glob("tasks-*.json"))) == -(-len(scenes()) // 3)
    assert set(label_studio(folder, "https://x/?i=")[1]) == set(scenes())


# Naming


def test_the_default_naming_is_that_of_the_palette() -> None:
    naming = Naming.default(300)
    assert naming.names[:3] == ("background", "cluster_1", "cluster_2")
    assert (naming.colours == palette(301)).all()
    assert Naming.default(40).png_palette() == png_palette(palette(41))
    assert len({tuple(colour) for colour in Naming.default(254).colours.tolist()} | {IGNORE}) == 256


def test_equal_colours_are_told_apart() -> None:
    naming = Naming.of([{"name": c, "colour": [255, 255, 255]} for c in "abc"] + [{"name": "d", "colour": "#20232b"}])
    assert naming.colours[1:].tolist() == [[255, 255, 255], [255, 255, 254], [255, 255, 253], [32, 35, 43]]
    taken = Naming.of([{"name": "a", "colour": "#202329"}])
    assert taken.colours.tolist() == [[32, 35, 41], [32, 35, 42]]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ([{"name": "a"}, {"name": "a "}], "class 2: name: 'a' is taken"),
        ([{"name": "background"}], "name: 'background' is taken"),
        ([{"name": "  "}], "is no name"),
        ([{"name": "a\nb"}], r"'a\\nb' has a line break"),
        ([{"name": "a\uffff"}], "has a line break or another control character"),
        ([{"name": "a", "colour": "#8040"}], "class 'a': colour: '#8040' is no colour"),
        ([{"name": "a", "colour": [0, 0, 256]}], "is no colour"),
    ],
)
def test_names_and_colours_that_are_none(classes: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Naming.of(classes)


def test_names_of_a_label_map_are_distinct() -> None:
    assert plain_names(["a:b", "a_b", "#c", "_#c"]) == ["a_b", "a_b_", "_#c", "_#c_"]


def test_a_naming_of_other_masks_is_refused(tmp_path: Path) -> None:
    keywords = write_scenes(tmp_path, scenes()) | {"naming": Naming.default(3)}
    with pytest.raises(StoreError, match="classes: 3 are named, the masks have 6"):
        run(params={}, **keywords)


# Many clusters, configuration


def test_more_clusters_than_a_palette_holds(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 300, 65535, 256, 255]], np.uint16)
    keywords = write_scenes(tmp_path, {"a": mask}, clusters=300)
    for name in ("voc", "mmseg"):
        with pytest.raises(
            ConfigError, match=rf"export\.formats: {name} holds at most 254 classes, the masks have 300"
        ):
            run(params={"formats": ["yolo", name]}, **keywords)
    run(params={"formats": ["coco_panoptic", "yolo", "cvat", "label_studio"]}, **keywords)
    body = json.loads((tmp_path / "export/coco_panoptic/annotations/panoptic_train.json").read_text())
    assert [s["category_id"] for s in body["annotations"][0]["segments_info"]] == [1, 255, 256, 300, 301]
    with Image.open(tmp_path / "export/coco_panoptic/annotations/panoptic_train/a.png") as image:
        red, green, blue = np.moveaxis(np.array(image).astype(int), -1, 0)
    assert (red + 256 * green + 65536 * blue).tolist() == [[301, 1, 300, 0, 256, 255]]
    lines = (tmp_path / "export/yolo/labels/a.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "299", "255", "254"]


def config(**export: Any) -> dict[str, Any]:
    return {"recipes": ["kmeans"], "preset": "small", "export": export}


def test_formats_of_the_configuration() -> None:
    assert load(config(formats="voc,yolo"), SHIPPED).config.export.formats == ["voc", "yolo"]
    with pytest.raises(ConfigError, match=r"export\.formats: unknown 'labelstudio' \(did you mean 'label_studio'\?\)"):
        load(config(formats=["labelstudio"]), SHIPPED)
    with pytest.raises(ConfigError, match=r"export\.formats: 'voc' is given twice"):
        load(config(formats=["voc", "voc"]), SHIPPED)
    with pytest.raises(ConfigError, match=r"export\.photos: "):
        load(config(formats=["voc"], photos="move"), SHIPPED)
    many = config(formats=["cvat", "voc"]) | {"cluster": {"clusters": 255}}
    with pytest.raises(ConfigError, match=r"voc holds at most 254 classes, but recipe kmeans has cluster\.cl.*255"):
        load(many, SHIPPED)
    load(many | {"export": {"formats": ["cvat"]}}, SHIPPED)
