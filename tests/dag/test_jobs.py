"""What runs again after which change, on the graph of jobs; two real dry runs are in tests/workflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maskmill.dag.files import Graph
from maskmill.dag.jobs import Job, jobs, run_again
from maskmill.recipe.resolve import load

ROOT = Path(__file__).parents[2]
SHARDS = ("s0000000000", "s0000000001", "s0000000002")
BASE = {"recipes": ["kmeans", "comus"], "preset": "small", "labels": "labels"}
AFTER_CLUSTERS = {"cluster_fit", "cluster_map", "paint_limits", "paint", "rounds_train", "rounds_predict", "evaluate",
                  "export", "report", "taxonomy_survey"}  # fmt: skip
UNPAINTED = {"cluster_fit", "taxonomy_survey"}  # what has nothing to do with how clusters are painted
COMPARED = {"cluster_candidate", "evaluate_candidates"}  # of recipes that cluster tokens


def made(config: dict[str, Any], shards: tuple[str, ...] = SHARDS) -> dict[str, Job]:
    return jobs(Graph(load(config, ROOT / "recipes"), lambda: shards))


def again(change: dict[str, Any], base: dict[str, Any] = BASE, shards: tuple[str, ...] = SHARDS) -> list[Job]:
    return list(run_again(made(base), made(base | change, shards)).values())


def rules(found: list[Job]) -> set[str]:
    return {job.rule for job in found}


def test_nothing_runs_again_without_a_change() -> None:
    assert again({}) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"report": {"title": "Other"}}, {"report"}),
        ({"export": {"coco": False}}, {"export"}),
        ({"evaluate": {"protocols": ["many_to_one"]}}, {"evaluate", "evaluate_candidates", "export", "report"}),
        ({"rounds": {"checkpoint_steps": 7}}, {"report"}),  # which shows every setting
        ({"adapt": {"steps": 7}}, set()),  # no recipe of the run has a head
        ({"features": {"keep": False}}, set()),
        # shards stay what they are
        ({"inputs": {"shard_size": 7}}, {"inputs", "evaluate", "evaluate_candidates", "export", "report"}),
        ({"cluster": {"max_fit_points": 700}}, AFTER_CLUSTERS | COMPARED),
        ({"cluster": {"distance": "own"}}, AFTER_CLUSTERS - UNPAINTED),  # the clusters stay what they are
        (
            {"paint": {"upsample": 2}},
            AFTER_CLUSTERS - UNPAINTED - {"cluster_map", "paint_limits"} | {"evaluate_candidates"},
        ),
        ({"paint": {"keep_closest": 0.5}}, AFTER_CLUSTERS - UNPAINTED - {"cluster_map"}),
        ({"cut": {"tau": 0.3}}, AFTER_CLUSTERS | {"cut", "regions"}),
        ({"readers": "group"}, set()),
    ],
)
def test_what_runs_again(change: dict[str, Any], expected: set[str]) -> None:
    assert rules(again(change)) == expected


BESIDE = {"recipes": ["u2seg"], "preset": "small", "labels": "labels", "evaluate": {"panoptic": True}}
DEEP = {"recipes": ["depthg"], "preset": "small", "labels": "labels", "inputs": {"depth": "depth"}}
AFTER_STUFF = {"paint", "rounds_train", "rounds_detect", "rounds_predict", "evaluate", "export", "report"}
AFTER_HEAD = {"adapt_map", "cluster_fit", "taxonomy_survey", "paint", "evaluate", "export", "report"} | COMPARED


@pytest.mark.parametrize(
    ("base", "change", "expected"),
    [
        (BESIDE, {"paint": {"stuff": {"covered": 0.5}}}, AFTER_STUFF),  # neither its classes nor the instances
        (BESIDE, {"paint": {"stuff": {"max_fit_points": 700}}}, AFTER_STUFF | {"paint_stuff"}),
        (BESIDE, {"paint": {"stuff": {"features": "grouping"}}}, AFTER_STUFF | {"paint_stuff"}),
        # instances say how many classes there are
        (BESIDE, {"paint": {"stuff": {"clusters": 9}}}, AFTER_STUFF | {"paint_stuff", "paint_instances"}),
        (BESIDE, {"paint": {"upsample": 2}}, AFTER_STUFF | {"paint_instances"}),
        (BESIDE, {"evaluate": {"panoptic": {"min_area": 0.01}}}, {"evaluate", "export", "report"}),
        (BASE, {"evaluate": {"panoptic": True}}, {"evaluate", "export", "report"}),
        (DEEP, {"inputs": {"depth": "other"}}, {"inputs", "adapt_fit"} | AFTER_HEAD),
        # who does not look at depth has the same photos
        (BASE, {"inputs": {"depth": "depth"}}, {"inputs", "evaluate", "evaluate_candidates", "export", "report"}),
    ],
)
def test_what_runs_again_for_stuff_and_depth(base: dict[str, Any], change: dict[str, Any], expected: set[str]) -> None:
    assert rules(again(change, base)) == expected


def test_instances_without_stuff_depend_on_the_section_as_it_is() -> None:
    """What they were made of before there was any stuff."""
    found = made({"recipes": ["cutler"], "preset": "small"})
    asked = {job.depends for job in found.values() if job.rule in ("paint", "paint_instances")}
    assert len(asked) == 1


def test_another_cut_is_reduced_again() -> None:
    reduced = BASE | {"recipes": ["comus"], "reduce": {"method": "pca", "dimensions": 16}}
    found = rules(again({"cut": {"tau": 0.3}}, reduced))
    assert found == AFTER_CLUSTERS | {"cut", "regions", "reduce_fit", "reduce_map"}


def test_a_recipe_runs_again_alone() -> None:
    found = again({"cut": {"tau": 0.3}})
    assert {job.wildcards["recipe"] for job in found if "recipe" in job.wildcards} == {"comus"}


def test_one_round_more_trains_no_student_again() -> None:
    found = again({"rounds": {"count": 3}})
    assert {job.wildcards["round"] for job in found if job.rule.startswith("rounds")} == {"3"}
    assert rules(found) == {"rounds_train", "rounds_predict", "evaluate", "export", "report"}


def test_another_refinement_predicts_again_with_the_same_students_of_round_one() -> None:
    found = again({"rounds": {"refine": "none"}})
    trained = {job.wildcards["round"] for job in found if job.rule == "rounds_train"}
    assert trained == {"2"}  # which learns from the masks that the refinement has changed
    assert {job.wildcards["round"] for job in found if job.rule == "rounds_predict"} == {"1", "2"}


def test_another_seed_and_another_recipe_add_and_repeat_nothing() -> None:
    seeds = again({"seeds": [0, 1]})
    assert {job.wildcards.get("seed") for job in seeds} <= {"1", None}
    assert not rules(seeds) & {"features", "cut", "regions", "reduce_fit"}
    more = again({"recipes": ["kmeans", "comus", "lost"]})
    assert {job.wildcards["recipe"] for job in more if "recipe" in job.wildcards} == {"lost"}
    assert "features" not in rules(more)  # lost cuts the features of comus


def test_an_added_shard_extracts_itself_and_fits_again() -> None:
    found = again({}, shards=(*SHARDS, "s0000000003"))
    mapped = {job.wildcards["shard"] for job in found if job.rule in ("features", "cut", "regions")}
    assert mapped == {"s0000000003"}
    assert {"cluster_fit", "paint", "export", "report"} <= rules(found)


def test_another_threshold_counts_and_fits_no_foreground_again() -> None:
    found = rules(again({"foreground": {"threshold": 0.4}}, {"recipes": ["leopart_cbfe"]}))
    assert found == {"foreground_choose", "cluster_fit", "taxonomy_survey", "paint", "export", "report"}


def test_which_predictions_teach_retrains_from_round_two_on() -> None:
    found = again({"rounds": {"keep_score": 0.9}}, {"recipes": ["cutler"], "preset": "small"})
    assert {job.wildcards["round"] for job in found if job.rule == "rounds_train"} == {"2", "3"}
    assert "paint_instances" not in rules(found)


def test_a_head_that_trains_its_backbone_depends_on_the_photos() -> None:
    base = {"recipes": ["picie"], "preset": "small", "adapt": {"unfreeze": True}}
    assert "adapt_fit" in rules(again({}, base, (*SHARDS, "s0000000003")))
    assert "adapt_fit" not in rules(again({"features": {"semantic": {"dtype": "int8"}}}, base))


def test_a_head_that_sees_photos_beside_its_backbone_depends_on_photos_and_on_tokens() -> None:
    base = {"recipes": ["transfgu"], "preset": "small"}
    assert "adapt_fit" in rules(again({}, base, (*SHARDS, "s0000000003")))
    assert "adapt_fit" in rules(again({"features": {"semantic": {"dtype": "int8"}}}, base))
    assert "adapt_fit" in rules(again({"adapt": {"mass": 0.7}}, base))
    assert "adapt_fit" not in rules(again({"adapt": {"cache_mib": 7}}, base))


SCORED = {"recipes": ["kmeans", "comus"], "preset": "small", "labels": "labels", "evaluate": {"objects": True}}


def count(found: list[Job]) -> dict[str, int]:
    return {rule: sum(job.rule == rule for job in found) for rule in rules(found)}


def test_what_objects_depend_on_runs_again_and_nothing_else() -> None:
    fewer = count(again({"evaluate": {"objects": {"min_area": 0.01}}}, SCORED))
    # comus in rounds 0, 1 and 2; the masks of kmeans have no background, so no foreground of theirs is scored.
    assert fewer == {"evaluate_objects": 1, "evaluate": 3, "export": 1, "report": 1}
    off = count(again({"evaluate": {}}, SCORED))
    assert off == {"evaluate": 3, "export": 1, "report": 1}


def test_pooling_crops_needs_photos_and_weights_but_no_stored_tokens() -> None:
    """With rounds.count 0 nobody reads the semantic tokens: no features job is planned for them."""
    crops = {"recipes": ["comus"], "preset": "small", "regions": {"pool": "crop_cls", "size": 64}}
    found = made(crops | {"rounds": {"count": 0}})
    assert {job.wildcards["features"].partition("-")[0] for job in found.values() if job.rule == "features"} == {
        "vit_small_focus"
    }
    regions = next(job for job in found.values() if job.rule == "regions")
    assert set(regions.inputs) == {"segments", "manifest", "weights"}
    assert regions.inputs["weights"].files == ("resources/weights/efficientnet_lite0.safetensors",)
    changed = rules(list(run_again(made(crops | {"regions": {}, "rounds": {"count": 0}}), found).values()))
    assert {"regions", "cluster_fit", "paint", "report"} <= changed
    assert not {"inputs", "features", "cut", "rounds_train"} & changed


def test_students_on_photos_need_weights_and_no_stored_tokens() -> None:
    photos = {"rounds": {"count": 2, "student": "deeplabv3plus", "encoder": "semantic", "steps": 5}}
    found = [job for job in again(photos) if job.rule == "rounds_train"]
    assert len(found) == 2
    for job in found:
        assert "features" not in job.inputs
        assert job.inputs["weights"].files == ("resources/weights/efficientnet_lite0.safetensors",)


def test_the_logic_of_rounds_reads_what_its_options_name() -> None:
    logic = {"rounds": {"start": "continue", "stop": 0.01, "confidence": 0.5}}
    found = {job.wildcards["round"]: job for job in again(logic) if job.rule == "rounds_train"}
    assert set(found) == {"1", "2"}
    assert not {"before", "earlier", "confidence"} & set(found["1"].inputs)
    assert {"before", "earlier", "confidence"} <= set(found["2"].inputs)


def test_other_evidence_counts_again_and_fits_no_fine_clusters() -> None:
    found = rules(again({"foreground": {"mass": 0.5}}, {"recipes": ["leopart_cbfe"]}))
    assert "foreground_count" in found
    assert "foreground_fit" not in found


def test_a_reduction_of_another_sample_is_fitted_again() -> None:
    found = count(again({"reduce": {"max_fit_points": 200}}, {"recipes": ["umap", "hnne"]}))
    assert found["reduce_fit"] == 2
    assert found["reduce_map"] == 2 * len(SHARDS)


def test_another_head_leaves_the_features_and_the_table_of_nearest_images() -> None:
    base = {"recipes": ["stego"], "preset": "small", "seeds": [0, 1], "labels": "labels"}
    base |= {"evaluate": {"linear_probe": True}}
    found = count(again({"adapt": {"dropout": 0.2}}, base))
    assert (found["adapt_fit"], found["evaluate_codes"]) == (2, 2)
    assert not {"features", "adapt_neighbours", "inputs", "evaluate_probe"} & set(found)
    assert "adapt_fit" not in rules(again({"adapt": {"checkpoint_steps": 7}}, base))
    assert "adapt_fit" not in rules(again({"adapt": {"cache_mib": 7}}, base))


def test_which_predictions_are_kept_from_a_round_on_reruns_what_learns_from_them() -> None:
    """Not the round that made them."""
    base = {"recipes": ["cutler"], "preset": "small", "rounds": {"count": 2}}
    other = {"rounds": {"count": 2, "from_round": {2: {"keep_score": 0.3}}}}
    found = count(again(other, base))
    assert (found["rounds_teach"], found["rounds_train"]) == (len(SHARDS), 1)


CODED = {"recipes": ["kmeans"], "features": {"semantic": {"dtype": "pq", "pq": {"bytes": 32}}}}


def test_codes_are_fitted_once_and_every_shard_reads_the_codec() -> None:
    found = made(CODED)
    fits = [job for job in found.values() if job.rule == "features_pq"]
    assert len(fits) == 1
    assert all(job.inputs["codec"].files == fits[0].outputs for job in found.values() if job.rule == "features")
    export = next(job for job in found.values() if job.rule == "export")
    assert export.inputs["codecs"].files == fits[0].outputs
    assert "features_pq" not in rules(list(made(BASE).values()))


def test_neither_labels_nor_other_images_fit_a_codec_again() -> None:
    """Which images do is in test_coded.py."""
    assert not rules(again({"labels": "labels"}, CODED)) & {"features", "features_pq"}
    assert not rules(again({"features": {"semantic": CODED["features"]["semantic"], "keep": False}}, CODED))  # type: ignore[index]
    found = again({}, CODED, (*SHARDS, "s0000000003"))
    assert [job.wildcards["shard"] for job in found if job.rule == "features"] == ["s0000000003"]
    assert not any(job.rule == "features_pq" for job in found)
