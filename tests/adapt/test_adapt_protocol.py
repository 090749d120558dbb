"""Every method of the stage adapt brings what the stage asks of it."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from maskmill.adapt import BackboneMethod, Method, Traits
from maskmill.recipe import registry
from maskmill.recipe.base import Model

METHODS = registry.available("adapt")
KEYS = {"neighbours": {"crops", "neighbours"}, "crops": {"crops"}, "trains_backbone": {"unfreeze"}}  # trait -> Params


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def functions(protocol: type) -> dict[str, Any]:
    """The functions of a Protocol and of those that it extends."""
    return {name: getattr(protocol, name) for name in dir(protocol) if not name.startswith("_")}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_satisfies_the_protocol(name: str) -> None:
    module = registry.load("adapt", name)
    assert isinstance(module.TRAITS, Traits)
    assert issubclass(module.Params, Model)
    protocol = BackboneMethod if module.TRAITS.trains_backbone else Method
    wanted = functions(protocol)
    assert set(wanted) == {"code_length", "build", "fit"}
    for key, function in wanted.items():
        assert parameters(getattr(module, key)) == parameters(function), key


@pytest.mark.parametrize("name", METHODS)
def test_the_parameters_are_those_that_the_traits_promise(name: str) -> None:
    module = registry.load("adapt", name)
    keys = set(module.Params.model_fields)
    assert "batch_size" in keys
    for trait, own in KEYS.items():
        assert (own <= keys) == getattr(module.TRAITS, trait), trait


def test_the_methods_are_files_and_folders() -> None:
    assert {"stego", "hp"} <= set(METHODS)  # a file, and a folder
    assert not {"run", "infer", "files"} & set(METHODS)
