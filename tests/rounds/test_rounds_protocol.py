"""Every student of the stage rounds brings what the stage asks of it."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

from maskmill.recipe import registry
from maskmill.recipe.base import Model
from maskmill.rounds import InstancePredictor, Method, Predictor, Traits

STUDENTS = registry.available("rounds")
PREDICTORS = {
    "token_head": "token_head.predictor:TokenPredictor",
    "deeplabv3plus": "deeplabv3plus.predictor:PixelPredictor",
    "instance": "instance.predictor:InstancePredictor",
    "freesolo": "freesolo.predictor:SoloPredictor",
    "panoptic": "panoptic.predictor:PanopticPredictor",
}  # what `load` of each student returns


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def functions(protocol: type) -> dict[str, Any]:
    return {name: getattr(protocol, name) for name in dir(protocol) if not name.startswith("_")}


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_satisfies_the_protocol(name: str) -> None:
    module = registry.load("rounds", name)
    assert isinstance(module.TRAITS, Traits)
    assert issubclass(module.Params, Model)
    assert isinstance(module.CLASSIFIER, tuple)
    wanted = functions(Method)
    assert set(wanted) == {"data", "fit", "load"}
    for key, function in wanted.items():
        assert parameters(getattr(module, key)) == parameters(function), key


@pytest.mark.parametrize("name", STUDENTS)
def test_its_predictor_satisfies_the_protocol(name: str) -> None:
    module, _, kind = PREDICTORS[name].partition(":")
    predictor = getattr(importlib.import_module(f"maskmill.rounds.{module}"), kind)
    instances = registry.load("rounds", name).TRAITS.instances
    for key, function in functions(InstancePredictor if instances else Predictor).items():
        assert parameters(getattr(predictor, key)) == parameters(function), key


@pytest.mark.parametrize("name", STUDENTS)
def test_the_parameters_are_those_that_the_traits_promise(name: str) -> None:
    module = registry.load("rounds", name)
    keys = set(module.Params.model_fields)
    assert "upsample" in keys
    assert ({"encoder", "size"} <= keys) == module.TRAITS.photos


@pytest.mark.parametrize("name", STUDENTS)
def test_no_file_of_a_student_hides_one_of_its_functions(name: str) -> None:
    """A file `data.py` in its folder would take the place of the function `data` as soon as it is imported."""
    folder = Path(str(registry.load("rounds", name).__file__)).parent
    assert not [key for key in functions(Method) if (folder / f"{key}.py").exists()]
