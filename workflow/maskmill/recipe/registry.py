"""Methods by name: a method of a stage is one file `maskmill/<stage>/<name>.py`.

The file defines `Params` (a frozen `maskmill.recipe.sections.Model` whose fields are the paper's symbols) and the
function that its stage calls. Files that start with an underscore, `run.py`, `files.py` and `infer.py` are not methods.
Listing names imports nothing; method files import torch and friends inside their functions, so that loading a config
stays fast.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from types import ModuleType

from maskmill.errors import ConfigError, nearest


@cache
def available(stage: str) -> tuple[str, ...]:
    """The method names of a stage, sorted."""
    folder = Path(__file__).parents[1] / stage
    names = (file.stem for file in folder.glob("*.py"))
    return tuple(sorted(name for name in names if not name.startswith("_") and name not in ("run", "infer", "files")))


def load(stage: str, name: str) -> ModuleType:
    """The module of a method; an unknown name is a ConfigError that lists the known ones."""
    known = available(stage)
    if name not in known:
        raise ConfigError(f"{stage}.method: unknown method {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    return importlib.import_module(f"maskmill.{stage}.{name}")
