"""The hash of what is asked of a job changes exactly where the job runs again; what another run left is named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskmill.cli.options import section
from maskmill.dag.asked import Asked
from maskmill.dag.files import Graph
from maskmill.dag.jobs import ONE_SHARD, Job, jobs, run_again
from maskmill.errors import ConfigError, StoreError
from maskmill.recipe.resolve import load
from maskmill.store import expected, words
from maskmill.store.artefact import read_json, read_table, read_tensors, write_json, write_table, write_tensors
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.store.words import packed, unpacked

ROOT = Path(__file__).parents[2]
SHARDS = ("s0000000000", "s0000000001", "s0000000002")
BASE = {"recipes": ["kmeans", "comus", "stego", "cutler"], "preset": "small", "labels": "labels", "seeds": [0, 1]}


def made(config: dict[str, Any], shards: tuple[str, ...] = SHARDS) -> tuple[dict[str, Job], dict[str, str]]:
    """The jobs of a run and what is asked of each."""
    graph = Graph(load(config, ROOT / "recipes"), lambda: shards)
    asked, found = Asked(graph), jobs(graph)
    return found, {key: asked.of(job.rule, job.wildcards) for key, job in found.items()}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"cut": {"tau": 0.3}},
        {"cluster": {"clusters": 7}},
        {"cluster": {"distance": "own"}},
        {"paint": {"keep_closest": 0.5}},
        {"rounds": {"count": 3}},
        {"rounds": {"refine": "none"}},
        {"rounds": {"checkpoint_steps": 7}},
        {"adapt": {"steps": 7}},
        {"inputs": {"shard_size": 7}},
        {"evaluate": {"protocols": ["many_to_one"]}},
        {"features": {"grouping": {"size": {"short_side": 224}}}},
        {"readers": "group"},
    ],
    ids=str,
)
def test_the_hash_changes_where_a_job_runs_again(change: dict[str, Any]) -> None:
    (before, old), (now, new) = made(BASE), made(BASE | change)
    changed = {key for key, asked in new.items() if old.get(key) != asked}
    assert changed == set(run_again(before, now))


def test_other_images_change_what_is_asked_of_fits_and_not_of_shards_that_stay() -> None:
    (before, old), (now, new) = made(BASE), made(BASE, (*SHARDS[:2], "s0000000009"))
    kept = {key for key, job in now.items() if job.rule in ("features", "cut", "regions") and key in before}
    assert kept
    assert all(old[key] == new[key] for key in kept)
    assert {key for key, asked in new.items() if old.get(key) != asked} == set(run_again(before, now))


def test_no_two_jobs_are_asked_the_same() -> None:
    _, asked = made(BASE)
    assert len(set(asked.values())) == len(asked)


def told(rule: str, **wildcards: str) -> expected.Expected:
    """What a job of the run is told, with the files where the graph has them."""
    graph = Graph(load(BASE, ROOT / "recipes"), lambda: SHARDS)
    given = {name: list(source.files) for name, source in graph.inputs(rule, wildcards).items()}
    return expected.parse(Asked(graph).job(rule, wildcards, given, ["out"]))


@pytest.mark.parametrize(
    ("rule", "wildcards"),
    [
        ("cut", {"recipe": "comus", "shard": SHARDS[0]}),
        ("cluster_fit", {"recipe": "kmeans", "seed": "0"}),
        ("rounds_train", {"recipe": "comus", "seed": "1", "round": "2"}),
        ("rounds_train", {"recipe": "cutler", "seed": "0", "round": "1"}),
        ("evaluate", {"recipe": "comus", "seed": "1", "round": "0"}),
        ("export", {"recipe": "stego", "seed": "0"}),
        ("report", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_job_is_told_of_each_file_what_its_writer_was_asked(rule: str, wildcards: dict[str, str]) -> None:
    graph, found = Graph(load(BASE, ROOT / "recipes"), lambda: SHARDS), told(rule, **wildcards)
    asked = Asked(graph)
    assert found.asked == asked.of(rule, wildcards)
    sources = graph.inputs(rule, wildcards).values()
    files = [file for source in sources for file in source.files]
    assert files
    assert all(found.of(file) == asked.of_file(file) for file in files)


def test_what_a_large_run_tells_its_report_fits_one_argument() -> None:
    config = BASE | {"seeds": list(range(10)), "rounds": {"count": 3}}
    graph = Graph(load(config, ROOT / "recipes"), lambda: tuple(f"s{i:010x}" for i in range(2000)))
    given = {name: list(source.files) for name, source in graph.inputs("report", {}).items()}
    text = Asked(graph).job("report", {}, given, ["results/report.html"])
    assert len(text) < 60_000
    one = given["masks"][4321]
    assert expected.parse(text).of(one) == Asked(graph).of_file(one)


def write_all(folder: Path, asked: str) -> list[Path]:
    """One artefact of each format, by a job of which `asked` was asked."""
    job = json.dumps({"asked": asked, "reads": {}, "writes": []})
    with expected.commissioned(job):
        made = Provenance.of("cut", {"tau": 0.2})
        with RaggedWriter(folder / "a.zarr", "segments", dtype="uint8", provenance=made) as out:
            out.append("x", np.ones((2, 3), np.uint8))
        import pyarrow as pa

        write_table(folder / "a.parquet", pa.table({"id": ["x"]}), made)
        write_tensors(folder / "a.safetensors", {"w": np.ones(3, np.float32)}, made)
        write_json(folder / "a.json", {"miou": 0.5}, made)
    return [folder / f"a.{ending}" for ending in ("zarr", "parquet", "safetensors", "json")]


READERS = {".zarr": Ragged, ".parquet": read_table, ".safetensors": read_tensors, ".json": read_json}


@pytest.mark.parametrize("by_folder", [False, True])
def test_what_another_configuration_made_is_named(tmp_path: Path, by_folder: bool) -> None:
    """Whether a job is told of a file or of the folder of all shards."""
    right = expected.of_shard("base", "a") if by_folder else "right"
    for path in write_all(tmp_path, right):
        told = {f"{tmp_path}/": "base"} if by_folder else {str(path): "right"}
        with expected.commissioned(json.dumps({"asked": "", "reads": told, "writes": []})):
            READERS[path.suffix](path)
    for path in write_all(tmp_path, "other"):
        told = {f"{tmp_path}/": "base"} if by_folder else {str(path): "right"}
        with (
            expected.commissioned(json.dumps({"asked": "", "reads": told, "writes": []})),
            pytest.raises(StoreError, match=rf"{path.name}: not what the configuration asks .*tau.*delete it"),
        ):
            READERS[path.suffix](path)
        READERS[path.suffix](path)  # by hand nothing is expected


def test_a_store_of_another_shard_in_its_place_is_named(tmp_path: Path) -> None:
    (path, *_) = write_all(tmp_path, expected.of_shard("base", "a"))
    path.rename(tmp_path / "b.zarr")
    with (
        expected.commissioned(json.dumps({"asked": "", "reads": {f"{tmp_path}/": "base"}, "writes": []})),
        pytest.raises(StoreError, match="for another shard, recipe or seed"),
    ):
        Ragged(tmp_path / "b.zarr")


@pytest.mark.parametrize("text", ["", "{}", "[]", "nonsense", '{"asked": 1, "reads": [], "writes": 3}'])
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--job"):
        expected.parse(text)


def test_the_report_of_all_recipes_is_a_command_that_no_script_must_hold() -> None:
    """Snakemake writes a command of more than 65535 characters to a script, whose path it does not quote."""
    names = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
    config = {"recipes": names, "seeds": [0, 1, 2], "labels": "labels", "evaluate": {"objects": True}}
    graph = Graph(load(config, ROOT / "recipes"), lambda: [ONE_SHARD])
    given = {name: source.files for name, source in graph.inputs("report", {}).items()}
    job = Asked(graph).job("report", {}, given, ["results/report.html"])
    plan = packed(graph.depends("report", {}))
    assert len(job) + len(plan) < 65_535 // 2
    assert unpacked(plan) == graph.depends("report", {})


@pytest.mark.parametrize("text", ['{"a": 1}', '{"a": "' + "x" * 20_000 + '"}'])
def test_words_are_what_they_were(text: str) -> None:
    assert unpacked(packed(text)) == text
    assert len(packed(text)) < 9_000


def test_a_python_without_lzma_packs_words_that_every_other_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps({f"results/recipes/{i}/masks": i for i in range(2_000)})
    small = packed(text)
    monkeypatch.setattr(words, "lzma", None)
    plain = packed(text)
    assert len(small) < len(plain) < len(text)
    with pytest.raises(ConfigError, match=r"--params: .*this Python was built without"):
        section(small)
    monkeypatch.undo()
    assert unpacked(plain) == unpacked(small) == text


def test_what_is_no_word_is_an_error() -> None:
    with pytest.raises(ConfigError, match="--params: not valid JSON"):
        section("AAAA")


def test_another_content_of_a_checkpoint_is_another_order(tmp_path: Path) -> None:
    """Its path is the same; without this, what a killed run left of the former weights would be taken for new."""
    file = tmp_path / "own.pth"
    file.write_bytes(b"1")
    own = BASE | {"features": {"grouping": {"backbone": "test_vit", "checkpoint": str(file)}}}
    before, old = made(own)
    os.utime(file, (1, 1))
    assert made(own)[1] == old
    file.write_bytes(b"2")
    now, new = made(own)
    assert before.keys() == now.keys()
    changed = {now[key].rule for key, asked in new.items() if asked != old[key]}
    assert {"weights", "features", "cut", "regions", "rounds_train", "evaluate"} <= changed
    assert "inputs" not in changed
    kept = {key for key, asked in new.items() if asked == old[key]}
    assert {job.wildcards["features"] for key, job in now.items() if key in kept and job.rule == "features"}
