"""YAML documents that a user writes: configurations and recipes. Whatever is wrong with a file is one line.

Such a file may be hostile or damaged: anchors that refer to themselves or unfold to millions of values, tabs, keys that
are given twice (of which YAML takes the last without a word), other encodings, pipes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from maskmill.errors import ConfigError, InputError, shown
from maskmill.reading import read_bounded

MOST_BYTES = 1 << 20
MOST_VALUES = 50_000  # of one document, anchors unfolded
DEEPEST = 50


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key that is given twice is an error, and brackets do not fill the stack."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEEPEST:
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {DEEPEST} levels", mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, Any] = {}
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge" else None
            if name in seen:
                first = seen[name].start_mark.line + 1
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name!r} is given twice, first in line {first}; keep one", key.start_mark
                )
            if name is not None:
                seen[name] = key
        return dict(super().construct_mapping(node, deep))

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """A date, a number or a key that Python cannot have is an error that names the line."""
        try:
            _check_whole(node)
            return super().construct_object(node, deep)
        except (ValueError, TypeError, OverflowError, AttributeError) as error:
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None


def _check_whole(node: yaml.Node) -> None:
    """A whole number that a person has not meant so is a ValueError: YAML 1.1 reads 017 as 15, and 1:30 as 90."""
    if node.tag != "tag:yaml.org,2002:int" or not isinstance(node.value, str):
        return
    text = node.value.replace("_", "")
    if re.fullmatch(r"[-+]?0[0-7]+", text):
        plain = f"{int(text)}"
        raise ValueError(
            f"{node.value} has a leading zero, with which YAML counts in eights ({int(text, 8)}); write {plain}, or "
            f"'{node.value}' in quotes where it is no number"
        )
    if ":" in text:
        raise ValueError(f"{node.value} is a number in base 60 to YAML; write '{node.value}' in quotes")


def read_mapping(path: str | Path, most_bytes: int = MOST_BYTES, most_values: int = MOST_VALUES) -> dict[str, Any]:
    """The keys of a YAML file; none of an empty one.

    Args:
        most_bytes, most_values: that the file, and the document in it, may have.

    Raises:
        ConfigError: it cannot be read, is not UTF-8, no YAML, no mapping, too large, or refers to itself.
    """
    try:
        body = read_bounded(path, most_bytes)
    except InputError as error:
        raise ConfigError(f"{path}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a YAML file") from None
    if body is None:
        raise ConfigError(f"{path}: more than {most_bytes >> 20} MiB, which is no configuration; give a YAML file")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: not UTF-8 (line {line}); save it as UTF-8") from None
    try:
        document = _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {_where(error, text)}") from None
    if document is None:
        return {}
    check_tree(document, str(path), most_values)
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: top level: expected key: value pairs, found {shown(document)}")
    return document


def _where(error: yaml.YAMLError, text: str) -> str:
    """`line 3, column 5: expected ...`, with the text of the line."""
    if isinstance(error, yaml.reader.ReaderError):
        line, column, problem = text[: error.position].count("\n"), 0, f"{error.reason} ({error.character:#x})"
    elif isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        opened, mark = error.context_mark, error.problem_mark
        if opened is not None and mark.index >= len(text):  # the file ends in the middle of something
            mark = opened
        line, column, problem = mark.line, mark.column, str(error.problem)
    else:
        return " ".join(str(error).split())[:200]
    lines = text.split("\n")
    return f"line {line + 1}, column {column + 1}: {' '.join(problem.split())[:200]}, in {shown(lines[line])}"


def check_tree(document: Any, where: str, most_values: int = MOST_VALUES) -> None:
    """Raises ConfigError where nested values refer to themselves, are too many, or lie too deep."""
    ahead: list[tuple[Any, tuple[Any, ...]]] = [(document, ())]
    count = 0
    while ahead:
        value, path = ahead.pop()
        count += 1
        if len(path) > DEEPEST or count > most_values:
            key = ".".join(str(part)[:40] for part in path[:3])
            raise ConfigError(
                f"{where}: {key}: nested deeper than {DEEPEST} levels or more than {most_values} values, as by an "
                "anchor that refers to itself; write it out"
            )
        if isinstance(value, Mapping):
            ahead += [(item, (*path, key)) for key, item in value.items()]
        elif isinstance(value, list | tuple | set):
            ahead += [(item, (*path, i)) for i, item in enumerate(value)]
