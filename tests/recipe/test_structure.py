"""The structure of the code: who imports whom, and how many arguments a function takes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import maskmill

ROOT = Path(maskmill.__file__).parent
STAGES = (
    "inputs", "features", "adapt", "cut", "regions", "reduce", "foreground", "cluster", "paint", "rounds", "evaluate",
    "export", "report",
)  # fmt: skip
PACKAGES = (
    "backbones", "cluster", "cut", "evaluate", "export", "features", "foreground", "images", "inputs", "numerics",
    "paint", "reduce", "refine", "regions", "report", "store",
)  # fmt: skip
MOST = 7  # arguments, self not counted; loops that numba compiles take their arrays one by one
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).glob("*.py"))


def imported(tree: ast.Module) -> Iterator[list[str]]:
    """The parts of every name that a module imports from maskmill: package, module, name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("maskmill"):
            for name in node.names:
                yield [*str(node.module).split(".")[1:], name.name]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_keeps_to_its_place(path: Path) -> None:
    package, tree = path.parent.name, ast.parse(path.read_text())
    for parts in imported(tree):
        if parts[0] == package:
            continue
        assert not any(part.startswith("_") and not part.startswith("__") for part in parts[1:]), f"private: {parts}"
        assert package not in STAGES or parts[0] not in STAGES, f"a stage imports another: {parts}"
        assert package in STAGES or parts[0] not in STAGES, f"a shared package imports a stage: {parts}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not any("compile" in ast.unparse(d) for d in node.decorator_list):
            given = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            assert len([name for name in given if name not in ("self", "cls")]) <= MOST, node.name
