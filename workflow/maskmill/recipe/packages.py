"""The Python packages that the methods of a run import, known without importing them.

Methods import torch and friends inside their functions, so a package that is missing would show in the job that needs
it, hours after the start. Here the import statements of the methods' files are read, and of the files of maskmill that
they import; each file once, in a few milliseconds for a whole run.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from maskmill.errors import ConfigError
from maskmill.recipe import backbones
from maskmill.recipe.model import Recipe, Run
from maskmill.recipe.stages import BY_NAME

PACKAGE = Path(__file__).parents[1]
OPTIONAL = {"cuml", "torchvision"}  # taken instead of a dependency, or asked for in a guard
NAMES = {
    "PIL": "pillow",
    "open_clip": "open_clip_torch",
    "sklearn": "scikit-learn",
    "umap": "umap-learn",
    "yaml": "pyyaml",
}  # else as it is imported
EXTRAS = {"open_clip": "text"}  # of the project, that bring what only some methods need
STATEMENT = re.compile(
    r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)|import[ \t]+(\w[\w., \t]*))", re.M
)


def check_packages(run: Run) -> None:
    """Raises ConfigError where a method of the run needs a package that is not installed; names both."""
    for recipe in run.recipes.values():
        for where, module in _methods(recipe):
            for package in sorted(foreign(module)):
                if not _installed(package):
                    what = f'".[{EXTRAS[package]}]"' if package in EXTRAS else "."
                    raise ConfigError(
                        f"recipe {recipe.name}: {where} needs the Python package {NAMES.get(package, package)}, which "
                        f"is not installed for {sys.executable}; install maskmill with what it needs: "
                        f"pip install -c constraints.txt -e {what} (docs/reuse.md)"
                    )


def _methods(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(key and method as in YAML, module) of every stage of a recipe, of backbones without a network, and of what fits
    masks to edges.
    """
    for stage_name, module in (("inputs", "inputs.run"), ("features", "backbones.weights"), ("export", "export.run")):
        yield f"stage {stage_name}", f"maskmill.{module}"
    for name, feature_set in recipe.features.items():
        if builder := backbones.of(feature_set.backbone).builder:
            yield f"features.{name}.backbone: {feature_set.backbone}", builder.partition(":")[0]
    for stage in (*recipe.stages.values(), *recipe.later.values()):
        if stage.method is not None:
            yield (
                f"{stage.name}.{BY_NAME[stage.name].method_key}: {stage.method}",
                f"maskmill.{stage.name}.{stage.method}",
            )
        if (refine := getattr(stage.settings, "refine", None)) is not None:
            yield f"{stage.name}.refine: {refine.method}", f"maskmill.refine.{refine.method}"


@cache
def foreign(module: str) -> frozenset[str]:
    """Top names of the packages of others that a module of maskmill imports, itself or through maskmill."""
    seen: set[Path] = set()
    found: set[str] = set()
    left = _files(module)
    while left:
        file = left.pop()
        if file in seen:
            continue
        seen.add(file)
        for name in _imports(file):
            if name == "maskmill" or name.startswith("maskmill."):
                left += _files(name)
            else:
                found.add(name.partition(".")[0])
    return frozenset(found - set(sys.stdlib_module_names) - OPTIONAL)


@cache
def _imports(file: Path) -> frozenset[str]:
    """Whole names of the modules that a file imports, wherever in it; also those of names taken from a module."""
    found: set[str] = set()
    for source, names, plain in STATEMENT.findall(file.read_text(encoding="utf-8")):
        if source:
            taken = [word.split()[0] for word in re.sub(r"[()]|#.*", "", names).split(",") if word.strip()]
            found |= {source} | {f"{source}.{name}" for name in taken if source.startswith("maskmill")}
        else:
            found |= {word.split()[0] for word in plain.split(",") if word.strip()}
    return frozenset(found)


def _files(module: str) -> list[Path]:
    """The file of a module of maskmill, all files of a method in a folder; none where the name is no module."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    if path == PACKAGE:
        return []
    if path.is_dir():
        method = path.parent != PACKAGE
        return sorted(path.glob("*.py")) if method else [path / "__init__.py"]
    return [path.with_suffix(".py")] if path.with_suffix(".py").is_file() else []


@cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
