"""The graph where both ends of the flow are divided: more jobs, and the same asked of everything else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from maskmill.dag.asked import Asked
from maskmill.dag.files import Graph
from maskmill.dag.jobs import Job, jobs, run_again
from maskmill.recipe.resolve import load

ROOT = Path(__file__).parents[2]
SHARDS = ("s0000000000", "s0000000001", "s0000000002")
BASE = {"recipes": ["kmeans", "comus"], "preset": "small", "images": "photos"}


def graph(count: int, change: dict[str, Any] | None = None, shards: tuple[str, ...] = SHARDS) -> Graph:
    return Graph(load(BASE | (change or {}), ROOT / "recipes"), lambda: shards, lambda: count, lambda: count)


def counts(found: dict[str, Job]) -> Counter[str]:
    return Counter(job.rule for job in found.values())


def test_few_images_have_the_graph_that_they_had() -> None:
    assert set(jobs(graph(20_000))) == set(jobs(graph(0)))
    assert not {"inputs_list", "inputs_check", "export_shard"} & set(counts(jobs(graph(20_000))))


def test_many_images_add_parts_and_a_job_a_shard() -> None:
    few, many = counts(jobs(graph(0))), counts(jobs(graph(50_000)))
    assert many - few == Counter(inputs_list=1, inputs_check=3, export_shard=2 * len(SHARDS))
    assert not few - many
    assert counts(jobs(graph(50_000, {"inputs": {"max_images": 100}})))["inputs_check"] == 0


@pytest.mark.parametrize("rule", ["inputs", "features", "export", "report"])
def test_how_the_ends_are_divided_is_asked_of_no_other_job(rule: str) -> None:
    """What one job or many have made is taken for the same."""
    asked = []
    for count in (0, 50_000, 10**6):
        made = graph(count)
        found = next(job for job in jobs(made).values() if job.rule == rule)
        asked.append(Asked(made).of(rule, found.wildcards))
    assert len(set(asked)) == 1


def test_a_part_is_told_like_a_shard() -> None:
    """The folder of parts is told as one, and every part has a hash of its own."""
    made = graph(50_000)
    asked = Asked(made)
    found = {asked.of("inputs_check", {"part": f"p{i:04d}"}) for i in range(3)}
    assert len(found) == 3
    source = made.inputs("inputs", {})["checked"]
    text = asked.job("inputs", {}, {"listing": made.inputs("inputs", {})["listing"].files, "checked": source.files}, [])
    assert "results/inputs/checked/" in text
    assert "p0001" not in text


def test_what_is_decided_when_parts_are_gathered_checks_no_file_again() -> None:
    before = jobs(graph(50_000))
    gathered = run_again(before, jobs(graph(50_000, {"inputs": {"shard_size": 7, "max_rejected": 0.5}})))
    assert "inputs" in counts(gathered)
    assert not {"inputs_list", "inputs_check"} & set(counts(gathered))
    checked = counts(run_again(before, jobs(graph(50_000, {"inputs": {"verify": "header"}}))))
    assert checked["inputs_check"] == 3


def test_scores_make_no_entries_again() -> None:
    before = jobs(graph(50_000))
    again = counts(run_again(before, jobs(graph(50_000, {"export": {"coco": False}}))))
    assert set(again) == {"export_shard", "export"}
    scored = jobs(graph(50_000, {"labels": "labels"}))
    other = jobs(graph(50_000, {"labels": "labels", "evaluate": {"protocols": ["many_to_one"]}}))
    found = counts(run_again(scored, other))
    assert found["export"]
    assert not found["export_shard"]  # classes of clusters stand in clusters.csv, which the index writes
