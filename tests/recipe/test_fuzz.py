"""Mutated configurations end in a plan or in one line; values mean what they say. Long form: bench/fuzz_config.py."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import config_mutations as mutations
import pytest
import yaml

from maskmill.errors import ConfigError
from maskmill.recipe.documents import read_mapping
from maskmill.recipe.resolve import load

ROOT = Path(__file__).parents[2]
COUNT = int(os.environ.get("MASKMILL_FUZZ", "250"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_configurations_that_are_mutated_are_valid(here: Path) -> None:
    for name in mutations.RECIPES:
        recipe = yaml.safe_load((ROOT / f"recipes/{name}.yaml").read_text(encoding="utf-8"))
        for preset in ([], "small") if "presets" in recipe else ([],):
            config = mutations.CONFIG | {"recipes": ["mutated.yaml"], "preset": preset}
            case = mutations.Case(name, mutations.dumped(config), mutations.dumped(recipe), {})
            assert mutations.outcome(case, here) == mutations.Outcome("plan"), name


def test_mutations_end_in_a_plan_or_in_one_line(here: Path) -> None:
    found = Counter[str]()
    for seed in range(COUNT):
        case = mutations.case(seed)
        outcome = mutations.outcome(case, here)
        assert outcome.kind != "crashed", (seed, case.what, outcome.text)
        assert mutations.unclear(outcome, case) == "", (seed, case.what, outcome.text)
        found[outcome.kind] += 1
    assert found["plan"] > COUNT / 10
    assert found["refused"] > COUNT / 10


def test_that_test_can_fail(here: Path) -> None:
    """A traceback, a value that was read as another, and a message that names nothing are found."""
    case = mutations.Case("", "recipes: [kmeans]\n", "features: {}\n", {}, ("clusters",))
    run = load({"recipes": ["kmeans"], "report": {"gallery": 1}}, ROOT / "recipes")
    assert mutations.untrue(run, {"report": {"gallery": True}}, {}) == "report: True was read as 1"
    assert mutations.untrue(run, {"report": {"gallery": 2}}, {}) == "report: 2 was read as 1"
    assert mutations.untrue(run, {"report": {"gallery": 1}}, {}) == ""
    for text, wrong in {
        "a\nb": "not one line", "x" * 800: "too long", "cut: no": "names no key of the place that was changed",
        "clusters: secret0123": "shows a secret", "cluster.clusters: no": "",
    }.items():  # fmt: skip
        assert mutations.unclear(mutations.Outcome("refused", text), case) == wrong


FLOAT, INTEGER = ("inputs", "max_rejected"), ("inputs", "shard_size")


@pytest.mark.parametrize(
    "value", [True, False, math.nan, math.inf, -math.inf, "nan", "inf", "-inf", -0.1, "x", "", None, [0.5], {}]
)
def test_no_number(value: Any) -> None:
    for section, key in (FLOAT, INTEGER):
        with pytest.raises(ConfigError, match=rf"^c\.yaml: {section}\.{key}: .*found") as told:
            load({"recipes": ["kmeans"], section: {key: value}}, ROOT / "recipes", "c.yaml")
        assert repr(value) in str(told.value)


@pytest.mark.parametrize(("value", "read"), [(8, 8), ("8", 8), (8.0, 8), ("1_000", 1000)])
def test_integers_that_mean_what_they_say(value: Any, read: int) -> None:
    run = load({"recipes": ["kmeans"], "inputs": {"shard_size": value}}, ROOT / "recipes")
    assert run.config.inputs.shard_size == read


def test_exponents_as_yaml_reads_them(here: Path) -> None:
    """`1e-3` is a text to YAML 1.1, and every value of --config is one."""
    (here / "c.yaml").write_text("recipes: [kmeans]\ninputs: {max_rejected: 1e-3}\n")
    assert load(read_mapping("c.yaml"), ROOT / "recipes").config.inputs.max_rejected == 0.001


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"seeds": [-1]}, r"seeds\.0: .*greater than or equal to 0, found -1"),
        ({"seeds": [0, 0]}, "seeds: 0 is given twice; keep one"),
        ({"seeds": [True]}, r"seeds\.0: Input should be a number, found True"),
        ({"seeds": 2**63}, r"seeds\.0: Input should be less than 2\^63"),
        ({"seeds": True}, "seeds: Input should be a valid list, found True"),
        ({"seeds": [2**63]}, r"seeds\.0: Input should be less than 2\^63, found 9223372036854775808"),
        ({"evaluate": {"protocols": ["many_to_one"] * 2}}, r"evaluate\.protocols: 'many_to_one' is given twice"),
        ({"features": {"semantic": {"backbone": ""}}}, r"features\.semantic\.backbone: is no name .*found ''"),
        ({"features": {"semantic": {"backbone": "a\nb"}}}, r"features\.semantic\.backbone: is no name"),
        ({5: 1}, "top level: 5 is no name of a key"),
        ({"report": {"title": {"x": "y" * 10_000}}}, r"report\.title: .*\.\.\. \(dict\)$"),
    ],
)  # fmt: skip
def test_values_that_were_taken(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as told:
        load({"recipes": ["kmeans"]} | config, ROOT / "recipes", "c.yaml")
    assert len(str(told.value)) < 400
    assert str(told.value).isprintable()


def test_a_method_that_differs_from_itself(here: Path) -> None:
    """NaN, where the layers of a section are laid over one another; it became the default method."""
    body = (
        "features: {semantic: {backbone: colour}}\nregions: {pool: token}\ncluster: {method: .nan, spherical: false}\n"
    )
    (here / "mine.yaml").write_text(body)
    with pytest.raises(ConfigError, match=r"mine\.yaml: cluster\.method: nan is not a method name"):
        load({"recipes": ["mine.yaml"]}, ROOT / "recipes")


CYCLE: dict[str, Any] = {"recipes": ["kmeans"]}
CYCLE["report"] = CYCLE


def test_values_that_refer_to_themselves() -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml: report\.report\.report: nested deeper than 50 levels"):
        load(CYCLE, ROOT / "recipes", "c.yaml")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
FILES = {
    "twice: {a: 1, a: 2}": "line 1, column 15: 'a' is given twice, first in line 1; keep one",
    "cut:\n\ttau: 1": r"line 2, column 1: found character '\\t'.*in '\\ttau: 1'",
    "a: [1, 2": "line 1, column 4: .*in 'a: \\[1, 2'",
    "a: \x07": r"line 1, column 1: .*0x7",
    "a: 2001-99-99": "line 1, column 4: month must be in 1..12",
    "a: " + "9" * 5000: "line 1, column 4: Exceeds the limit",
    "a: " + "[" * 3000: "line 1, column .*nested deeper than 50 levels",
    "a: &a [*a]": "a.0.0: nested deeper than 50 levels",
    "a: !!python/object:os.system x": "line 1, column 4: could not determine a constructor",
    "- a": r"top level: expected key: value pairs, found \['a'\]",
    BOMB: "more than 50000 values",
}


@pytest.mark.parametrize("text", FILES, ids=lambda text: text[:12])
def test_files_that_are_no_configuration(here: Path, text: str) -> None:
    (here / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=FILES[text]) as told:
        read_mapping("c.yaml")
    assert str(told.value).startswith("c.yaml: ")
    assert str(told.value).isprintable()


def test_files_that_cannot_be_read(here: Path) -> None:
    (here / "utf16.yaml").write_bytes("a: 1".encode("utf-16"))
    (here / "latin.yaml").write_bytes(b"x: 1\na: \xe9")
    (here / "large.yaml").write_bytes(b"#" * (2 << 20))
    (here / "folder.yaml").mkdir()
    (here / "loop.yaml").symlink_to("loop.yaml")
    (here / "zero.yaml").symlink_to("/dev/zero")
    os.mkfifo(here / "pipe.yaml")
    for name, message in {
        "utf16": r"not UTF-8 \(line 1\)", "latin": r"not UTF-8 \(line 2\)", "large": "more than 1 MiB",
        "folder": "Is a directory", "loop": "Too many levels of symbolic links", "zero": "a pipe or a device",
        "pipe": "a pipe or a device",
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            read_mapping(f"{name}.yaml")
        with pytest.raises(ConfigError, match=message):
            load({"recipes": [f"{name}.yaml"]}, ROOT / "recipes")
    (here / "bom.yaml").write_text("\ufeffa: 1", encoding="utf-8")
    assert read_mapping("bom.yaml") == {"a": 1}
    (here / "empty.yaml").write_text("# nothing\n")
    assert read_mapping("empty.yaml") == {}


def test_maskmill_plan_ends_in_a_plan_or_in_one_line(here: Path) -> None:
    """The verb on some of the mutations; Snakemake asks the same functions."""
    for seed in (3, 11, 40):
        case = mutations.case(seed)
        wanted = mutations.outcome(mutations.Case(case.what, case.config, case.recipe, {}), here)
        mutations.write(case, here)
        line = [sys.executable, "-m", "maskmill", "plan", "--images", "9", "--recipes", str(ROOT / "recipes")]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == (wanted.kind == "plan"), (seed, case.what, done.stderr)
        assert "Traceback" not in done.stderr
        if wanted.kind == "refused":
            assert re.fullmatch(r"maskmill plan: error: .+\n", done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["seeds: 0\nseeds: 1", "seeds:\n\t- 1", "inputs: {max_rejected: .nan}", "seeds: true"])
def test_snakemake_says_it_too(here: Path, text: str) -> None:
    (here / "config.yaml").write_text(f"recipes: [kmeans]\n{text}\n")
    line = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "-n", "--cores", "1"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert re.search(r"seeds|max_rejected|tab indentation", done.stdout + done.stderr)
