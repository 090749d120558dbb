"""Several clusterings of the same tokens, scored as the stages paint and evaluate would score each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scored_run import write_run

from maskmill.evaluate.candidates import run as compare
from maskmill.evaluate.run import run
from maskmill.images.masks import MaskSet
from maskmill.paint.run import run_tokens
from maskmill.report import _scores
from maskmill.store import codebook as books
from maskmill.store.artefact import read_json
from maskmill.store.codebook import Codebook
from maskmill.store.ragged import RaggedWriter

PAINT = {"upsample": 2}


def book(rows: np.ndarray, **diagnostics: float) -> Codebook:
    stored = {name: np.array(value) for name, value in diagnostics.items()}
    return Codebook(rows.astype(np.float32), np.ones(len(rows), np.int64), 1.0, True, stored)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Tokens of four images in two shards with three directions, labels of three, and two codebooks of three."""
    rng = np.random.default_rng(1)
    classes = {f"i{n}": rng.integers(0, 3, (4, 5)) for n in range(4)}
    labels = {
        name: (np.zeros((4, 5)), c.repeat(8, 0).repeat(8, 1) if name != "i3" else None) for name, c in classes.items()
    }
    write_run(tmp_path, labels)  # type: ignore[arg-type]
    for n, shard in enumerate(("s0", "s1")):
        with RaggedWriter(tmp_path / f"tokens/{shard}.zarr", "features", dtype="float16", depth=3) as out:
            for name in list(classes)[n::2]:
                out.append(name, (np.eye(3)[classes[name]] + rng.normal(0, 0.3, (4, 5, 3))).astype(np.float16))
    good, poor = np.eye(3), np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1]]) / np.array([[2**0.5], [1], [1]])
    books.write(tmp_path / "candidates/kmeans.safetensors", book(good))
    books.write(tmp_path / "candidates/prototypes.safetensors", book(poor))
    books.write(tmp_path / "codebook.safetensors", book(good, candidate=1.0))
    return tmp_path


def test_each_candidate_has_the_scores_of_its_own_masks(scene: Path) -> None:
    tokens = [scene / f"tokens/{shard}.zarr" for shard in ("s0", "s1")]
    names = {name: scene / f"candidates/{name}.safetensors" for name in ("prototypes", "kmeans")}
    params = {"protocols": ["hungarian_iou", "oracle_per_image"], "paint": PAINT, "own": "prototypes", "among": []}
    out = scene / "candidates.json"
    compare(tokens, names | {"chosen": scene / "codebook.safetensors"}, scene / "manifest.parquet", params, out,
            MaskSet("stego", 4, 0))  # fmt: skip
    body = read_json(out)
    assert (body["recipe"], body["seed"], body["round"], body["clusters"]) == ("stego", 4, 0, 3)
    assert body["exported"] == "kmeans"
    assert [each["name"] for each in body["candidates"]] == ["prototypes", "kmeans"]
    for each in body["candidates"]:
        masks = [scene / f"{each['name']}/{path.name}" for path in tokens]
        for path, mask in zip(tokens, masks, strict=True):
            run_tokens(path, names[each["name"]], PAINT, mask)
        only = {"protocols": params["protocols"]}
        run(masks, scene / "manifest.parquet", only, scene / "scores.json", MaskSet("stego", 4, 0))
        assert each["scores"] == read_json(scene / "scores.json")["scores"]
    assert body["candidates"][0]["scores"] != body["candidates"][1]["scores"]


def test_the_report_shows_both_in_one_table_and_says_which_is_exported(scene: Path) -> None:
    tokens = [scene / f"tokens/{shard}.zarr" for shard in ("s0", "s1")]
    names = {name: scene / f"candidates/{name}.safetensors" for name in ("prototypes", "kmeans")}
    params = {"protocols": ["hungarian_iou"], "paint": PAINT, "own": "prototypes", "among": []}
    seed = scene / "results/recipes/stego/seed0"
    compare(tokens, names | {"chosen": scene / "codebook.safetensors"}, scene / "manifest.parquet", params,
            seed / "candidates.json", MaskSet("stego", 0, 0))  # fmt: skip
    masks = [scene / f"own/{path.name}" for path in tokens]
    for path, mask in zip(tokens, masks, strict=True):
        run_tokens(path, scene / "codebook.safetensors", PAINT, mask)
    only = {"protocols": params["protocols"]}
    run(masks, scene / "manifest.parquet", only, seed / "round0/scores.json", MaskSet("stego", 0, 0))
    files = _scores.read_scores(scene / "results", {"stego": 0}, [0])
    (board,) = _scores.boards([*files, *_scores.read_candidates(scene / "results", ["stego"], [0])])
    assert board.leads == ("Recipe", "Round", "Read-out", "Clusters")
    assert [row.leads for row in board.rows] == [
        ("stego", 0, "k-means", 3),
        ("stego", 0, "prototypes of the head, not exported", 3),
    ]
    assert board.texts == (True, False, True, False)
    later = [{**files[0], "recipe": "hp", "readout": "k-means"}, *files]
    (both,) = _scores.boards([*later, *_scores.read_candidates(scene / "results", ["stego"], [0])])
    assert [row.leads[0] for row in both.rows] == ["hp", "stego", "stego"]
    later.append({**files[0], "recipe": "hp", "readout": "prototypes of the head, not exported"})
    (both,) = _scores.boards(later)
    assert [row.leads[0] for row in both.rows] == ["hp", "hp", "stego"]
    (plain,) = _scores.boards([{**files[0], "readout": None}])
    assert plain.leads == ("Recipe", "Round", "Clusters")
