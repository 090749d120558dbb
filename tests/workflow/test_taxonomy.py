"""Clusters get names in a real run: from a file, and from labelled images; and only what must runs again."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import chromium
import numpy as np
import pytest
import whole_run
import yaml
from PIL import Image

from maskmill.predict.run import Wanted, predict
from maskmill.store.artefact import read_json, read_table
from maskmill.store.ragged import Ragged

pytestmark = pytest.mark.slow

COLOURS = {"red": (200, 40, 40), "green": (60, 180, 60), "blue": (40, 60, 200)}
FEATURES = {"semantic": {"backbone": "colour", "stride": 4, "size": {"square": 64}}}
TOKENS = {
    "features": FEATURES,
    "regions": {"features": "semantic", "pool": "token"},
    "cluster": {"method": "kmeans", "clusters": 6},
}
REGIONS = {
    "features": FEATURES,
    "cut": {"features": "semantic", "method": "grid", "rows": 2, "columns": 2},
    "regions": {"features": "semantic", "pool": "mean"},
    "cluster": {"method": "kmeans", "clusters": 3},
}


def photo(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture of three colours, red above left, green above right, blue below; and its label, 0 1 2."""
    label = np.zeros((64, 64), np.uint8)
    label[:32, 32:], label[32:] = 1, 2
    colours = np.array(list(COLOURS.values()))[label]
    noise = np.random.default_rng(seed).normal(0, 8, (64, 64, 3))
    return np.clip(colours + noise, 0, 255).astype(np.uint8), label


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, programs: Path) -> Path:
    """A finished run of two recipes without names."""
    folder = tmp_path_factory.mktemp("taxonomy")
    for place in ("photos", "labels"):
        (folder / place).mkdir()
    for i in range(6):
        picture, label = photo(i)
        Image.fromarray(picture).save(folder / f"photos/{i}.png")
        Image.fromarray(label).save(folder / f"labels/{i}.png")
    for name, recipe in (("tokens", TOKENS), ("pieces", REGIONS)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    ran = run(folder, programs)
    assert "taxonomy_survey" in ran
    assert not {"taxonomy_fit", "taxonomy_names", "taxonomy_map"} & ran
    return folder


def run(folder: Path, programs: Path, taxonomy: dict[str, Any] | None = None) -> set[str]:
    """The rules that ran."""
    config = {
        "images": str(folder / "photos"), "labels": str(folder / "labels"),
        "recipes": [str(folder / "tokens.yaml"), str(folder / "pieces.yaml")], "inputs": {"shard_size": 3},
        "evaluate": {"class_names": dict(enumerate(COLOURS)), "candidates": False},
    }  # fmt: skip
    done = whole_run.run(folder, config | ({"taxonomy": taxonomy} if taxonomy else {}), programs)
    return set(re.findall(r"(?:rule|checkpoint) (\w+):", done.stderr + done.stdout)) - {"all"}


def named_by_colour(folder: Path, recipe: str, **more: Any) -> dict[str, Any]:
    """The taxonomy that a person would make: clusters with the colour that most of their places in the survey have."""
    survey = Ragged(folder / f"results/recipes/{recipe}/seed0/taxonomy/survey.zarr")
    owned: dict[str, list[int]] = {name: [] for name in COLOURS}
    votes = np.zeros((int(survey.attrs["clusters"]) + 1, 3), int)
    for _, values in survey.images():
        label = photo(0)[1][2::4, 2::4]
        np.add.at(votes, (values.ravel(), label.ravel()), 1)
    for cluster in range(1, len(votes)):
        owned[list(COLOURS)[int(votes[cluster].argmax())]].append(cluster)
    classes = [{"name": name, "clusters": clusters} for name, clusters in owned.items()]
    return {"taxonomy": 1, "recipe": recipe, "codebook": survey.attrs["codebook"], "classes": classes} | more


def given(folder: Path, document: dict[str, Any]) -> dict[str, Any]:
    path = folder / f"{document['recipe']}.taxonomy.yaml"
    path.write_text(yaml.safe_dump(document))
    return {"source": "file", "file": str(path)}


def masks(folder: Path, recipe: str) -> dict[str, np.ndarray]:
    base = folder / f"results/recipes/{recipe}/seed0/export/masks"
    return {path.stem: np.asarray(Image.open(path)) for path in sorted(base.glob("*.png"))}


def scores(folder: Path, recipe: str) -> dict[str, Any]:
    body = read_json(folder / f"results/recipes/{recipe}/seed0/round0/scores.json")
    return {entry["protocol"]["name"]: entry for entry in body["scores"]}


def test_names_reach_masks_scores_and_new_images(work: Path, programs: Path) -> None:
    document = named_by_colour(work, "tokens")
    ran = run(work, programs, given(work, document))
    assert ran == {"taxonomy_fit", "taxonomy_names", "paint", "evaluate", "export", "report"}
    for mask in masks(work, "tokens").values():
        assert np.mean(mask == photo(0)[1] + 1) > 0.97
    assert scores(work, "tokens")["named"]["accuracy"] > 0.97
    with (work / "results/recipes/tokens/seed0/export/clusters.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["background", *COLOURS]
    coco = json.loads((work / "results/recipes/tokens/seed0/export/coco.json").read_text())
    assert [each["name"] for each in coco["categories"]] == list(COLOURS)
    Image.fromarray(photo(9)[0]).save(work / "new.png")
    predict([work / "new.png"], work / "results/recipes/tokens/seed0/export/segmenter", work / "out", Wanted())
    assert np.mean(np.asarray(Image.open(work / "out/new.png")) == photo(0)[1] + 1) > 0.97
    assert json.loads((work / "out/classes.json").read_text()) == {"0": "background", **{
        str(i): name for i, name in enumerate(COLOURS, 1)}}  # fmt: skip
    # another name and colour paint nothing again
    document["classes"][0] |= {"name": "crimson", "colour": "#aa0011"}
    assert run(work, programs, given(work, document)) == {"taxonomy_names", "evaluate", "export", "report"}
    palette = Image.open(next((work / "results/recipes/tokens/seed0/export/masks").glob("*.png"))).getpalette()
    assert palette is not None
    assert palette[3:6] == [0xAA, 0x00, 0x11]
    # what was resolved is what was given
    resolved = yaml.safe_load((work / "results/recipes/tokens/seed0/taxonomy/taxonomy.yaml").read_text())
    assert [each["name"] for each in resolved["classes"]] == ["crimson", "green", "blue"]
    assert [each["clusters"] for each in resolved["classes"]] == [each["clusters"] for each in document["classes"]]
    path = work / "resolved.yaml"
    path.write_text((work / "results/recipes/tokens/seed0/taxonomy/taxonomy.yaml").read_text())
    before = masks(work, "tokens")
    run(work, programs, {"source": "file", "file": str(path)})
    assert all(np.array_equal(mask, before[name]) for name, mask in masks(work, "tokens").items())


def test_regions_background_and_corrections(work: Path, programs: Path) -> None:
    """A recipe with a cut: blue is background, red is left out, and two images are corrected."""
    document = named_by_colour(work, "pieces")
    red, green, blue = (each["clusters"] for each in document["classes"])
    document |= {"classes": [{"name": "green", "clusters": green}], "background": blue, "ignore": red}
    table = read_table(next((work / "results/recipes/pieces/regions").glob("*.parquet")))
    image = table["image"].to_pylist()[0]
    corner = next(r for i, r, y, x in zip(*(table[c].to_pylist() for c in ("image", "region", "y0", "x0")), strict=True)
                  if i == image and y == 0 and x == 0)  # fmt: skip
    other = next(name for name in "012345" if name != image)
    document["corrections"] = [
        {"image": image, "region": corner, "class": "green"}, {"image": other, "was": "green", "class": "ignore"}
    ]  # fmt: skip
    ran = run(work, programs, given(work, document))
    assert {"taxonomy_map", "paint_limits", "paint"} <= ran
    found = masks(work, "pieces")
    label = photo(0)[1]
    usual = np.array([255, 1, 0])[label]
    assert np.mean(found[image] == np.where(label == 0, 1, usual)) > 0.97
    assert np.mean(found[other] == np.where(label == 1, 255, usual)) > 0.97
    for name in set(found) - {image, other}:
        assert np.mean(found[name] == usual) > 0.97


@pytest.mark.parametrize("method", ["clusters", "probe"])
def test_one_labelled_image_names_everything(work: Path, programs: Path, method: str) -> None:
    (work / "one.txt").write_text("3\n")
    taxonomy = {"source": "examples", "labels": str(work / "labels"), "images": str(work / "one.txt"), "method": method}
    assert {"taxonomy_fit", "paint"} <= run(work, programs, taxonomy)
    for recipe in ("tokens", "pieces"):
        named = scores(work, recipe)["named"]
        assert named["accuracy"] > 0.97
        assert named["images"] == 5, "the image that gave the names is not scored"
        classes = read_json(work / f"results/recipes/{recipe}/seed0/taxonomy/classes.json")
        assert [each["name"] for each in classes["classes"]] == list(COLOURS)
        assert classes["examples"] == ["3"]


def test_another_clustering_takes_over_the_names(work: Path, programs: Path) -> None:
    """The file of six clusters serves ten: each goes where the members were."""
    document = named_by_colour(work, "tokens")
    members = read_json(work / "results/recipes/tokens/seed0/taxonomy/members.json")["members"]
    path = work / "tokens.yaml"
    before = path.read_text()
    path.write_text(yaml.safe_dump(TOKENS | {"cluster": {"method": "kmeans", "clusters": 10}}))
    try:
        run(work, programs, given(work, document | {"members": members}))
        assert scores(work, "tokens")["named"]["accuracy"] > 0.97
        notes = read_json(work / "results/recipes/tokens/seed0/taxonomy/classes.json")["notes"]
        assert any("was written for clusters" in note for note in notes)
        with pytest.raises(RuntimeError, match="without the key members nothing says where the old ones lay"):
            run(work, programs, given(work, document))
    finally:
        path.write_text(before)


def test_keys_pressed_in_the_report_become_masks(programs: Path, work: Path) -> None:
    """The whole way of a person: open the report, name, merge, undo, save, run the same command again."""
    executable = chromium.find()
    if executable is None:
        pytest.skip("no Chromium here (set CHROMIUM to its path)")
    run(work, programs)  # without names
    owned = {row["name"]: set(row["clusters"]) for row in named_by_colour(work, "tokens")["classes"]}
    with chromium.tab(executable) as (page, problems):
        chromium.load(page, work / "results/report.html")
        page.evaluate("document.querySelector('input[name=recipe][value=tokens]').click()")
        page.evaluate("document.activeElement.blur()")
        page.evaluate("document.querySelector('#clusters').scrollIntoView({behavior: 'instant'})")
        page.keyboard.press("k")
        desk = "maskmill.desks.get('tokens')"
        page.keyboard.press("b")  # a mistake
        page.keyboard.press("u")
        for _ in range(6):
            cluster = page.evaluate(f"{desk}.current.cluster")
            name = next(name for name, clusters in owned.items() if cluster in clusters)
            page.keyboard.press("n")
            page.keyboard.type(name)
            page.keyboard.press("Enter")
        assert page.evaluate(f"{desk}.progress.textContent").startswith("6 of 6 clusters, 100 %")
        with page.expect_download() as found:
            page.keyboard.press("w")
        found.value.save_as(work / "saved.yaml")
        assert problems == []
    ran = run(work, programs, {"source": "file", "file": str(work / "saved.yaml")})
    assert {"taxonomy_fit", "paint", "report"} <= ran
    assert not {"features", "cluster_fit", "cut", "taxonomy_survey"} & ran
    place = {each["name"]: each["id"] for each in read_json(
        work / "results/recipes/tokens/seed0/taxonomy/classes.json")["classes"]}  # fmt: skip
    expected = np.array([place[name] for name in COLOURS])[photo(0)[1]]
    for mask in masks(work, "tokens").values():
        assert np.mean(mask == expected) > 0.97


def test_an_edited_file_counts_though_something_was_deleted(work: Path, programs: Path) -> None:
    """A finished run whose file has changed is not as it was: the change is painted, not only the deletion mended."""
    document = named_by_colour(work, "tokens")
    run(work, programs, given(work, document))
    (work / "results/recipes/tokens/seed0/round0/scores.json").unlink()
    document["classes"][0]["clusters"] += document["classes"].pop()["clusters"]  # blue is red now
    assert {"taxonomy_fit", "paint", "evaluate"} <= run(work, programs, given(work, document))
    expected = np.array([1, 2, 1])[photo(0)[1]]
    assert all(np.mean(mask == expected) > 0.97 for mask in masks(work, "tokens").values())
