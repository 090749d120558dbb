"""export: PNG masks, COCO files that pycocotools reads, clusters.csv, the student's folder."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from exported_run import REGIONS, SEGMENTS, SIZES, masks_of, table_of, write_run
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as codec
from pycocotools.coco import COCO

from maskmill.backbones import weights_file
from maskmill.errors import StoreError
from maskmill.export.run import run
from maskmill.export.segmenter import SegmenterParts
from maskmill.images.masks import to_size
from maskmill.images.palette import BACKGROUND, IGNORE, hexadecimal, palette
from maskmill.store.artefact import read_json, read_table, write_json, write_table, write_tensors
from maskmill.store.codebook import Codebook
from maskmill.store.codebook import write as write_codebook
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import RaggedWriter
from maskmill.store.rle import encode_all

FEATURES = {"backbone": "vit_small_patch8_224.dino"}


@settings(max_examples=120, deadline=None)
@given(mask=hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)))
def test_all_codes_equal_those_of_pycocotools(mask: np.ndarray) -> None:
    found = dict(encode_all(mask))
    assert list(found) == sorted(set(mask.ravel().tolist()))
    for value, rle in found.items():
        assert rle == codec.encode(np.asfortranarray(mask == value, dtype=np.uint8))


def test_a_large_mask_round_trips() -> None:
    rng = np.random.default_rng(0)
    mask = to_size(rng.integers(0, 400, (40, 50)).astype(np.uint16), (333, 777))
    total = sum(codec.decode(rle).astype(np.int64) * value for value, rle in encode_all(mask))
    assert (total == mask).all()


def load(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    run(**write_run(tmp_path))
    return tmp_path / "export"


def test_png_masks_have_the_image_size_and_the_palette(exported: Path) -> None:
    for image_id, mask in masks_of(3).items():
        with Image.open(exported / "masks" / f"{image_id}.png") as image:
            assert image.mode == "P"
            assert (np.asarray(image) == to_size(mask, SIZES[image_id])).all()
            table = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
        assert (table[:4] == palette(4)).all()
        assert tuple(table[0]) == BACKGROUND
        assert tuple(table[255]) == IGNORE


def test_coco_gives_the_masks_back(exported: Path) -> None:
    coco = load(exported / "coco.json")
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == ["cluster_1", "cluster_2", "cluster_3"]
    assert [c["color"] for c in coco.loadCats(coco.getCatIds())] == palette(4)[1:].tolist()
    assert [i["file_name"] for i in coco.loadImgs(coco.getImgIds())] == ["a/one.JPG", "a/two.JPG", "b.JPG"]
    masks = masks_of(3)
    for image in coco.loadImgs(coco.getImgIds()):
        whole = to_size(masks[image["maskmill_id"]], SIZES[image["maskmill_id"]])
        assert (image["height"], image["width"]) == whole.shape
        painted = np.zeros(whole.shape, np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            segment = coco.annToMask(annotation).astype(bool)
            rows, columns = np.nonzero(segment)
            assert annotation["area"] == segment.sum()
            assert annotation["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation["iscrowd"] == 0
            painted[segment] = annotation["category_id"]
        assert (painted == np.where(whole == 255, 0, whole)).all()


def test_coco_regions_are_the_proposals_with_cluster_and_score(exported: Path) -> None:
    coco = load(exported / "coco_regions.json")
    ids = {image["id"]: image["maskmill_id"] for image in coco.loadImgs(coco.getImgIds())}
    assert list(ids.values()) == list(SIZES)  # an image without a region stays listed
    found = []
    for annotation in coco.loadAnns(coco.getAnnIds()):
        image = ids[annotation["image_id"]]
        region = annotation["region"]
        assert (coco.annToMask(annotation) == to_size(SEGMENTS[image] == region, SIZES[image])).all()
        found.append((image, region, annotation["category_id"] - 1, annotation["distance"], annotation["score"]))
    assert found == REGIONS


def test_regions_have_a_confidence_where_labels_calibrated_it(tmp_path: Path, exported: Path) -> None:
    """The column of the assignments reaches the regions and, as a mean, the table; without it nothing changes."""
    told = {"kind": "platt", "regions": 70, "images": 4, "sentence": "calibrated on 70 regions"}
    assert "confidence" not in read_json(exported / "export.json")
    arguments = write_run(tmp_path / "sure")
    sure = {("a/one", 1): 0.25, ("a/one", 2): 0.5, ("b", 2): 0.75}
    for file in arguments["files"].assignments:
        table = read_table(file)
        keys = zip(table["image"].to_pylist(), table["region"].to_pylist(), strict=True)
        write_table(file, table.append_column("confidence", pa.array([sure[key] for key in keys], pa.float32())))
    names = {"classes": [], "examples": [], "calibration": told}
    write_json(tmp_path / "classes.json", names, Provenance.of("taxonomy", {}))
    arguments["files"] = replace(arguments["files"], classes=tmp_path / "classes.json")
    run(**arguments)
    coco = load(tmp_path / "sure/export/coco_regions.json")
    ids = {image["id"]: image["maskmill_id"] for image in coco.loadImgs(coco.getImgIds())}
    found = {(ids[a["image_id"]], a["region"]): a["confidence"] for a in coco.loadAnns(coco.getAnnIds())}
    assert found == sure
    assert coco.dataset["info"]["confidence"] == told["sentence"]
    assert read_json(tmp_path / "sure/export/export.json")["confidence"] == told["sentence"]
    rows = table_of(tmp_path / "sure/export/clusters.csv")
    assert [row["calibrated"] for row in rows] == ["", "0.5000", "", "0.5000"]
    assert [row["confidence"] for row in rows] == [row["confidence"] for row in table_of(exported / "clusters.csv")]
    assert "calibrated" not in table_of(exported / "clusters.csv")[0]


def test_clusters_csv_counts(exported: Path) -> None:
    whole = {i: to_size(mask, SIZES[i]) for i, mask in masks_of(3).items()}
    rows = table_of(exported / "clusters.csv")
    assert [row["name"] for row in rows] == ["background", "cluster_1", "cluster_2", "cluster_3"]
    total = sum(mask.size for mask in whole.values())
    for cluster, row in enumerate(rows):
        pixels = sum(int((mask == cluster).sum()) for mask in whole.values())
        assert int(row["pixels"]) == pixels
        assert float(row["share"]) == pytest.approx(pixels / total, abs=1e-6)
        assert int(row["images"]) == sum((mask == cluster).any() for mask in whole.values())
        assert row["colour"] == hexadecimal(palette(4)[cluster])
    assert [row["regions"] for row in rows] == ["0", "2", "0", "1"]
    assert [row["confidence"] for row in rows] == ["", "0.7000", "", "0.7000"]
    assert rows[1]["typical"] == "b a/one"  # by distance to the centre
    shares = {i: (mask == 2).mean() for i, mask in whole.items()}
    assert rows[2]["typical"].split() == sorted(shares, key=lambda i: -shares[i])  # by share, without regions
    assert "class" not in rows[0]


def test_scores_name_the_clusters(tmp_path: Path) -> None:
    entry = {"protocol": {"name": "hungarian_iou"}, "matching": {"2": "dog"}, "per_class": {"dog": 0.25, "cat": None}}
    many = {"protocol": {"name": "many_to_one"}, "matching": {"1": "dog", "2": "dog"}, "per_class": {"dog": 0.5}}
    write_json(tmp_path / "scores.json", {"scores": [many, entry]}, Provenance.of("evaluate", {}))
    run(**write_run(tmp_path), scores=tmp_path / "scores.json")
    rows = table_of(tmp_path / "export/clusters.csv")
    assert [(row["class"], row["class_iou"]) for row in rows] == [("", ""), ("", ""), ("dog", "0.2500"), ("", "")]


def test_token_recipes_have_no_regions(tmp_path: Path) -> None:
    keywords = write_run(tmp_path)
    keywords["files"] = replace(keywords["files"], segments=(), assignments=(), regions=())
    run(**keywords)
    written = {str(p.relative_to(tmp_path / "export")) for p in (tmp_path / "export").rglob("*") if p.is_file()}
    pngs = {f"masks/{i}.png" for i in SIZES}
    assert written == pngs | {"coco.json", "clusters.csv", "export.json"}
    run(**(keywords | {"params": {"masks": False, "coco": False}}))
    assert {p.name for p in (tmp_path / "export").iterdir()} == {"clusters.csv", "export.json"}
    assert read_json(tmp_path / "export/export.json")["provenance"]["stage"] == "export"


def test_more_clusters_than_a_palette_holds(tmp_path: Path) -> None:
    run(**write_run(tmp_path, clusters=300))
    whole = to_size(masks_of(300)["b"], SIZES["b"])
    with Image.open(tmp_path / "export/masks/b.png") as image:
        assert image.mode == "I;16"
        assert (np.asarray(image) == whole).all()
    coco = load(tmp_path / "export/coco.json")
    image_id = next(i["id"] for i in coco.loadImgs(coco.getImgIds()) if i["maskmill_id"] == "b")
    found = {a["category_id"] for a in coco.loadAnns(coco.getAnnIds(image_id))}
    assert found == set(np.unique(whole).tolist()) - {0, 65535}


def test_the_result_does_not_depend_on_the_order_of_files(tmp_path: Path) -> None:
    first = write_run(tmp_path)
    run(**first)
    files = {k: list(reversed(v)) for k, v in vars(first["files"]).items() if isinstance(v, list)}
    run(**(first | {"files": replace(first["files"], **files), "out_folder": tmp_path / "again"}))
    for name in ("coco.json", "coco_regions.json", "clusters.csv", "export.json", "masks/a/one.png"):
        assert (tmp_path / "export" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_the_result_does_not_depend_on_the_order_of_images(tmp_path: Path) -> None:
    """Stores follow their features, which follow the sizes of the images: images are matched by id."""
    for step in (1, -1):
        run(**write_run(tmp_path / f"{step}", step=step))
    for name in ("coco.json", "coco_regions.json", "clusters.csv", "masks/a/one.png", "masks/a/two.png"):
        assert (tmp_path / "1/export" / name).read_bytes() == (tmp_path / "-1/export" / name).read_bytes()


def test_the_student_travels_with_what_it_needs(tmp_path: Path) -> None:
    made = Provenance.of("rounds", {"features": {"semantic": {}}})
    write_tensors(tmp_path / "student.safetensors", {"x": np.zeros(3)}, made)
    facts = {"architecture": "vit_small_patch8_224.dino"}
    weights_file.write(tmp_path / "weights/vit_small_patch8_224.dino.safetensors", {"w": torch.ones(2)}, facts)
    keywords, files = write_run(tmp_path), {"student": tmp_path / "student.safetensors"}
    sets = {"semantic": FEATURES, "grouping": FEATURES}
    run(**keywords, segmenter=SegmenterParts(files, sets, tmp_path / "weights"))
    folder = tmp_path / "export/segmenter"
    assert read_json(tmp_path / "export/export.json")["segmenter"] == "student"
    assert (folder / "student.safetensors").read_bytes() == (tmp_path / "student.safetensors").read_bytes()
    body = read_json(folder / "features.json")
    assert list(body["features"]) == ["semantic"]
    assert body["features"]["semantic"]["backbone"] == FEATURES["backbone"]
    assert [p.name for p in (folder / "weights").iterdir()] == ["vit_small_patch8_224.dino.safetensors"]
    with pytest.raises(StoreError, match="sees feature set 'semantic', which the recipe does not have"):
        run(**keywords, segmenter=SegmenterParts(files, {"grouping": FEATURES}))
    with pytest.raises(StoreError, match=r"vit_small_patch8_224\.dino\.safetensors: no such weights"):
        run(**keywords, segmenter=SegmenterParts(files, sets, tmp_path / "cut"))
    assert (folder / "student.safetensors").is_file()  # a failed run leaves the finished one


def test_clusters_travel_with_what_they_need(tmp_path: Path) -> None:
    for name, k in (("codebook", 3), ("other", 4)):
        book = Codebook(np.eye(k, 4, dtype=np.float32), np.ones(k, np.int64), 0.0, True)
        write_codebook(tmp_path / f"{name}.safetensors", book)
    write_tensors(tmp_path / "model.safetensors", {"w": np.ones(2)})
    keywords, files = write_run(tmp_path), {"codebook": tmp_path / "codebook.safetensors"}
    whole = files | {"reduction": tmp_path / "model.safetensors"}
    run(**keywords, segmenter=SegmenterParts(whole, {"semantic": FEATURES}, refine={"method": "crf"}, upsample=4))
    folder = tmp_path / "export/segmenter"
    assert {file.name for file in folder.iterdir()} == {
        "codebook.safetensors", "reduction.safetensors", "features.json",
    }  # fmt: skip
    body = read_json(folder / "features.json")
    assert (body["upsample"], body["refine"], body["clusters"]) == (4, {"method": "crf"}, 3)
    assert body["files"] == ["codebook", "reduction"]
    assert read_json(tmp_path / "export/export.json")["segmenter"] == "clusters"
    with pytest.raises(StoreError, match="semantic, grouping; clusters are those of one"):
        run(**keywords, segmenter=SegmenterParts(files, {"semantic": FEATURES, "grouping": FEATURES}))
    with pytest.raises(StoreError, match=r"other\.safetensors: not the clusters of the masks, which have 3"):
        run(**keywords, segmenter=SegmenterParts({"codebook": tmp_path / "other.safetensors"}, {"semantic": FEATURES}))
    run(**keywords, segmenter=SegmenterParts({}))
    assert read_json(tmp_path / "export/export.json")["segmenter"] is None


def test_errors_leave_nothing_behind(tmp_path: Path) -> None:
    keywords = write_run(tmp_path)
    with pytest.raises(StoreError, match="nothing for shard 's1'"):
        run(**(keywords | {"files": replace(keywords["files"], masks=keywords["files"].masks[:1])}))
    write_table(tmp_path / "regions/s1.parquet", pa.table({"image": ["b"], "region": [1], "score": [0.1]}))
    with pytest.raises(StoreError, match=r"s1\.parquet: has no region 2 of 'b'"):
        run(**keywords)
    with RaggedWriter(tmp_path / "masks/s1.zarr", "masks", dtype="uint8", attrs={"clusters": 3, "ignore": 255}) as out:
        out.append("b", np.array([[9]], np.uint8))
    token = keywords | {"files": replace(keywords["files"], segments=())}
    with pytest.raises(StoreError, match="mask of 'b': values beyond 3 clusters"):
        run(**token)
    with RaggedWriter(tmp_path / "masks/s1.zarr", "masks", dtype="uint8", attrs={"clusters": 5, "ignore": 255}) as out:
        out.append("b", np.array([[1]], np.uint8))
    with pytest.raises(StoreError, match=r"s1\.zarr: 5 clusters, other shards have 3"):
        run(**token)
    (tmp_path / "masks/s1.zarr").rename(tmp_path / "masks/old.zarr")
    shutil.copytree(tmp_path / "masks/s0.zarr", tmp_path / "masks/s1.zarr")
    with pytest.raises(StoreError, match=r"s1\.zarr: holds other images than the manifest's shard"):
        run(**token)
    assert not [p for p in tmp_path.iterdir() if "export" in p.name]


def test_a_coco_file_is_json_without_images_of_a_category(exported: Path) -> None:
    body = json.loads((exported / "coco.json").read_text())
    assert list(body) == ["info", "licenses", "categories", "images", "annotations"]
    assert body["info"]["recipe"] == "comus"
    assert not [p for p in exported.iterdir() if p.suffix in (".images", ".annotations")]
