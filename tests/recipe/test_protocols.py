"""Every method of the registry brings what the protocol of its stage asks for: attributes, functions, parameters."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType
from typing import get_args

import numpy as np
import pytest

from maskmill.cut import Need
from maskmill.images.tree import Tree, most_nodes
from maskmill.recipe import registry
from maskmill.recipe.base import Model

STAGES = ("cut", "regions", "reduce", "foreground", "cluster", "taxonomy", "refine")
METHODS = [(stage, name) for stage in STAGES for name in registry.available(stage)]


def functions(protocol: type) -> dict[str, inspect.Signature]:
    """The functions of a protocol and of those that it extends."""
    found = {name: member for base in protocol.__mro__ for name, member in vars(base).items() if base is not object}
    return {
        name: inspect.signature(member)
        for name, member in found.items()
        if inspect.isfunction(member) and not name.startswith("_")
    }


def asked(stage: str, module: ModuleType) -> type:
    """The protocol that a method must satisfy, by its traits."""
    package = importlib.import_module(f"maskmill.{stage}")
    traits = module.TRAITS
    name = "Source" if stage == "taxonomy" else "Method"
    if stage == "cut" and traits.batched:
        name = "BatchedMethod"
    if stage == "reduce" and traits.fitted:
        name = "FittedMethod"
    if stage == "cluster" and traits.counted:
        name = "CountedMethod"
    if stage == "regions" and traits.pools:
        name = "CropPooling" if traits.photos else "TokenPooling"
    protocol: type = getattr(package, name)
    return protocol


@pytest.mark.parametrize(("stage", "name"), METHODS)
def test_a_method_satisfies_the_protocol_of_its_stage(stage: str, name: str) -> None:
    module = registry.load(stage, name)
    assert issubclass(module.Params, Model)
    assert type(module.TRAITS) is importlib.import_module(f"maskmill.{stage}").Traits
    for function, wanted in functions(asked(stage, module)).items():
        assert inspect.isfunction(getattr(module, function, None)), f"{stage}.{name} has no {function}"
        expected = [p for p in list(wanted.parameters.values())[1:] if p.kind is not p.VAR_KEYWORD]
        given = list(inspect.signature(getattr(module, function)).parameters.values())
        assert [p.name for p in given[: len(expected)]] == [p.name for p in expected], function
        for more in given[len(expected) :]:
            given_by_name = more.name in MORE.get((stage, function), ())
            assert more.default is not more.empty or given_by_name, f"{function}: {more.name}"


# Functions whose further parameters are given by name, and the names that they may have.
MORE = {("cut", "cut"): set(get_args(Need)), ("cluster", "fit"): {"images", "foreground", "head"}}


@pytest.mark.parametrize("name", registry.available("cut"))
def test_a_cut_asks_for_what_it_takes(name: str) -> None:
    module = registry.load("cut", name)
    more = set(list(inspect.signature(module.cut).parameters)[4:])
    assert more <= MORE["cut", "cut"]
    assert set(module.needs(module.Params())) <= more
    assert ("colour" in more) == module.TRAITS.colour


@pytest.mark.parametrize("name", registry.available("cut"))
def test_a_cut_says_how_many_segments_it_finds(name: str) -> None:
    module = registry.load("cut", name)
    assert 1 <= module.regions_per_image(module.Params(), 7) <= 254


@pytest.mark.parametrize("name", registry.available("cut"))
def test_a_cut_of_trees_says_the_parents_and_scores_of_all_nodes(name: str) -> None:
    module = registry.load("cut", name)
    if not module.TRAITS.tree:
        return
    params = module.Params()
    tokens = np.random.default_rng(0).standard_normal((9, 11, 5)).repeat(2, 0).astype(np.float32)
    needed = {"backbone": "colour"} if "backbone" in module.needs(params) else {}
    segments, found = module.cut(tokens, params, 0, "a", **needed)
    length = most_nodes(module.regions_per_image(params, 0))
    assert found["parents"].shape == found["scores"].shape == (length,)
    assert found["parents"].dtype == found["scores"].dtype == np.float32
    tree = Tree.of(found["parents"], int(segments.max()), name)
    assert segments.max() == tree.leaves <= module.regions_per_image(params, 0)
    assert not found["scores"][tree.nodes :].any()


@pytest.mark.parametrize("name", registry.available("cluster"))
def test_a_clustering_takes_what_its_traits_say(name: str) -> None:
    module = registry.load("cluster", name)
    more = set(list(inspect.signature(module.fit).parameters)[4:])
    assert more == ({"images", "foreground"} if module.TRAITS.reads_images else set()) | (
        {"head"} if module.TRAITS.reads_head else set()
    )


@pytest.mark.parametrize("name", registry.available("reduce"))
def test_a_reduction_says_what_it_makes_and_takes(name: str) -> None:
    module = registry.load("reduce", name)
    params = module.Params()
    assert module.dimensions(params, 384) == getattr(params, "dimensions", 384)  # as they are where it has none
    assert (module.memory_gb(params) > 0) == (module.row_bytes(384, params) > 0) == module.TRAITS.bounded_memory
