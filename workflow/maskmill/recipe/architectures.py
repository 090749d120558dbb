"""timm's names, read from its source: importing timm takes seconds, and every start of Snakemake would pay for it."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from maskmill.errors import ConfigError, nearest
from maskmill.recipe import backbones, checks
from maskmill.recipe.model import Run

HUB = ("hf-hub:", "hf_hub:", "timm/")  # names that only the hub knows
ENTRY = re.compile(r"@register_model\s*\n(?:@[^\n]*\n)*def (\w+)\(")
PRETRAINED = re.compile(r"['\"](\w+)\.([\w.]+)['\"]\s*:")


@cache
def architectures() -> dict[str, frozenset[str]]:
    """Architecture -> tags of its pretrained weights, where the source names them literally; empty without timm."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        return {}
    found: dict[str, set[str]] = {}
    tags: list[tuple[str, str]] = []
    for file in sorted((Path(spec.origin).parent / "models").glob("*.py")):
        text = file.read_text(encoding="utf-8")
        found |= {name: set() for name in ENTRY.findall(text)}
        tags += PRETRAINED.findall(text)
    for name, tag in tags:
        if name in found:
            found[name].add(tag)
    return {name: frozenset(known) for name, known in found.items()}


@cache
def without_cls_token() -> frozenset[str]:
    """The architectures that have no cls token as their source says it, others may have none either.

    Those of a file that knows neither cls tokens nor timm's ViT, and those that are built with `class_token=False`.
    """
    spec, found = importlib.util.find_spec("timm"), set()
    for file in sorted((Path(spec.origin).parent / "models").glob("*.py")) if spec and spec.origin else ():
        text = file.read_text(encoding="utf-8")
        plain = "cls_token" not in text and "class_token" not in text and "VisionTransformer" not in text
        for body in re.split(r"(?=@register_model)", text)[1:]:
            names = ENTRY.findall(body)
            if plain or "class_token=False" in body:
                found |= set(names)
    return frozenset(found)


def check_backbones(run: Run) -> None:
    """Raises ConfigError where a feature set names a backbone that neither maskmill nor the installed timm has.

    And where a stage reads the cls token of one that has none.
    """
    for recipe in run.recipes.values():
        for key, feature_set in ((key, part) for key, each in recipe.features.items() for part in each.parts):
            name = feature_set.backbone
            if not backbones.of(name).network:
                continue
            if not architectures():
                raise ConfigError(
                    f"recipe {recipe.name}: features.{key}.backbone: {name} needs the Python package timm, which is "
                    f"not installed for {sys.executable}; pip install -c constraints.txt -e . (docs/reuse.md)"
                )
            if name in backbones.KNOWN or name.startswith(HUB):
                continue
            if problem := _problem(name, feature_set.checkpoint is None):
                raise ConfigError(f"recipe {recipe.name}: features.{key}.backbone: {name!r} {problem}")
        for stage in checks.asking_for_keys(recipe):
            key = stage.settings.features
            for part in recipe.features[key].parts:
                if part.backbone.partition(".")[0] in without_cls_token():
                    problem = checks.without_cls_token(part.backbone, stage)
                    raise ConfigError(f"recipe {recipe.name}: features.{key}.backbone: {problem}")


def unknown(name: str, known: Iterable[str]) -> str:
    """That a backbone is none of timm's models, with the nearest known name and where all names stand."""
    return (
        f"is not a timm model{nearest(name, [*known, *backbones.KNOWN])}; embedded: {', '.join(backbones.KNOWN)}; "
        "all names: python -c \"import timm; print(timm.list_models('*dino*', pretrained=True))\""
    )


def _problem(name: str, pretrained: bool) -> str:
    """What is wrong with a timm name; nothing where all is well, or where timm alone can say it."""
    architecture, _, tag = name.partition(".")
    known = architectures()
    if architecture not in known:
        return unknown(architecture, known)
    if pretrained and tag and known[architecture] and tag not in known[architecture]:
        full = {f"{architecture}.{each}" for each in known[architecture]}
        return f"has no such weights in timm{nearest(name, full)}; known: {', '.join(sorted(full))}"
    return ""
