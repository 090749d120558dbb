"""How the package hangs together: no circle of imports, no stage that imports another, private modules stay private."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import grimp
import networkx as nx
import pytest

from maskmill.recipe.stages import STAGES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "workflow/maskmill"
STAGE_NAMES = {spec.name for spec in STAGES}
GROUND = {"errors", "progress", "redact", "urls", "reading", "access", "versions", "device", "jit", "__init__"}
ABOVE = {"cli", "plan", "predict"}  # what stands on the stages
MOST_ARGUMENTS = 7
MOST_PYTHON_IN_RULES = 250


@cache
def arrows() -> frozenset[tuple[str, str]]:
    """(importer, imported), module names below `maskmill`; imports inside functions and for types only too."""
    graph = grimp.build_graph("maskmill")
    found = {
        (importer.removeprefix("maskmill").lstrip("."), imported.removeprefix("maskmill").lstrip("."))
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
    }
    return frozenset((importer, imported) for importer, imported in found if imported)


def top(module: str) -> str:
    return module.partition(".")[0]


def test_no_circle_of_imports() -> None:
    graph = nx.DiGraph(arrows())
    assert [sorted(circle) for circle in nx.strongly_connected_components(graph) if len(circle) > 1] == []


def test_no_circle_of_packages() -> None:
    """But for what all files of a package share in its `__init__`."""
    graph = nx.DiGraph((top(a), top(b)) for a, b in arrows() if top(a) != top(b))
    assert [sorted(circle) for circle in nx.strongly_connected_components(graph) if len(circle) > 1] == []


def test_no_stage_imports_another_stage() -> None:
    crossing = {(a, b) for a, b in arrows() if top(a) != top(b) and {top(a), top(b)} <= STAGE_NAMES}
    assert crossing == set()


def test_nothing_below_the_stages_imports_one() -> None:
    """`maskmill.dag.files` finds the stages' files by the table of stages, at run time."""
    below = {(a, b) for a, b in arrows() if top(b) in STAGE_NAMES and top(a) not in STAGE_NAMES | ABOVE}
    assert below == set()


def test_the_ground_imports_nothing_of_ours() -> None:
    assert {(a, b) for a, b in arrows() if a in GROUND and top(b) not in GROUND} == set()


def test_private_modules_are_imported_within_their_package_only() -> None:
    foreign = set()
    for a, b in arrows():
        parts = b.split(".")
        private = next((i for i, part in enumerate(parts) if part.startswith("_")), None)
        if private is not None and a.split(".")[:private] != parts[:private]:
            foreign.add((a, b))
    assert foreign == set()


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield f"{path.relative_to(PACKAGE)}:{node.name}", node


def is_kernel(node: ast.FunctionDef) -> bool:
    """Compiled functions take arrays one by one, as they know no objects."""
    return any(word in ast.unparse(each) for each in node.decorator_list for word in ("jit", "compile"))


def is_verb(name: str) -> bool:
    """A verb's parameters are its options."""
    return name.startswith("cli/")


def test_functions_take_few_arguments() -> None:
    long = {}
    for name, node in functions():
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = len([a for a in arguments if a.arg not in ("self", "cls")])
        if count > MOST_ARGUMENTS and not is_kernel(node) and not is_verb(name):
            long[name] = count
    assert long == {}


def test_no_capability_is_asked_for_by_name() -> None:
    """A misspelt flag would be silently False; `Traits` of a stage name what its methods can do."""
    asked = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr") and len(node.args) > 1:
                first = ast.unparse(node.args[0])
                if "registry.load" in first or first in ("module", "method", "self._module"):
                    asked[f"{path.relative_to(PACKAGE)}:{node.lineno}"] = ast.unparse(node)
    assert asked == {}


def python_of_rules(text: str) -> int:
    """Lines of plain Python: outside rules, directives, comments and blank lines."""
    count, inside = 0, False
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not line.startswith((" ", ")")):
            word = line.split()[0].rstrip(":")
            inside = word in ("rule", "checkpoint", "use", "wildcard_constraints", "configfile", "report", "onstart",
                              "onsuccess", "onerror", "include", "module", "container", "conda")  # fmt: skip
        count += not inside
    return count


def test_rules_are_tables_of_contents() -> None:
    files = [ROOT / "Snakefile", ROOT / "workflow/Snakefile", *(ROOT / "workflow/rules").rglob("*.smk")]
    assert sum(python_of_rules(path.read_text()) for path in files) <= MOST_PYTHON_IN_RULES


@pytest.mark.parametrize("spec", STAGES, ids=lambda spec: spec.name)
def test_a_stage_has_one_name_everywhere(spec: object) -> None:
    """Section, rule file, package, verbs, tests and page of the docs are found by the stage's name alone."""
    name = spec.name  # type: ignore[attr-defined]
    assert (ROOT / f"workflow/rules/{name}.smk").is_file()
    assert (PACKAGE / name / "files.py").is_file()
    assert (PACKAGE / f"cli/{name}.py").is_file()
    assert (ROOT / f"tests/{name}").is_dir()
    assert (ROOT / f"docs/{name}.md").is_file() or name in ("features", "paint")  # docs/backbones.md, docs/rounds.md
