"""Which configuration a command outside the workflow reads: the same one as the workflow would read in this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from maskmill.errors import ConfigError

# The defaults that come with the package: a link to config.yaml in a checkout, a file where installed.
DEFAULTS = Path(__file__).parents[1] / "defaults.yaml"
PLACES = ("config.yaml", "config/config.yaml")  # of a clone and of a folder made by hand; of a deployed workflow


def read_configuration(given: Path | None) -> tuple[dict[str, Any], str]:
    """The keys of a configuration, and its name for messages.

    Args:
        given: the file; None for the one of this folder, or the defaults of the package where the folder has none.

    Raises:
        ConfigError: no such file, or not valid YAML.
    """
    found = given or next((Path(place) for place in PLACES if Path(place).is_file()), DEFAULTS)
    if not found.is_file():
        raise ConfigError(f"{found}: no such file; give --config, or run this in the folder of the run")
    try:
        body = yaml.safe_load(found.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{found}: not valid YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise ConfigError(f"{found}: cannot be read ({error.strerror}); mend its rights") from None
    if not isinstance(body or {}, dict):
        raise ConfigError(f"{found}: top level: expected key: value pairs, found {str(body)[:80]!r}")
    return body or {}, "the defaults of maskmill" if found == DEFAULTS else str(found)
