"""Where the values of a configuration came from: a file, another `--configfile`, or `--config` on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskmill.errors import ConfigError
from maskmill.recipe.documents import read_mapping


@dataclass(frozen=True)
class Origin:
    """Names the place where a key of the configuration was given, for messages.

    Attributes:
        files: configuration files, later ones lie over earlier ones. given: what the command line gave, over all files.
        default: the name of a key that none of them has.
    """

    files: Sequence[str | Path] = ()
    given: Mapping[str, Any] | None = None
    default: str = "config.yaml"

    def of(self, keys: Iterable[str]) -> str:
        """The place of a key, given from the outermost section inwards, or of the nearest section around it."""
        path = list(keys)
        layers = [("--config", self.given or {}), *((str(file), _read(file)) for file in reversed(self.files))]
        for length in range(len(path), 0, -1):
            for name, body in layers:
                if _has(body, path[:length]):
                    return name
        return self.default


def place(origin: str | Origin, keys: Iterable[str]) -> str:
    """The place of a key; an origin that is a name is the place of every key."""
    return origin if isinstance(origin, str) else origin.of(keys)


def _has(body: Any, path: Sequence[str]) -> bool:
    for key in path:
        if not isinstance(body, Mapping):
            return False
        names = {str(name): value for name, value in body.items()}
        if key not in names:
            return False
        body = names[key]
    return True


def _read(file: str | Path) -> Any:
    """What a configuration file holds; nothing where it cannot be read, as this only serves a message."""
    try:
        return read_mapping(file)
    except ConfigError:
        return {}
