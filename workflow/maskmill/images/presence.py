"""Whether the files that a configuration names are there: asked when Snakemake plans, before any job runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from maskmill.errors import InputError
from maskmill.images.listing import glob_files, is_glob
from maskmill.recipe.model import Run
from maskmill.recipe.origin import Origin, place

KINDS = "a folder, a glob, a CSV/Parquet manifest, a video, or a list of such"


def check_presence(run: Run, origin: str | Origin) -> None:
    """Images, labels and checkpoints of a run exist.

    Raises:
        InputError: one does not; with the key, the file of the configuration, and what may have gone wrong.
    """
    config = run.config
    for source in config.sources:
        if source != "demo":
            check_place(source, Path())
            _check("images", source, origin, f"give {KINDS}")
    if config.labels:
        _check("labels", config.labels, origin, "give a folder of label images, or a table; or leave it out")
    if config.inputs.depth is not None:
        _check("inputs.depth", config.inputs.depth, origin, "give a folder of depth maps; or leave it out")
    for recipe in run.recipes.values():
        if config.inputs.depth is None and recipe.adapt is not None and "depth" in recipe.adapt.module.TRAITS.beside:
            raise InputError(
                f"recipe {recipe.name}: adapt.method {recipe.adapt.method} learns from depth maps; set inputs.depth to "
                "a folder with one of every photo, or leave the recipe out"
            )
        labels = recipe.taxonomy.params.labels if recipe.taxonomy.module.TRAITS.labels else None
        if labels is not None:
            _check("taxonomy.labels", labels, origin, "give a folder of labels of some images")
    for name, recipe in run.recipes.items():
        for key, feature_set in recipe.features.items():
            file = feature_set.checkpoint
            if file is not None and not os.path.exists(file):
                raise InputError(f"recipe {name}: features.{key}.checkpoint: {file!r} does not exist")


def check_place(images: str, results: Path) -> None:
    """Results inside the image folder would be taken for images by the next run: an InputError."""
    folder = Path(images)
    if folder.is_dir() and results.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"images: {images!r} holds the working directory, so results would become images; run in a folder beside it"
        )


def _check(key: str, path: str, origin: str | Origin, advice: str) -> None:
    commented = _commented(key, path, origin)
    if commented and os.path.exists(commented[1]):
        file, whole = commented
        raise InputError(
            f"{file}: {key}: {path!r} was read, and {whole!r} is there: in YAML a comment begins at ' #'; "
            f"quote the path, {key}: '{whole}', or move the comment to a line of its own"
        )
    if is_glob(path):
        if not glob_files(path):
            raise InputError(f"{place(origin, [key])}: {key}: no file matches {path!r} in {os.getcwd()}")
        return
    if os.path.exists(path):
        return
    hints = advice
    if commented:
        hints = (
            f"{commented[0]} has {commented[1]!r}, of which YAML takes all from ' #' on for a comment; quote the path"
        )
    elif "," in path and all(os.path.exists(part.strip()) for part in path.split(",")):
        hints = f"give several as a list: {key}: [{', '.join(part.strip() for part in path.split(','))}]"
    elif not os.path.isabs(path):
        hints = f"it was looked for in {os.getcwd()}; {advice}"
    raise InputError(f"{place(origin, [key])}: {key}: {path!r} does not exist; {hints}")


def _commented(key: str, path: str, origin: str | Origin) -> tuple[str, str] | None:
    """(file, whole text) where a configuration file has more behind an unquoted path, from ` #` on."""
    line = re.compile(rf"^\s*(?:-|{key}\s*:)\s*({re.escape(path)}\s+#.*?)\s*$", re.M)
    for file in _files(origin):
        try:
            found = line.search(Path(file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            continue
        if found is not None:
            return str(file), found.group(1)
    return None


def _files(origin: str | Origin) -> Iterable[str | Path]:
    if isinstance(origin, str):
        return [origin] if os.path.isfile(origin) else []
    return reversed(origin.files)
