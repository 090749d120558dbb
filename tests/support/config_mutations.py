"""Seeded mutations of valid configurations, and what becomes of them: a plan, a refusal in one line, or neither."""

from __future__ import annotations

import copy
import math
import random
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from maskmill.dag.files import Graph
from maskmill.dag.jobs import ONE_SHARD, jobs
from maskmill.errors import UserError
from maskmill.recipe import registry
from maskmill.recipe.documents import read_mapping
from maskmill.recipe.model import Run
from maskmill.recipe.origin import Origin
from maskmill.recipe.resolve import load
from maskmill.recipe.stages import RECIPE_STAGES, STAGES

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
CONFIG = {
    "images": "demo", "labels": None, "seeds": [0], "readers": "owner",
    "inputs": {"shard_size": 256, "max_pixels": 178956970, "max_rejected": 0.01, "frame_step": 6, "verify": "full"},
    "evaluate": {"protocols": ["hungarian_iou", "hungarian_counts"], "classes": [0, 8], "ignore": [255],
                 "class_names": {0: "road", 8: "car"}, "size": {"short_side": 320}, "candidates": {"steps": 5},
                 "objects": {"metrics": ["corloc"], "min_area": 0.1}, "retrieval": {"bank": 100, "temperature": 0.1},
                 "segment_retrieval": {"parts": 4, "neighbours": 3},
                 "linear_probe": True, "linear_probe_online": {"steps": 3, "learning_rate": 0.1}},
    "export": {"coco": False}, "report": {"title": "My images", "gallery": 48},
}  # fmt: skip
METHODS = sorted({name for stage in STAGES if stage.method_key for name in registry.available(stage.name)})
LONG, DEEP = "x" * 100_000, eval("[" * 60 + "]" * 60)
VALUES: list[Any] = [
    -1, 0, 1, 2, -0.5, 0.5, 1.5, 10**9, 10**18, 10**30, 10**400, 1e308, -1e308, 5e-324, math.nan, math.inf, -math.inf,
    "", " ", "\n", "\t", "a\nb", "0.2", "1e-3", "-1", "nan", "inf", "-inf", "0x10", "1_000", "true", "null",
    "None", "~", "no",
    None, True, False, [], {}, [0], [None], [[]], ["a", "a"], {"a": 1}, {"method": "kmeans"}, {0: 0},
    {None: None}, DEEP,
    "Ünïcödé ☃", "\u202e\u0000", "../../x", "/dev/zero", LONG, b"bytes", "demo", "all", "kmeans", "grouping", "codes",
    [0, 0], [-1], [1.5], [True], [math.nan], list(range(300)), {"square": 448}, {"square": 0}, {"count": 3},
    "semantic", "${x}",
    "https://u:secret0123@h/x",
]  # fmt: skip
ODDITIES = [
    "no", "yes", "off", "1e3", "1E-3", "010", "0o10", "0x1F", "1_000", "1:30", "2001-01-01", "2001-99-99", "~",
    "null", ".nan",
    ".inf", "-.INF", "!!binary aGk=", "!!set {a, b}", "!!python/object:os.system x", "!unknown x", "&a [*a]",
    "*nowhere", "<<",
    "{a: 1, a: 2}", "[1, 2", "{a: 1", "'open", '"\\x"', "|", ">-", "? x", "- x", "%YAML 9", "@x", "`x`", "#", " # x",
    "a: b: c",
    "9" * 5000, "[" * 3000, "\t5", "5\t", "[\t1]", "\x07", "\ud800", "\ufeff5", "0.1.2", "1,000", "+5", "5.", ".5", "=",
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One mutation: what was done, the files, and what the command line gives over them."""

    what: str
    config: str | bytes
    recipe: str | bytes
    given: Mapping[str, Any]
    keys: tuple[str, ...] = ()  # of the place that was changed, outermost first


@dataclass(frozen=True)
class Outcome:
    """`plan`, `refused` with the line, or `crashed` with the traceback."""

    kind: str
    text: str = ""


def case(seed: int) -> Case:
    """The mutation of a seed."""
    rng = random.Random(seed)
    config, recipe = base(rng)
    kind = rng.choices([_key, _value, _oddity, _text, _file, _command_line], [3, 6, 3, 1, 1, 2])[0]
    return kind(rng, config, recipe)


def base(rng: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """A valid configuration and a valid recipe: a shipped one, with or without a preset, with overrides of its keys."""
    recipe = yaml.safe_load((ROOT / f"recipes/{rng.choice(RECIPES)}.yaml").read_text(encoding="utf-8"))
    config = copy.deepcopy(CONFIG) | {"recipes": ["mutated.yaml"], "preset": rng.choice([[], "small"])}
    if "presets" not in recipe:
        config["preset"] = []
    changed = recipe.get("presets", {}).get("small", {}) if config["preset"] else {}  # may take another method
    for stage in rng.sample(RECIPE_STAGES, 3):
        own = recipe.get(stage)
        if isinstance(own, dict) and own and stage not in changed and stage != "rounds":
            key = rng.choice(sorted(own))
            config[stage] = {key: copy.deepcopy(own[key])}
    return config, recipe


def _places(body: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all keys of nested mappings and lists."""
    items: Any = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    return [place for key, value in items for place in ((*above, key), *_places(value, (*above, key)))]


def _around(body: Any, place: tuple[Any, ...]) -> Any:
    for key in place[:-1]:
        body = body[key]
    return body


def _words(place: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(str(key) for key in place)


def dumped(body: Any) -> str:
    return yaml.safe_dump(body, sort_keys=False, allow_unicode=True)


def _pick(rng: random.Random, config: Any, recipe: Any) -> tuple[Any, Any, tuple[Any, ...]]:
    """A document to change, the section around the place, and the place."""
    document = rng.choice([config, recipe, recipe])
    place = rng.choice(_places(document))
    return document, _around(document, place), place


def _key(rng: random.Random, config: Any, recipe: Any) -> Case:
    """A key is misspelt, removed, moved, or replaced by another."""
    _, around, place = _pick(rng, config, recipe)
    key = place[-1]
    if isinstance(around, list):
        around.append(around[key])
        return Case(f"{place}: twice", dumped(config), dumped(recipe), {}, _words(place))
    value = around.pop(key)
    what = rng.choice(["removed", "misspelt", "case", "space", "other", "odd", "long"])
    text = str(key)
    spelt: dict[str, Any] = {
        "misspelt": text[:1] + text[2:] + "x", "case": text.upper(), "space": f" {text} ", "long": text * 500,
        "other": rng.choice(["features", "method", "cut", "clusters", "from_round", "presets", "keep", "seeds"]),
        "odd": rng.choice([None, True, 55, 1.5, "", "a\nb", "\u202e", "a.b", "(1, 2)", math.nan]),
    }  # fmt: skip
    if what in spelt:
        around[spelt[what]] = value
    told = str(spelt.get(what))
    words = (*_words(place), told[:20])
    return Case(f"{place}: key {what} {told[:40]!r}", dumped(config), dumped(recipe), {}, words)


def _value(rng: random.Random, config: Any, recipe: Any) -> Case:
    """A value of another kind, size or sign, or that of another key."""
    document, around, place = _pick(rng, config, recipe)
    value = rng.choice(
        [*VALUES, rng.choice(METHODS), [around[place[-1]]], {"x": around[place[-1]]}, _around(document, place)]
    )
    if isinstance(value, dict | list):
        value = copy.deepcopy(value)
    around[place[-1]] = value
    return Case(f"{place}: {str(value)[:60]!r}", dumped(config), dumped(recipe), {}, _words(place))


def _oddity(rng: random.Random, config: Any, recipe: Any) -> Case:
    """A value as YAML spells it oddly."""
    _, around, place = _pick(rng, config, recipe)
    odd = rng.choice(ODDITIES)
    around[place[-1]] = "REPLACED"
    config_text, recipe_text = (dumped(body).replace("REPLACED", odd) for body in (config, recipe))
    return Case(f"{place}: {odd[:40]}", _bytes(config_text), _bytes(recipe_text), {}, _words(place))


def _text(rng: random.Random, config: Any, recipe: Any) -> Case:
    """Letters, lines and indents of a file are changed."""
    texts = [dumped(config), dumped(recipe)]
    which = rng.randrange(2)
    lines = texts[which].split("\n")
    i = rng.randrange(len(lines))
    change: Callable[[str], list[str]] = rng.choice([
        lambda line: [], lambda line: [line, line], lambda line: ["\t" + line], lambda line: [" " + line],
        lambda line: [line.replace(":", "")], lambda line: [line.replace(": ", ":")],
        lambda line: [line + " &a", "b: *a"],
        lambda line: [line[: len(line) // 2]], lambda line: ["---", line], lambda line: [line, "<<: {x: 1}"],
        lambda line: [line.replace("e", rng.choice("\x00\x1b\u2028{}[]'\"%@"))],
    ])  # fmt: skip
    lines[i : i + 1] = change(lines[i])
    texts[which] = "\n".join(lines)
    return Case(f"{('config', 'recipe')[which]} line {i}: {lines[i : i + 2]}", _bytes(texts[0]), _bytes(texts[1]), {})


def _file(rng: random.Random, config: Any, recipe: Any) -> Case:
    """A file that is no document."""
    bad: str | bytes = rng.choice([
        b"", b"\n\n", b"# only a comment\n", b"\xff\xfe\x00", dumped(recipe).encode("utf-16"), b"\x00" * 100, b"[]",
        b"5", b"text",
        b"a: &a {b: *a}\n", b"&a [*a]", b"- a\n- b\n", b"{}", b"null", b"description: " + b"\xe9" * 9, b"[" * 5000,
        b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
            b"%c: &%c [%s]\n" % (98 + i, 98 + i, b", ".join([b"*%c" % (97 + i)] * 9)) for i in range(9)),
        b"x" * 3_000_000, b"DIRECTORY", b"MISSING", b"PIPE", b"LOOP",
    ])  # fmt: skip
    which = rng.choice(["config", "recipe"]) if bad not in (b"DIRECTORY", b"MISSING", b"PIPE", b"LOOP") else "recipe"
    if which == "config":
        return Case(f"config is {bad[:40]!r}", bad, dumped(recipe), {"recipes": ["mutated.yaml"]})
    return Case(f"recipe is {bad[:40]!r}", dumped(config), bad, {})


def _command_line(rng: random.Random, config: Any, recipe: Any) -> Case:
    """Words behind --config, as Snakemake reads them."""
    from snakemake.cli import parse_config

    stage = rng.choice(sorted({*RECIPE_STAGES, *CONFIG, "recipes", "preset", "features"}))
    own = recipe.get(stage) or CONFIG.get(stage) or {"method": "kmeans"}
    key = rng.choice(sorted(own, key=str)) if isinstance(own, dict) else "x"
    value = str(rng.choice([*ODDITIES, *VALUES]))[:300]
    word = rng.choice([f"{stage}={value}", f"{stage}={{{key}: {value}}}", f"{stage}=[{value}]",
                       f"{stage}={{{value}: 1}}",
                       f"{stage}={{{key}: {{{key}: {value}}}}}", f"{stage}={value},{value}"])  # fmt: skip
    try:
        given = parse_config([word])
    except Exception:  # Snakemake's own refusal
        given = {stage: value}
    return Case(f"--config {word[:80]!r}", dumped(config), dumped(recipe), given, (stage,))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def write(case: Case, folder: Path) -> None:
    """The files of a case: config.yaml and mutated.yaml."""
    import os

    for name, body in (("config.yaml", case.config), ("mutated.yaml", case.recipe)):
        path = folder / name
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        if body == b"DIRECTORY":
            path.mkdir()
        elif body == b"PIPE":
            os.mkfifo(path)
        elif body == b"LOOP":
            path.symlink_to(path)
        elif body != b"MISSING":
            path.write_bytes(body if isinstance(body, bytes) else _bytes(body))


def outcome(case: Case, folder: Path) -> Outcome:
    """What becomes of a case, with `folder` as working directory."""
    write(case, folder)
    try:
        config = folder / "config.yaml"
        body = read_mapping(config)
        for key, value in case.given.items():
            same = isinstance(value, Mapping) and isinstance(body.get(key), Mapping)
            body[key] = {**body[key], **value} if same else value
        run = load(body, ROOT / "recipes", Origin([config], case.given))
        found = jobs(Graph(run, lambda: [ONE_SHARD]))
        wrong = untrue(run, body, read_mapping(folder / "mutated.yaml")) if len(found) > 5 else "no jobs"
        return Outcome("crashed", wrong) if wrong else Outcome("plan")
    except UserError as error:
        return Outcome("refused", str(error))
    except BaseException:
        return Outcome("crashed", traceback.format_exc())


def untrue(run: Run, body: Mapping[str, Any], recipe_file: Mapping[str, Any]) -> str:
    """Where a resolved run says another thing than its configuration: sections of the run, and of its recipes."""
    config = run.config.model_dump(mode="python")
    pairs = [(key, body[key], config[key]) for key in ("inputs", "export", "report", "evaluate") if key in body]
    for recipe in run.recipes.values():
        sections = recipe.sections()
        pairs += [(key, body[key], sections[key]) for key in RECIPE_STAGES if body.get(key) and key in sections]
        pairs += [("", sections, sections)]
        if recipe.name == "mutated" and not body.get("preset"):
            own = [key for key in RECIPE_STAGES if recipe_file.get(key) and key in sections and key not in body]
            pairs += [(key, recipe_file[key], sections[key]) for key in own]
    return next((f"{key}: {wrong}" for key, given, read in pairs if (wrong := _differs(given, read))), "")


def _differs(given: Any, read: Any) -> str:
    """How a value that was given differs from the value that was read; nothing where they are the same."""
    if isinstance(read, float) and not math.isfinite(read):
        return f"{read} is no number to work with"
    if isinstance(read, int) and abs(read) >= 2**63:
        return "an integer beyond 64 bits"
    if isinstance(given, Mapping) and isinstance(read, Mapping):
        keys = {str(key): value for key, value in read.items()}
        return next((w for k, v in given.items() if str(k) in keys and (w := _differs(v, keys[str(k)]))), "")
    if isinstance(given, bool) and isinstance(read, int | float) and not isinstance(read, bool):
        return f"{given!r} was read as {read!r}"
    if isinstance(given, list) and isinstance(read, list | tuple):
        return next((w for a, b in zip(given, read, strict=False) if (w := _differs(a, b))), "")
    if (
        isinstance(given, int | float)
        and isinstance(read, int | float)
        and (given > 1e308 or float(given) != read)
        and read != given
    ):
        return f"{given!r} was read as {read!r}"
    return ""


def unclear(found: Outcome, case: Case) -> str:
    """Why a refusal is not one line that names the place and the value."""
    text = found.text
    if found.kind != "refused":
        return ""
    if len(text.splitlines()) != 1 or any(not letter.isprintable() for letter in text):
        return "not one line"
    if len(text) > 700:
        return "too long"
    line = re.search(
        r"not UTF-8 \(line \d+|not valid YAML: line \d+, column \d+: .*, in ", text
    )  # syntax has lines and no keys
    if case.keys and not line and not any(key in text for key in case.keys if len(key) > 1):
        return "names no key of the place that was changed"
    if "secret0123" in text:
        return "shows a secret"
    return ""
