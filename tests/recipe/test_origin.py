"""An error of the configuration names the file that the value came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskmill.errors import ConfigError
from maskmill.recipe.origin import Origin
from maskmill.recipe.resolve import load

ROOT = Path(__file__).parents[2]


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    (tmp_path / "config.yaml").write_text("recipes: [kmeans]\ncluster: {clusters: 8}\ninputs: {shard_size: 4}\n")
    (tmp_path / "mine.yaml").write_text("inputs: {shard_size: 0}\ncluster: {clusters: 9}\n")
    return Origin([tmp_path / "config.yaml", tmp_path / "mine.yaml"], {"seeds": "x"})


def test_the_uppermost_layer_that_has_the_key_is_named(origin: Origin) -> None:
    assert origin.of(["recipes"]).endswith("config.yaml")
    assert origin.of(["inputs", "shard_size"]).endswith("mine.yaml")
    assert origin.of(["inputs", "absent"]).endswith("mine.yaml")  # its section is there
    assert origin.of(["seeds", "0"]) == "--config"
    assert origin.of(["nothing"]) == "config.yaml"
    assert Origin(["absent.yaml"]).of(["a"]) == "config.yaml"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"inputs": {"shard_size": 0}}, r"mine\.yaml: inputs\.shard_size: .* found 0"),
        ({"seeds": "x"}, r"^--config: seeds"),
        ({"recipes": ["kmean"]}, r"/config\.yaml: recipes: no recipe 'kmean' \(did you mean 'kmeans'\?\)"),
        ({"cluster": {"clusters": 0}}, r"kmeans\.yaml with .*mine\.yaml: cluster\.clusters: "),
    ],
)
def test_errors_name_where_the_value_stands(origin: Origin, config: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load({"recipes": ["kmeans"]} | config, ROOT / "recipes", origin)
