"""`maskmill doctor` and `maskmill plan` read what the workflow would read in the same folder."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml
from small_run import ROOT
from typer.testing import CliRunner

from maskmill.cli.app import app
from maskmill.recipe import configuration
from maskmill.recipe.configuration import DEFAULTS, read_configuration
from maskmill.recipe.resolve import SHIPPED

PLAN = ("plan", "--images", "1000")


def said(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.stdout + (str(done.exception) if done.exception is not None else "")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, where commands run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_empty_folder_has_the_defaults(folder: Path) -> None:
    code, doctor = said("doctor")
    assert code == 0, doctor
    assert "the defaults of maskmill: recipes kmeans, comus" in doctor
    code, plan = said(*PLAN)
    assert code == 0, plan
    assert "cut" in plan
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("place", ["config.yaml", "config/config.yaml"])
def test_the_configuration_of_the_folder(place: str, folder: Path) -> None:
    file = folder / place
    file.parent.mkdir(exist_ok=True)
    file.write_text("recipes: [lost]\npreset: small\n")
    code, doctor = said("doctor")
    assert code == 0, doctor
    assert f"{place}: recipes lost; " in doctor
    code, plan = said(*PLAN)
    assert code == 0, plan
    assert "lost" in plan
    assert "kmeans" not in plan


def test_recipes_of_the_user_by_path(folder: Path) -> None:
    (folder / "mine.yaml").write_text((ROOT / "recipes/kmeans.yaml").read_text())
    (folder / "config.yaml").write_text("recipes: [mine.yaml]\n")
    code, doctor = said("doctor")
    assert code == 0, doctor
    assert "recipes mine; " in doctor
    assert said(*PLAN)[0] == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("images: [", "not valid YAML"),
        ("images: demo\n\xff\n", "not UTF-8 (line 2)"),
        ("just words", "expected key: value pairs"),
        ("recipes: [lostt]", "no recipe 'lostt' (did you mean 'lost'?)"),
    ],
)
def test_what_is_wrong_names_the_file(text: str, reason: str, folder: Path) -> None:
    (folder / "config.yaml").write_bytes(text.encode("latin-1"))
    for words in (("doctor",), PLAN):
        code, told = said(*words)
        assert code == 1
        assert reason in told
        assert "config.yaml" in told


def test_a_file_that_was_given_must_be_there(folder: Path) -> None:
    for words in (("doctor",), PLAN):
        code, told = said(*words, "--config", "other.yaml")
        assert code == 1
        assert "other.yaml: no such file; give --config" in told


def test_defaults_are_those_of_the_workflow_and_come_with_the_package() -> None:
    """What an installed package lacks would be missed by nobody in a checkout."""
    assert read_configuration(DEFAULTS)[0] == yaml.safe_load((ROOT / "config.yaml").read_text())
    package = Path(configuration.__file__).parents[1]
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["maskmill"]
    inside = {file for pattern in packed for file in package.glob(pattern)}
    assert DEFAULTS in inside
    assert {file.name for file in inside if file.parent.name == "shipped"} == {f.name for f in SHIPPED.glob("*.yaml")}
