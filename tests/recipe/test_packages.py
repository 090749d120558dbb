"""What a recipe imports is installed with maskmill: no recipe of the README needs a further step."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from maskmill.recipe.model import Stage
from maskmill.recipe.packages import EXTRAS, NAMES
from maskmill.recipe.resolve import load

ON_GPUS = {"cuml"}  # taken instead of a dependency where somebody has installed it
ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "workflow/maskmill"
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))


@cache
def imports(file: Path) -> frozenset[str]:
    """Whole names of the modules that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def ours(name: str) -> list[Path]:
    """The files of a module of maskmill; those of a method in a folder all together."""
    path = PACKAGE.joinpath(*name.split(".")[1:])
    if path.is_dir():
        return sorted(path.glob("*.py"))
    return [path.with_suffix(".py")] if path.with_suffix(".py").is_file() else []


def foreign(file: Path, seen: set[Path]) -> set[str]:
    """Top names of the packages of others that a file imports, itself or through files of its stage."""
    if file in seen:
        return set()
    seen.add(file)
    found = {name.partition(".")[0] for name in imports(file)} - {"maskmill"}
    stage = file.relative_to(PACKAGE).parts[0]
    for name in imports(file):
        if name.startswith(f"maskmill.{stage}."):
            for other in ours(name):
                found |= foreign(other, seen)
    return found - set(sys.stdlib_module_names)


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_a_recipe_imports_is_installed(recipe: str) -> None:
    resolved = load({"recipes": [recipe]}, ROOT / "recipes").recipes[recipe]
    stages: list[Stage] = [*resolved.stages.values(), *resolved.later.values()]
    for stage in stages:
        for file in ours(f"maskmill.{stage.name}.{stage.method}") if stage.method else []:
            for package in foreign(file, set()) - ON_GPUS:
                importlib.import_module(package)


def test_every_package_that_is_imported_is_a_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[\[<>=]", each)[0].lower() for each in project["dependencies"]}
    given_by = importlib.metadata.packages_distributions()
    used = {name.partition(".")[0] for file in PACKAGE.rglob("*.py") for name in imports(file)}
    used -= set(sys.stdlib_module_names) | {"maskmill"} | ON_GPUS
    # Snakemake brings its plugin interface, jinja2 its markupsafe; torchvision is only asked for by name, in a guard.
    used -= {"snakemake_interface_executor_plugins", "markupsafe", "torchvision"}
    for package, extra in EXTRAS.items():  # only some methods need them, and say so when a run is planned
        named = {re.split(r"[\[<>=]", each)[0].lower() for each in project["optional-dependencies"][extra]}
        assert {NAMES.get(package, package).lower()} <= named
        used.discard(package)
    absent = {name for name in used if not {each.lower() for each in given_by.get(name, [name])} & declared}
    assert absent == set()
