"""What a result depends on is known by its content: labels that are rewritten, void, or in a table; a checkpoint."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from small_run import snakemake

from maskmill.backbones.network import import_timm
from maskmill.dag.files import Graph
from maskmill.dag.jobs import jobs as graph_jobs
from maskmill.recipe.resolve import SHIPPED, load

COLOUR = {
    "features": {"semantic": {"backbone": "colour", "stride": 8, "size": {"square": 64}}},
    "regions": {"features": "semantic", "pool": "token"},
    "cluster": {"method": "kmeans", "clusters": 2},
}
LEFT_RIGHT = np.repeat([[0, 1]], 64, axis=0).repeat(32, axis=1).astype(np.uint8)


def prepare(work: Path, label: np.ndarray) -> dict[str, Any]:
    """Two photos, left black and right white, with the same label; the configuration that scores them."""
    (work / "photos").mkdir(parents=True)
    (work / "labels").mkdir()
    (work / "colours.yaml").write_text(yaml.safe_dump(COLOUR))
    for name in "ab":
        Image.fromarray(255 * LEFT_RIGHT).convert("RGB").save(work / f"photos/{name}.png")
        Image.fromarray(label).save(work / f"labels/{name}.png")
    return {"images": str(work / "photos"), "recipes": [str(work / "colours.yaml")], "report": {"gallery": 0}}


def accuracies(work: Path) -> list[float]:
    body = json.loads((work / "results/recipes/colours/seed0/round0/scores.json").read_text())
    return [entry["accuracy"] for entry in body["scores"]]


@pytest.mark.slow
def test_rewritten_labels_are_scored_again_and_nothing_else_is_made_again(tmp_path: Path) -> None:
    config = prepare(tmp_path, LEFT_RIGHT) | {"labels": str(tmp_path / "labels")}
    done = snakemake(tmp_path, config)
    assert done.returncode == 0, done.stderr
    assert accuracies(tmp_path)[0] > 0.99
    for name in "ab":
        Image.fromarray(np.ascontiguousarray(LEFT_RIGHT.T)).save(tmp_path / f"labels/{name}.png")
    done = snakemake(tmp_path, config)
    assert done.returncode == 0, done.stderr
    assert accuracies(tmp_path)[0] == pytest.approx(0.5, abs=0.02)
    ran = set(re.findall(r"(?:rule|checkpoint) (\w+):", done.stderr + done.stdout))
    assert {"inputs", "evaluate"} <= ran <= {"inputs", "evaluate", "evaluate_candidates", "export", "report", "all"}


@pytest.mark.slow
def test_labels_that_leave_one_class_stop_the_run_before_anything_is_computed(tmp_path: Path) -> None:
    config = prepare(tmp_path, 255 * LEFT_RIGHT)
    table = "path,label\n" + "".join(f"photos/{name}.png,labels/{name}.png\n" for name in "ab")
    (tmp_path / "t.csv").write_text(table)
    config["images"] = str(tmp_path / "t.csv")
    done = snakemake(tmp_path, config)
    said = "found 2 label ids, 0 (50 %), 255 (50 %); with evaluate.ignore: [255] 0 alone is scored"
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
    assert not (tmp_path / "results/features").exists()
    done = snakemake(tmp_path, config | {"evaluate": {"ignore": []}})
    assert done.returncode == 0, done.stderr
    assert accuracies(tmp_path)[0] > 0.99
    (tmp_path / "t.csv").write_text("path,label\nphotos/a.png,\nphotos/b.png,labels/b.png\n")
    done = snakemake(tmp_path / "few", config | {"evaluate": {"ignore": []}, "inputs": {"max_images": 1}})
    said = done.stdout + done.stderr
    assert "t.csv: none of the images of this run has a label; inputs.max_images may leave" in said
    assert not (tmp_path / "few/results/features").exists()


def test_labels_of_a_table_of_images_mean_evaluate(tmp_path: Path) -> None:
    config = prepare(tmp_path, LEFT_RIGHT) | {"images": str(tmp_path / "t.csv")}

    def rules(table: str) -> set[str]:
        (tmp_path / "t.csv").write_text(table)
        return {job.rule for job in graph_jobs(Graph(load(config, SHIPPED), lambda: ["s0000000000"])).values()}

    assert "evaluate" in rules("path,label\nphotos/a.png,\nphotos/b.png,labels/b.png\n")
    assert "evaluate" not in rules("path,label\nphotos/a.png,\n")
    assert "evaluate" not in rules("path\nphotos/a.png\n")


@pytest.mark.slow
def test_a_checkpoint_is_known_by_its_content_and_not_by_its_time(tmp_path: Path) -> None:
    import torch

    timm = import_timm()
    config = prepare(tmp_path, LEFT_RIGHT)
    network = {"backbone": "test_vit", "checkpoint": str(tmp_path / "own.pth"), "size": {"square": 64}}
    body = COLOUR | {"features": {"semantic": network}}
    (tmp_path / "colours.yaml").write_text(yaml.safe_dump(body))
    target = next(iter(load(config, SHIPPED).feature_sets.values())).weights_slug
    file = f"resources/weights/{target}.safetensors"

    def save(seed: int) -> None:
        torch.manual_seed(seed)
        torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "own.pth")

    save(0)
    done = snakemake(tmp_path, config, file)
    assert done.returncode == 0, done.stderr
    (tmp_path / "own.pth").touch()
    assert "Nothing to be done" in (again := snakemake(tmp_path, config, "--dry-run", file)).stdout + again.stderr
    save(1)
    planned = snakemake(tmp_path, config, "--dry-run", file)
    assert "Params have changed" in planned.stdout + planned.stderr


@pytest.mark.slow
def test_what_a_former_checkpoint_has_made_is_named(tmp_path: Path) -> None:
    """As a job leaves it that goes on after its driver was killed: the same path, the same settings, other weights."""
    import torch

    timm = import_timm()
    config = prepare(tmp_path, LEFT_RIGHT)
    network = {"backbone": "test_vit", "checkpoint": str(tmp_path / "own.pth"), "size": {"square": 64}}
    (tmp_path / "colours.yaml").write_text(yaml.safe_dump(COLOUR | {"features": {"semantic": network}}))
    codebook = "results/recipes/colours/seed0/cluster/codebook.safetensors"
    for seed in range(2):
        torch.manual_seed(seed)
        torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "own.pth")
        done = snakemake(tmp_path, config, codebook)
        assert done.returncode == 0, done.stderr
        (store,) = tmp_path.glob("results/features/*/*.zarr")
        if seed == 0:
            shutil.copytree(store, tmp_path / "former")
    shutil.rmtree(store)
    (tmp_path / "former").rename(store)
    (store / ".snakemake_timestamp").unlink()  # a driver leaves it when a job has ended
    store.touch()
    (tmp_path / codebook).unlink()
    done = snakemake(tmp_path, config, codebook)
    assert done.returncode != 0
    assert f"{store.name}: not what the configuration asks for now" in done.stdout + done.stderr
