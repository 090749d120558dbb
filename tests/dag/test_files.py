"""What jobs read and write: every file has one maker, and every file list is what the verb of its rule takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from maskmill.cli.app import app
from maskmill.dag.files import Graph, jobs_of_rules, path
from maskmill.dag.jobs import Job, jobs, producer
from maskmill.recipe.model import Run
from maskmill.recipe.resolve import load
from maskmill.recipe.stages import RULES, STAGE_OF, STAGES

ROOT = Path(__file__).parents[2]
RECIPES = sorted(file.stem for file in (ROOT / "recipes").glob("*.yaml"))
SHARDS = ["s0000000000", "s0000000001"]
LABELLED = {
    "labels": "labels",
    "evaluate": {
        "objects": True,
        "linear_probe": True,
        "linear_probe_online": True,
        "retrieval": True,
        "segment_retrieval": True,
    },
}


def resolved(*recipes: str, **config: Any) -> Run:
    return load({"recipes": list(recipes), "seeds": [0, 1]} | config, ROOT / "recipes")


@cache
def graph(recipe: str, preset: str = "small", labelled: bool = True) -> Graph:
    return Graph(resolved(recipe, preset=preset, **(LABELLED if labelled else {})), lambda: SHARDS)


def commands() -> Iterator[tuple[str, str]]:
    """(rule, the text of its command) of every rule file."""
    for spec in STAGES:
        text = (ROOT / f"workflow/rules/{spec.name}.smk").read_text()
        for found in re.finditer(r"^(?:rule|checkpoint) (\w+):\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL):
            shell = found[2].partition("shell:\n")[2]
            yield found[1], " ".join(re.findall(r'"(.*)"', shell))


@cache
def verb(command: str) -> Any:
    """The verb that a rule's command calls."""
    here: Any = typer.main.get_command(app)
    for word in command.removeprefix("{params.run} ").split():
        if word not in getattr(here, "commands", {}):
            break
        here = here.commands[word]
    return here


def options_of(command: Any) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts}


@cache
def known_options() -> dict[str, set[str]]:
    return {rule: options_of(verb(command)) for rule, command in commands()}


def test_every_rule_is_in_the_table_and_in_its_stages_file() -> None:
    assert {rule for rule, _ in commands()} == set(RULES) == set(jobs_of_rules())
    for spec in STAGES:
        text = (ROOT / f"workflow/rules/{spec.name}.smk").read_text()
        assert set(re.findall(r"^(?:rule|checkpoint) (\w+):", text, re.MULTILINE)) == {r.name for r in spec.rules}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("preset", ["small", ""])
def test_every_file_has_one_maker_and_every_option_is_one_of_the_verb(recipe: str, preset: str) -> None:
    known = known_options()
    here = graph(recipe, preset)
    for job in jobs(here).values():  # following a file that no rule writes, or two, is a LookupError
        given = {name: list(source.files) for name, source in job.inputs.items()}
        made = {name: file.format(**job.wildcards) for name, file in jobs_of_rules()[job.rule].outputs.items()}
        words = here.options(job.rule, job.wildcards, given, made).split()
        assert {word for word in words if word.startswith("--")} <= known[job.rule], job.key


def test_options_that_rules_write_out_exist() -> None:
    for rule, command in commands():
        assert set(re.findall(r" (--[a-z-]+)", command)) <= options_of(verb(command)), rule


def test_options_are_rendered_from_the_files_that_the_workflow_hands_over() -> None:
    """A module's prefix moves files; the options follow, folders and NAME=FOLDER pairs included."""
    here = graph("comus")
    job = next(job for job in jobs(here).values() if job.rule == "rounds_train" and job.wildcards["round"] == "2")
    given = {name: [f"moved/{file}" for file in source.files] for name, source in job.inputs.items()}
    made = {"out": "moved/out", "timing": "moved/timing"}
    words = here.options("rounds_train", job.wildcards, given, made).split()
    files = [word.partition("=")[2] or word for word in words if not word.startswith("--")]
    assert files
    assert all(file.startswith("moved/") for file in files)
    run = here.run.recipes["comus"]
    assert f"grouping=moved/results/features/{run.features['grouping'].slug}" in words
    assert f"semantic=moved/results/features/{run.features['semantic'].slug}" in words
    assert words[words.index("--masks") + 1] == "moved/results/recipes/comus/seed0/round1/masks"


def test_a_path_with_a_blank_is_one_word() -> None:
    here = graph("kmeans")
    made, given = {"out": "a b/weights"}, {}
    assert here.options("weights", {"weights": "x"}, given, made) == "--out 'a b/weights'"


def test_a_shards_job_reads_no_file_of_another_shard() -> None:
    """Else the graph has shards x shards edges, and Snakemake plans two thousand shards for an hour."""
    for recipe in RECIPES:
        for job in jobs(graph(recipe)).values():
            if RULES[job.rule].per_shard:
                seen = {name for file in files_of(job) for name in re.findall(r"/(s[0-9a-f]{10})\.", file)}
                assert seen <= {job.wildcards["shard"]}, job.key


def test_a_rule_is_per_shard_exactly_if_its_files_are() -> None:
    for rule, files in jobs_of_rules().items():
        assert all(("{shard}" in pattern) == RULES[rule].per_shard for pattern in files.outputs.values()), rule


def files_of(job: Job) -> list[str]:
    return [file for source in job.inputs.values() for file in source.files]


def test_names_of_one_file_are_told_apart() -> None:
    assert producer("results/recipes/a/seed0/round0/masks/s0123456789.zarr")[0] == "paint"
    assert producer("results/recipes/a/seed0/round10/masks/s0123456789.zarr")[0] == "rounds_predict"
    assert producer("results/recipes/a/seed0/foreground/codebook.safetensors")[0] == "foreground_choose"
    with pytest.raises(LookupError, match="results/nothing: written by no rule"):
        producer("results/nothing")


def test_without_labels_nothing_is_scored() -> None:
    made = {STAGE_OF[job.rule] for job in jobs(graph("comus", preset="", labelled=False)).values()}
    assert made == {spec.name for spec in STAGES} - {"evaluate", "pretrain", "adapt", "foreground", "tracks"}


def test_cuts_take_the_codes_of_the_first_seed_and_clusters_those_of_their_own() -> None:
    here = graph("acseg")
    assert path("adapt_map", recipe="acseg", seed=0, shard=SHARDS[0]) in files_of(
        jobs(here)[path("cut", recipe="acseg", shard=SHARDS[0])]
    )
    stego = jobs(graph("stego"))
    for seed in (0, 1):
        fit = stego[path("cluster_fit", recipe="stego", seed=seed)]
        assert path("adapt_map", recipe="stego", seed=seed, shard=SHARDS[1]) in files_of(fit)
        names = ("prototypes", "kmeans")
        chosen_from = [path("cluster_candidate", recipe="stego", seed=seed, candidate=name) for name in names]
        assert set(chosen_from) < set(files_of(fit))
        assert path("adapt_fit", recipe="stego", seed=seed) in files_of(stego[chosen_from[0]])
        assert path("adapt_fit", recipe="stego", seed=seed) not in files_of(stego[chosen_from[1]])


def test_candidates_are_compared_where_labels_and_a_choice_are() -> None:
    def compared(recipe: str, **config: Any) -> set[str]:
        run = resolved(recipe, labels="labels", preset="small", **config)
        made = jobs(Graph(run, lambda: SHARDS)).values()
        return {job.wildcards["candidate"] for job in made if job.rule == "cluster_candidate"} | {
            job.rule for job in made if job.rule == "evaluate_candidates"
        }

    assert compared("stego") == {"prototypes", "kmeans", "evaluate_candidates"}
    assert compared("stego", cluster={"readout": "kmeans"}) == {"prototypes", "kmeans", "evaluate_candidates"}
    assert compared("kmeans") == {"online", "evaluate_candidates"}
    assert compared("comus") == compared("kmeans", evaluate={"candidates": False}) == set()
    assert compared("stego", evaluate={"candidates": False}, cluster={"readout": "kmeans"}) == {"kmeans"}


def test_what_a_job_depends_on_holds_no_files_and_no_options() -> None:
    """So that another spelling of an option or another folder trains no student again."""
    for recipe in RECIPES:
        for job in jobs(graph(recipe)).values():
            body = json.loads(job.depends)
            assert "version" in body
            if job.rule != "report":  # which shows the run
                assert not re.search(r"results/|resources/|\.zarr|--", job.depends), job.key


def test_needs_follow_what_runs_in_the_job() -> None:
    cutler, head = graph("cutler"), graph("picie")
    wildcards = {"recipe": "cutler", "seed": "0", "round": "1", "shard": SHARDS[0]}
    assert cutler.needs("rounds_train", wildcards).threads == 8  # photos
    assert not cutler.network("rounds_predict", wildcards)  # masks are painted from stored instances
    assert not head.network("adapt_map", {"recipe": "picie", "seed": "0", "shard": SHARDS[0]})
    unfrozen = Graph(resolved("picie", adapt={"unfreeze": True}), lambda: SHARDS)
    assert unfrozen.network("adapt_map", {"recipe": "picie", "seed": "0", "shard": SHARDS[0]})
    assert unfrozen.needs("adapt_fit", {"recipe": "picie", "seed": "0"}).memory == 16000
    frozen = graph("transfgu")  # learns from photos, is applied to tokens
    assert frozen.needs("adapt_fit", {"recipe": "transfgu", "seed": "0"}).memory == 16000
    assert not frozen.network("adapt_map", {"recipe": "transfgu", "seed": "0", "shard": SHARDS[0]})
    eigenmaps = Graph(resolved("comus", reduce={"memory_gb": 20}), lambda: SHARDS)
    assert eigenmaps.needs("reduce_fit", {"recipe": "comus"}).memory == 22000
    for images in (0, 10**6, 10**7):
        many = Graph(resolved("comus"), lambda: SHARDS, images=lambda count=images: count)
        assert many.needs("report", {}).memory == max(3000, 1000 + images * 3 // 10**4)
