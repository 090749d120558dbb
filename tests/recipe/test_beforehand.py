"""What would stop a run hours after its start is said at the start: packages, backbones, counts, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from input_files import picture

from maskmill.backbones.network import import_timm
from maskmill.errors import ConfigError, InputError
from maskmill.images.presence import check_presence
from maskmill.recipe import architectures as names
from maskmill.recipe import packages
from maskmill.recipe.architectures import architectures, check_backbones
from maskmill.recipe.model import Run
from maskmill.recipe.origin import Origin
from maskmill.recipe.packages import check_packages, foreign
from maskmill.recipe.resolve import SHIPPED, load
from maskmill.recipe.run_checks import check_counts


def run(*recipes: str, **keys: Any) -> Run:
    return load({"recipes": list(recipes), "preset": "small"} | keys, SHIPPED)


# Packages


def test_what_methods_import_is_found_without_importing_it() -> None:
    assert {"umap", "pynndescent"} <= foreign("maskmill.reduce.umap")
    assert "umap" not in foreign("maskmill.reduce.pca")
    assert "sklearn" in foreign("maskmill.cluster.hdbscan")
    assert "scipy" in foreign("maskmill.refine.bilateral")
    assert "torch" in foreign("maskmill.rounds.instance")  # a folder


def test_all_shipped_recipes_are_complete_here() -> None:
    check_packages(run(*(path.stem for path in SHIPPED.glob("*.yaml"))))


def test_a_missing_package_names_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_installed", lambda package: package != "umap")
    check_packages(run("kmeans"))
    said = r"recipe umap: reduce.method: umap needs the Python package umap-learn, .* pip install -c constraints.txt"
    with pytest.raises(ConfigError, match=said):
        check_packages(run("kmeans", "umap"))
    monkeypatch.setattr(packages, "_installed", lambda package: package != "sklearn")
    with pytest.raises(ConfigError, match=r"recipe hdbscan: cluster.method: hdbscan .* scikit-learn"):
        check_packages(run("hdbscan"))


# Backbones


def named(backbone: str, **more: Any) -> Run:
    return run("kmeans", features={"semantic": {"backbone": backbone} | more})


def test_timms_names_are_those_of_timm() -> None:
    """Read from its source; an update of timm that writes them otherwise fails here."""
    timm = import_timm()
    assert set(architectures()) == set(timm.list_models())
    assert [name for name in timm.list_models(pretrained=True) if names._problem(name, True)] == []


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        (
            "resnet10tt",
            r"'resnet10tt' is not a timm model \(did you mean 'resnet10t'\?\); embedded: ",
        ),
        ("vit_small_focuss", r"did you mean 'vit_small_focus'"),
        ("vit_small_patch16_224.dinno", r"has no such weights in timm \(did you mean 'vit_small_patch16_224.dino'\?\)"),
    ],
)
def test_an_unknown_backbone_names_the_nearest(backbone: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^recipe kmeans: features.semantic.backbone: .*{said}"):
        check_backbones(named(backbone))


@pytest.mark.parametrize("backbone", ["vit_small_patch16_224.dino", "resnet50", "hf-hub:x/y", "timm/anything"])
def test_known_backbones(backbone: str) -> None:
    check_backbones(named(backbone))


def test_weights_of_ones_own_need_no_tag_of_timm(tmp_path: Path) -> None:
    check_backbones(named("vit_small_patch16_224.mine", checkpoint=str(tmp_path / "c.pth")))


def test_timm_itself_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "architectures", lambda: {})
    with pytest.raises(ConfigError, match="needs the Python package timm"):
        check_backbones(named("resnet50"))
    check_backbones(named("colour"))


# Counts


@pytest.mark.parametrize(
    ("recipe", "images", "clusters", "said"),
    [
        ("tokencut", 12, 13, r"13 clusters, but 12 images have at most 12 regions \(cut: ncut\), 1 an image; set"),
        ("maskcut", 1, 4, r"4 clusters, but 1 image has at most 3 regions \(cut: maskcut\), 3 an image"),
        ("kmeans", 2, 9, r"9 clusters, but 2 images have at most 8 tokens, 4 an image"),
    ],
)
def test_more_clusters_than_there_can_be_vectors(recipe: str, images: int, clusters: int, said: str) -> None:
    small = {"features": {"semantic": {"size": {"square": 64}, "stride": 32}}} if recipe == "kmeans" else {}
    check_counts(run(recipe, cluster={"clusters": clusters - 1}, **small).recipes, images)
    with pytest.raises(ConfigError, match=rf"^recipe {recipe}: cluster.clusters: {said}"):
        check_counts(run(recipe, cluster={"clusters": clusters}, **small).recipes, images)


def test_methods_that_find_the_number_take_fewer() -> None:
    check_counts(run("tokencut", cluster={"method": "hdbscan", "clusters": 100}).recipes, 3)


def test_counts_that_the_configuration_says() -> None:
    with pytest.raises(ConfigError, match=r"20 clusters, but 5 images have at most 5 regions"):
        run("tokencut", cluster={"clusters": 20}, inputs={"max_images": 5})
    for many in ({"window": {"size": 256}}, {"pages": "all"}, {"composites": {"natural": [2, 1, 0]}}):
        run("tokencut", cluster={"clusters": 20}, inputs={"max_images": 5} | many)  # a file is more pictures than one
    with pytest.raises(ConfigError, match=r"cluster.max_fit_points: 10, but 20 clusters are fitted; set it to 2000"):
        run("kmeans", cluster={"clusters": 20, "max_fit_points": 10})


def test_masks_have_room_for_segments_and_stuff() -> None:
    many = {"clusters": 65000, "max_fit_points": 100_000}
    assert run("u2seg", cluster=many, paint={"stuff": {"clusters": 534}}).recipes["u2seg"].paint.settings.stuff
    said = r"u2seg.yaml: paint.stuff.clusters: 535, and cluster.clusters: 65000, but a mask has at most 65534 classes; "
    with pytest.raises(ConfigError, match=said):
        run("u2seg", cluster=many, paint={"stuff": {"clusters": 535}})


# Files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a/1.png")
    picture(tmp_path / "b/1.png")
    return tmp_path


def absent(text: str, folder: Path, **keys: Any) -> str:
    """What is said of a config.yaml of this text."""
    import yaml

    (folder / "config.yaml").write_text(text)
    body = yaml.safe_load(text)
    with pytest.raises(InputError) as told:
        check_presence(run("kmeans", **body), Origin(["config.yaml"], keys))
    assert "\n" not in str(told.value)
    return str(told.value)


def test_files_that_are_there(folder: Path) -> None:
    (folder / "c.pth").touch()
    for keys in ({"images": "a"}, {"images": ["a", "b/*.png"], "labels": "b"}, {"images": "a/1.png"}, {}):
        check_presence(run("kmeans", **keys), Origin())
    check_presence(run("kmeans", features={"semantic": {"backbone": "resnet18", "checkpoint": "c.pth"}}), Origin())


def test_files_that_are_not_there(folder: Path) -> None:
    said = absent("images: gone\n", folder)
    assert said.startswith(
        f"config.yaml: images: 'gone' does not exist; it was looked for in {folder}; give a folder, "
    )
    assert absent("images: gone\n", folder, images="gone").startswith("--config: images: 'gone'")
    assert "no file matches 'a/*.jpg'" in absent("images: 'a/*.jpg'\n", folder)
    assert "images: 'gone' does not exist" in absent("images: [a, gone]\n", folder)
    assert "config.yaml: labels: 'gone' does not exist" in absent("images: a\nlabels: gone\n", folder)
    assert "give several as a list: images: [a, b]" in absent("images: a, b\n", folder)
    said = absent("features: {semantic: {backbone: resnet18, checkpoint: no.pth}}\n", folder)
    assert said == "recipe kmeans: features.semantic.checkpoint: 'no.pth' does not exist"


@pytest.mark.parametrize("text", ["images: {} #1", "images:\n- a\n- {} #1 and more"])
def test_a_path_of_which_yaml_takes_half_for_a_comment(text: str, folder: Path) -> None:
    said = absent(text.format("x y"), folder)
    assert "images: 'x y' does not exist; config.yaml has 'x y #1" in said
    assert "YAML takes all from ' #' on for a comment; quote the path" in said
    whole = text.format("b").rpartition("b")[2]
    picture(folder / f"b{whole}/1.png")
    said = absent(text.format("b"), folder)
    assert f"images: 'b' was read, and 'b{whole}' is there: in YAML a comment begins at ' #'" in said
    check_presence(run("kmeans", images="b"), Origin([], {"images": "b"}))


def test_a_comment_is_a_comment(folder: Path) -> None:
    (folder / "config.yaml").write_text("images: a  # my pictures\n")
    check_presence(run("kmeans", images="a"), Origin(["config.yaml"]))


# Windows


def test_a_window_smaller_than_a_token_or_without_a_stride_is_refused() -> None:
    big = {"backbone": "colour", "stride": 32}
    run("kmeans", features={"semantic": big}, inputs={"window": {"size": 32, "overlap": 8}})
    with pytest.raises(ConfigError, match=r"inputs\.window\.size: 16 pixels are less than one token of colour \(32"):
        run("kmeans", features={"semantic": big}, inputs={"window": {"size": 16}})
    with pytest.raises(ConfigError, match=r"inputs\.window.*overlap: 512 is not below size: 512"):
        run("kmeans", inputs={"window": {"size": 512, "overlap": 512}})
