"""The configuration: resolution, precedence, and errors that a person can act on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from maskmill.errors import ConfigError
from maskmill.recipe.feature_set import FeatureSet, Size
from maskmill.recipe.resolve import load
from maskmill.recipe.schema import schema

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"


def run(**keys: Any) -> Any:
    return load(keys, RECIPES)


def test_shipped_config_is_valid_and_names_every_key() -> None:
    text = (ROOT / "config.yaml").read_text()
    resolved = load(yaml.safe_load(text), RECIPES)
    assert set(resolved.recipes) == {"kmeans", "comus"}
    named = set(re.findall(r"^(?:# )?(\w+):", text, re.MULTILINE))
    assert set(schema()["properties"]) - named == set()


def test_the_examples_in_the_shipped_config_are_valid() -> None:
    text = (ROOT / "config.yaml").read_text()
    examples = text.partition("# Examples of overrides")[2].partition("\n")[2]
    body = yaml.safe_load(re.sub(r"^# ", "", examples, flags=re.MULTILINE))
    resolved = load(yaml.safe_load(text) | body | {"recipes": ["comus", "stego", "leopart_cbfe"]}, RECIPES)
    assert resolved.recipes["comus"].sections()["rounds"]["count"] == 3
    assert resolved.recipes["leopart_cbfe"].sections()["foreground"]["threshold"] == 0.4
    assert resolved.config.report.gallery == 48


def test_published_settings_are_the_default() -> None:
    recipe = run(recipes=["comus"], preset=[]).recipes["comus"]
    assert (recipe.reduce.method, recipe.cluster.params.clusters) == ("laplacian", 20)
    assert [recipe.rounds_at(r).settings.images for r in (1, 2)] == ["surest", "all"]
    chain = run(recipes=["maskdistill"], preset=[]).recipes["maskdistill"]
    assert [chain.rounds_at(r).method for r in (1, 2, 3)] == ["instance", "deeplabv3plus", "deeplabv3plus"]
    assert [chain.rounds_at(r).settings.refine.method for r in (1, 2, 3)] == ["none", "crf", "crf"]
    kmeans = [run(recipes=["kmeans"], preset=preset).recipes["kmeans"].sections() for preset in ("small", [])]
    assert kmeans[0] == kmeans[1]  # small as it is


@pytest.mark.parametrize(
    ("recipe", "background"),
    [("acseg", 0), ("comus", 1), ("dsm", 1), ("leopart_cbfe", 1), ("leopart_cd", 1), ("maskdistill", 1)],
)
def test_clusters_and_background_are_the_21_classes_of_voc(recipe: str, background: int) -> None:
    assert run(recipes=[recipe], preset=[]).recipes[recipe].cluster.params.clusters + background == 21


@pytest.mark.parametrize("recipe", ["leopart_cbfe", "leopart_cd"])
def test_leopart_has_the_published_call_of_infomap(recipe: str) -> None:
    own = run(recipes=[recipe], preset=[]).recipes[recipe]
    settings = own.cluster.params.model_dump()
    call = {
        "clusters": 20,
        "number": "preferred",
        "markov_time": 2,
        "threshold": 0.09,
        "trials": 1,
        "distances": [1, 2],
    }
    assert {key: settings[key] for key in call} == call
    assert settings["unlinked"] == "background"
    assert own.stage("reduce").params.standardise
    if recipe == "leopart_cbfe":
        assert own.stage("foreground").params.mass == 0.65


def test_every_text_that_names_dino_for_keys_keeps_their_bias() -> None:
    """One rule (docs/backbones.md): published code reads raw keys of DINO."""
    texts = [*RECIPES.glob("*.yaml"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    lines = "\n".join(path.read_text() for path in texts).splitlines()
    lines = [line for line in lines if re.search(r"\.dino\b.*facet: key", line)]
    assert len(lines) >= 8
    assert [line for line in lines if "key_bias: keep" not in line] == []


def test_recipes_share_equal_feature_sets() -> None:
    both = run(recipes=["kmeans", "comus"])
    assert len(both.feature_sets) == 2  # grouping, and one semantic for both


def test_a_store_is_deleted_only_where_every_recipe_says_so(tmp_path: Path) -> None:
    """`keep` is no parameter: the slug, and so what is shared, does not depend on it."""
    head = (
        "description: d\nregions: {features: semantic, pool: token}\nfeatures:\n  semantic: {backbone: resnet18, keep: "
    )
    for keep in ("true", "false"):
        (tmp_path / f"{keep}.yaml").write_text(head + keep + "}\n")
    kept, deleted = (run(recipes=[str(tmp_path / f"{keep}.yaml")]) for keep in ("true", "false"))
    slugs = set(kept.feature_sets)
    assert slugs == set(deleted.feature_sets)
    assert (kept.temporary, deleted.temporary) == (set(), slugs)
    both = [str(tmp_path / f"{keep}.yaml") for keep in ("true", "false")]
    assert run(recipes=both).temporary == set()
    assert run(recipes=both, features={"keep": False}).temporary == slugs
    assert run(recipes=both, features={"keep": False, "semantic": {"keep": True}}).temporary == set()
    assert (
        kept.recipes["true"].features["semantic"].model_dump()
        == deleted.recipes["false"].features["semantic"].model_dump()
    )  # what the rules' params and the hashes of artefacts are made of


def test_every_recipe_loads() -> None:
    for file in RECIPES.glob("*.yaml"):
        recipe = run(recipes=[file.stem]).recipes[file.stem]
        assert recipe.description, file


def with_cut(tmp_path: Path, features: str, cut: str) -> Any:
    """A recipe of these two lines, resolved."""
    body = f"description: d\nfeatures: {{{features}}}\ncut: {{{cut}}}\nregions: {{features: keys, pool: mean}}\n"
    (tmp_path / "mine.yaml").write_text(body)
    return run(recipes=[str(tmp_path / "mine.yaml")]).recipes["mine"]


KEYS = "keys: {backbone: vit_small_focus, facet: key}"
COLOURS = KEYS + ", small: {backbone: colour, stride: 14}"
MIXED = COLOURS.replace("14}", "14, concat: [{backbone: vit_small_focus}]}")


def test_a_cut_may_look_at_colours(tmp_path: Path) -> None:
    recipe = with_cut(tmp_path, COLOURS, "features: keys, colour: small, method: spectral, colour_weight: 10")
    assert recipe.cut.settings.colour == "small"
    assert recipe.features["small"].slug.startswith("colour-token-sq448-")
    assert recipe.features["small"].weights_slug == "colour"
    assert with_cut(tmp_path, KEYS, "features: keys, method: spectral").cut.settings.colour is None
    assert with_cut(tmp_path, COLOURS, "features: small, method: selective").cut.method == "selective"
    for features in ("small", "keys"):  # at length one where they are no colours
        assert with_cut(tmp_path, MIXED, f"features: {features}, method: felzenszwalb").cut.method == "felzenszwalb"


@pytest.mark.parametrize(
    ("features", "cut", "message"),
    [
        (
            COLOURS,
            "features: keys, colour: smal, method: spectral",
            r"cut\.colour: no feature set 'smal'.*known: small",
        ),
        (COLOURS, "features: keys, colour: keys, method: spectral", r"cut\.colour: no feature set 'keys' of backbone"),
        (KEYS, "features: keys, colour: small, method: spectral", r"cut\.colour: .*add one: {backbone: colour"),
        (COLOURS, "features: keys, colour: small, method: ncut", r"cut\.colour: method ncut does not look at colours"),
        (
            COLOURS,
            "features: keys, method: spectral, colour_weight: 1",
            r"cut\.colour: method spectral .*needs the name",
        ),
        (COLOURS, "features: small, method: attention", r"features\.small\.facet: 'token', but cut\.method attention"),
        (COLOURS.replace("14}", "14, facet: key}"), "features: keys, method: ncut", r"features\.small: .*no facet"),
        (
            KEYS,
            "features: keys, method: selective",
            r"cut\.features: 'keys', but method selective .*add one: {backbone",
        ),
        (COLOURS, "features: keys, method: selective", r"cut\.features: 'keys', but method selective .*known: small"),
        (MIXED, "features: small, method: selective", r"cut\.features: 'small', but .*without concat; add one"),
        (MIXED, "features: keys, colour: small, method: spectral", r"cut\.colour: no feature set 'small' of backbone"),
    ],
)
def test_what_a_cut_needs_is_checked_before_any_job(tmp_path: Path, features: str, cut: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_cut(tmp_path, features, cut)


def test_token_recipes_have_a_background_where_they_have_a_foreground(tmp_path: Path) -> None:
    both = run(recipes=["kmeans", "comus"], foreground={"mass": 0.5}).recipes
    assert both["kmeans"].foreground is None  # the run's section gives no foreground to a recipe without
    assert (both["kmeans"].background, both["comus"].background) == (False, True)
    (tmp_path / "own.yaml").write_text(
        f"features: {{{KEYS}, semantic: {{backbone: efficientnet_lite0}}}}\n"
        "regions: {features: semantic, pool: token}\nforeground: {features: keys, mass: 0.7}\n"
    )
    own = run(recipes=[str(tmp_path / "own.yaml")], foreground={"mass": 0.5, "clusters": 30}).recipes["own"]
    assert own.background
    assert own.sections()["foreground"] == {
        "features": "keys", "clusters": 30, "threshold": None, "max_fit_points": 500_000, "method": "attention",
        "sigma": 0.6, "mass": 0.5, "least": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("regions", "foreground", "message"),
    [
        ("pool: token", "{features: keyz}", r"foreground\.features: no feature set 'keyz' \(did you mean 'keys'\?\)"),
        (
            "pool: token",
            "{features: small}",
            r"features\.small\.facet: 'token', but foreground\.method attention needs facet: key of a ViT with a cls",
        ),
        ("pool: token", "{features: keys, mas: 1}", r"foreground\.mas: unknown key \(did you mean 'mass'\?\)"),
        ("pool: token", "{features: keys, threshold: 2}", r"foreground\.threshold: .*found 2"),
        ("pool: token", "{features: keys, method: atention}", r"foreground\.method.*did you mean 'attention'"),
        ("pool: mean", "{features: keys}", r"foreground: regions\.pool: 'mean' has a background from its cut"),
    ],
)
def test_what_a_foreground_needs_is_checked_before_any_job(
    tmp_path: Path, regions: str, foreground: str, message: str
) -> None:
    cut = "cut: {features: keys, method: ncut}\n" if "mean" in regions else ""
    (tmp_path / "own.yaml").write_text(
        f"features: {{{COLOURS}}}\n{cut}regions: {{features: small, {regions}}}\nforeground: {foreground}\n"
    )
    with pytest.raises(ConfigError, match=message):
        run(recipes=[str(tmp_path / "own.yaml")])


def test_config_overrides_recipe_overrides_default() -> None:
    recipe = run(recipes=["comus"], cluster={"clusters": 30}).recipes["comus"]
    assert recipe.cluster.params.clusters == 30
    assert recipe.paint.settings.keep_closest == 0.8  # from the recipe
    assert recipe.paint.settings.upsample == 4  # the default


def test_another_method_drops_the_parameters_of_the_recipes_method() -> None:
    recipe = run(recipes=["comus"], cut={"method": "grid"}).recipes["comus"]
    assert recipe.cut.method == "grid"
    assert not hasattr(recipe.cut.params, "tau")


def test_overrides_do_not_add_rounds_or_cuts_to_recipes_without_them() -> None:
    both = run(recipes=["kmeans", "comus"], rounds={"count": 3}, cut={"tau": 0.1})
    assert both.recipes["comus"].round_count == 3
    assert both.recipes["kmeans"].round_count == 0
    assert both.recipes["kmeans"].cut is None


@pytest.mark.parametrize("value", ["0,1,2", [0, 1, 2], ["0", "1", "2"]])
def test_lists_from_the_command_line(value: Any) -> None:
    assert run(recipes="kmeans", seeds=value).config.seeds == [0, 1, 2]


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"features": {"keep": {"facet": "key"}}}, ["features.keep", "true or false"]),
        ({"features": {"semantic": False}}, ["features.semantic", "key: value"]),
        ({"imges": "x"}, ["config.yaml: imges", "unknown key", "did you mean 'images'"]),
        ({"inputs": {"shard_sise": 3}}, ["inputs.shard_sise", "did you mean 'shard_size'"]),
        ({"inputs": {"shard_size": 0}}, ["inputs.shard_size", "greater than or equal to 1", "found 0"]),
        ({"inputs": {"shard_size": "many"}}, ["inputs.shard_size", "valid integer", "'many'"]),
        ({"inputs": 3}, ["inputs", "found 3"]),
        ({"cluster": {"clusers": 3}}, ["cluster.clusers", "did you mean 'clusters'"]),
        ({"cluster": {"method": "kmeens"}}, ["cluster.method", "'kmeens'", "did you mean 'kmeans'", "known: "]),
        ({"cut": {"tau": 1.5}}, ["cut.tau", "1.5"]),
        ({"recipes": ["comuz"]}, ["no recipe 'comuz'", "did you mean 'comus'", "kmeans"]),
        ({"recipes": ["comus", "comus"]}, ["given twice"]),
        ({"recipes": []}, ["recipes: empty"]),
        ({"features": {"grupping": {}}}, ["features.grupping", "no recipe"]),
        ({"features": {"grouping": {"facet": "keys"}}}, ["features.grouping.facet", "'keys'"]),
        ({"features": {"grouping": {"size": {"square": 448, "short_side": 3}}}}, ["features.grouping.size"]),
        ({"regions": {"features": "semantik"}}, ["regions.features", "did you mean 'semantic'"]),
        ({"evaluate": {"protocols": ["hungarian"]}}, ["evaluate.protocols", "hungarian"]),
    ],
)
def test_errors_are_one_line_with_key_value_and_way_out(keys: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        run(**({"recipes": ["comus"]} | keys))
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_broken_recipe_file_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "mine.yaml"
    broken.write_text("features: [unclosed")
    with pytest.raises(ConfigError, match=r"mine\.yaml: not valid YAML"):
        run(recipes=[str(broken)])
    broken.write_text("features: {a: {backbone: x}}\nregions: {features: a}")
    with pytest.raises(ConfigError, match=r"mine\.yaml: regions.pool: 'mean' needs a cut"):
        run(recipes=[str(broken)])


def test_slug_is_unique_and_safe() -> None:
    a = FeatureSet(backbone="vit_small_patch16_224.dino", facet="key", size=Size(short_side=480))
    b = FeatureSet(backbone="vit_small_patch16_224.dino", facet="key", size=Size(short_side=480), key_bias="keep")
    assert a.slug != b.slug
    assert a.slug.startswith("vit_small_patch16_224.dino-key-sh480-")
    assert "/" not in FeatureSet(backbone="hf-hub:org/model").slug


def test_schema_allows_what_any_method_allows() -> None:
    for body in ({"clusters": None, "method": "leiden"}, {"clusters": 60_000}, {"fine": 15_000, "method": "spectral"}):
        jsonschema.validate({"cluster": body}, schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"cluster": {"clusters": 0}}, schema())


def test_schema_file_is_up_to_date() -> None:
    stored = json.loads((ROOT / "workflow/schemas/config.schema.json").read_text())
    assert stored == json.loads(json.dumps(schema())), "run `make schema`"


def test_loading_a_config_imports_nothing_heavy() -> None:
    code = (
        "import sys, yaml; from maskmill.recipe.resolve import load;"
        f"load(yaml.safe_load(open({str(ROOT / 'config.yaml')!r})), {str(RECIPES)!r});"
        "print([m for m in ('torch', 'timm', 'zarr', 'dask', 'scipy', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_student_on_photos_needs_its_encoder_and_no_features() -> None:
    recipe = run(recipes=["comus"], rounds={"student": "deeplabv3plus", "features": ["nothing"]}).recipes["comus"]
    assert recipe.photos(1)
    assert recipe.rounds.params.encoder == "semantic"
    assert not run(recipes=["comus"], preset="small").recipes["comus"].photos(1)
    with pytest.raises(ConfigError, match=r"rounds\.encoder: no feature set 'semantics' \(did you mean 'semantic'\?\)"):
        run(recipes=["comus"], rounds={"student": "deeplabv3plus", "encoder": "semantics"})


def test_the_surest_images_need_regions(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "features: {semantic: {backbone: efficientnet_lite0}}\n"
        "regions: {features: semantic, pool: token}\n"
        "rounds: {count: 1, features: [semantic], images: surest}\n"
    )
    with pytest.raises(ConfigError, match=r"own\.yaml: rounds\.images: surest ranks regions, but pool: token has none"):
        run(recipes=[str(own)])


def test_the_description_of_named_holds_for_any_number() -> None:
    assert not re.search("[0-9]", run(recipes=["named"], cluster={"clusters": 50}).recipes["named"].description)


def test_abstaining_by_confidence_needs_labels(tmp_path: Path) -> None:
    def paint(**section: Any) -> dict[str, Any]:
        made = run(recipes=["kmeans"], paint=section, taxonomy={"source": "examples", "labels": str(tmp_path)})
        return made.recipes["kmeans"].paint.as_dict()

    assert paint(abstain=0.5, abstain_by="confidence")["abstain_by"] == "confidence"
    assert "abstain_by" not in paint(abstain=0.5)  # and nothing runs again for it
    for section in ({"abstain_by": "confidence"}, {"abstain": 0.5, "abstain_by": "confidence"}):
        with pytest.raises(ConfigError, match=r"paint\.abstain_by: confidence: needs abstain, and labels"):
            run(recipes=["kmeans"], paint=section) if "abstain" in section else paint(**section)


CHAIN = """
features:
  grouping: {backbone: vit_small_focus, facet: key}
  semantic: {backbone: efficientnet_lite0}
cut: {features: grouping, method: ncut}
regions: {features: semantic}
rounds:
  count: 3
  student: token_head
  steps: 50
  from_round:
    2: {student: deeplabv3plus, encoder: semantic, steps: 500}
    3: {loss: ohem, refine: crf}
presets:
  small: {rounds: {steps: 5}, cluster: {clusters: 3}, features: {semantic: {size: {square: 64}}}}
  other:
    cluster: {clusters: 4}
    features: {extra: {backbone: colour, stride: 8}}
    rounds: {from_round: {3: {steps: 7}}}
"""


@pytest.fixture
def chain(tmp_path: Path) -> str:
    (tmp_path / "chain.yaml").write_text(CHAIN)
    return str(tmp_path / "chain.yaml")


def test_rounds_change_from_a_round_on(chain: str) -> None:
    recipe = run(recipes=[chain]).recipes["chain"]
    assert [recipe.rounds_at(r).method for r in (1, 2, 3, 9)] == ["token_head", *["deeplabv3plus"] * 3]
    assert [recipe.rounds_at(r).params.steps for r in (1, 2, 3)] == [50, 500, 500]
    assert [recipe.rounds_at(r).params.loss for r in (1, 2, 3)] == ["ce", "ce", "ohem"]
    assert [recipe.rounds_at(r).settings.refine.method for r in (1, 2, 3)] == ["none", "none", "crf"]
    assert [recipe.photos(r) for r in (1, 2, 3)] == [False, True, True]
    changes = recipe.sections()["rounds"]["from_round"]
    assert changes[2]["student"] == "deeplabv3plus"
    assert set(changes[3]) == {"loss", "refine"}


def test_overrides_hold_in_every_round_that_knows_them(chain: str) -> None:
    recipe = run(recipes=[chain], rounds={"steps": 9, "hidden": 8, "encoder": "semantic"}).recipes["chain"]
    assert [recipe.rounds_at(r).params.steps for r in (1, 2, 3)] == [9, 9, 9]
    assert recipe.rounds_at(1).params.hidden == 8
    recipe = run(recipes=[chain], rounds={"from_round": {3: {"steps": 9}}}).recipes["chain"]
    assert [recipe.rounds_at(r).params.steps for r in (1, 2, 3)] == [50, 500, 9]
    one = run(recipes=[chain], rounds={"student": "token_head"}).recipes["chain"]
    assert [one.rounds_at(r).method for r in (1, 2, 3)] == ["token_head"] * 3
    assert one.rounds_at(3).params.loss == "ce"  # a parameter of the student that is no more


def test_presets_lie_between_recipe_and_run(chain: str) -> None:
    small = run(recipes=["kmeans", chain], preset="small").recipes
    assert small["chain"].cluster.params.clusters == 3
    assert [small["chain"].rounds_at(r).params.steps for r in (1, 2, 3)] == [5, 5, 5]
    assert small["chain"].features["semantic"].size == Size(square=64)
    assert small["kmeans"].cluster.params.clusters == run(recipes=["kmeans"]).recipes["kmeans"].cluster.params.clusters
    assert run(recipes=[chain], preset=None) == run(recipes=[chain])
    both = run(recipes=[chain], preset="small,other").recipes["chain"]
    assert both.cluster.params.clusters == 4
    assert both.features["extra"].backbone == "colour"
    assert [both.rounds_at(r).params.steps for r in (1, 2, 3)] == [5, 5, 7]
    assert run(recipes=[chain], preset="small", cluster={"clusters": 9}).recipes["chain"].cluster.params.clusters == 9


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"preset": "smal"}, ["preset", "'smal'", "did you mean 'small'", "known: crf, other, scenes, small"]),
        ({"recipes": ["kmeans"], "preset": "tiny"}, ["no recipe has 'tiny'", "known: crf, scenes, small"]),
        ({"rounds": {"from_round": {1: {}}}}, ["rounds.from_round.1", "greater than or equal to 2"]),
        ({"rounds": {"from_round": {2: {"stepz": 1}}}}, ["rounds.from_round.2.stepz", "did you mean 'steps'"]),
        ({"rounds": {"from_round": {2: {"count": 1}}}}, ["from_round.2.count", "beside from_round"]),
        ({"rounds": {"from_round": {2: {"encoder": "semantics"}}}}, ["rounds.encoder", "did you mean 'semantic'"]),
    ],
)
def test_errors_in_presets_and_later_rounds(chain: str, keys: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        run(**({"recipes": [chain]} | keys))
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_students_of_instances_learn_from_regions_or_from_instances(tmp_path: Path) -> None:
    recipe = run(recipes=["cutler"]).recipes["cutler"]
    assert [recipe.instances(r) for r in range(5)] == [False, True, True, True, False]
    assert [recipe.rounds_at(r).params.drop_loss for r in (1, 2, 3)] == [0.01, 0, 0]
    assert [recipe.rounds_at(r).params.keep_score for r in (2, 3)] == [0.7, 0.65]
    tokens = (RECIPES / "kmeans.yaml").read_text() + "\nrounds: {count: 1, student: instance, encoder: semantic}\n"
    (tmp_path / "tokens.yaml").write_text(tokens)
    with pytest.raises(ConfigError, match=r"rounds\.student: instance learns from regions, but pool: token has none"):
        run(recipes=[str(tmp_path / "tokens.yaml")])
    later = {"count": 2, "student": "deeplabv3plus", "from_round": {2: {"student": "instance"}}}
    with pytest.raises(ConfigError, match="instance in round 2 follows deeplabv3plus, which predicts no instances"):
        run(recipes=["comus"], rounds=later)


def test_a_recipe_by_path_is_looked_for_here_and_beside_the_workflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "workflow/recipes").mkdir(parents=True)
    (tmp_path / "workflow/mine").mkdir()
    (tmp_path / "here").mkdir()
    text = (RECIPES / "kmeans.yaml").read_text()
    (tmp_path / "workflow/mine/own.yaml").write_text(text)
    monkeypatch.chdir(tmp_path / "here")
    folder = tmp_path / "workflow/recipes"
    assert list(load({"recipes": ["mine/own.yaml"]}, folder).recipes) == ["own"]
    (tmp_path / "here/mine").mkdir()
    (tmp_path / "here/mine/own.yaml").write_text(text + "paint: {dropped: background}\n")
    assert load({"recipes": ["mine/own.yaml"]}, folder).recipes["own"].paint.settings.dropped == "background"
    with pytest.raises(ConfigError, match=r"no file 'mine/other\.yaml'"):
        load({"recipes": ["mine/other.yaml"]}, folder)
