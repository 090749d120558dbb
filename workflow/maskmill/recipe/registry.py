"""Methods by name: a method of a stage is a file `maskmill/<stage>/<name>.py`, or a folder `maskmill/<stage>/<name>/`.

The module defines `Params` (a frozen `maskmill.recipe.base.Model` whose fields are the paper's symbols) and what
else the Protocol of its stage asks for (see the `__init__.py` of the stage). Files and folders that start with an
underscore and those of NO_METHODS are not methods. Listing names imports nothing; methods import torch and friends
inside their functions, so that loading a config stays fast.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from types import ModuleType

from maskmill.errors import ConfigError, nearest

NO_METHODS = ("run", "infer", "files", "accept")  # files of stages that are none


@cache
def available(stage: str) -> tuple[str, ...]:
    """The method names of a stage, sorted."""
    folder = Path(__file__).parents[1] / stage
    names = [file.stem for file in folder.glob("*.py")] + [file.parent.name for file in folder.glob("*/__init__.py")]
    return tuple(sorted(name for name in names if not name.startswith("_") and name not in NO_METHODS))


def load(stage: str, name: str) -> ModuleType:
    """The module of a method; an unknown name is a ConfigError that lists the known ones."""
    known = available(stage)
    if name not in known:
        raise ConfigError(f"{stage}.method: unknown method {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    return importlib.import_module(f"maskmill.{stage}.{name}")
