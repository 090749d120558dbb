"""Which configuration a command outside the workflow reads: the same one as the workflow would read in this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskmill.errors import ConfigError
from maskmill.recipe.documents import read_mapping

# The defaults that come with the package: a link to config.yaml in a checkout, a file where installed.
DEFAULTS = Path(__file__).parents[1] / "defaults.yaml"
PLACES = ("config.yaml", "config/config.yaml")  # of a clone and of a folder made by hand; of a deployed workflow


def read_configuration(given: Path | None) -> tuple[dict[str, Any], str]:
    """The keys of a configuration, and its name for messages.

    Args:
        given: the file; None for the one of this folder, or the defaults of the package where the folder has none.

    Raises:
        ConfigError: no such file, or see `read_mapping`.
    """
    found = given or next((Path(place) for place in PLACES if Path(place).is_file()), DEFAULTS)
    if not found.exists():
        raise ConfigError(f"{found}: no such file; give --config, or run this in the folder of the run")
    return read_mapping(found), "the defaults of maskmill" if found == DEFAULTS else str(found)
