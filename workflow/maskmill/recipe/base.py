"""What all sections of the configuration are made of: the model, kinds of values, and validation with messages.

Nothing here knows a stage.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
)

from maskmill.errors import ConfigError, nearest, one_line, shown
from maskmill.recipe.origin import Origin, place
from maskmill.redact import redact
from maskmill.urls import REFUSED, is_url

T = TypeVar("T", bound=BaseModel)
LARGEST = 2**63  # integers are 64 bits in every array


class Model(BaseModel):
    """A frozen section of the configuration; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def split_list(value: Any) -> Any:
    """`--config seeds=0,1,2` arrives as one string or one number, `--config preset=` as None."""
    if value is None:
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


def distinct(value: list[Any]) -> list[Any]:
    """A name that is given twice would be counted twice somewhere, and once elsewhere."""
    for each in value:
        if value.count(each) > 1:
            raise ValueError(f"{shown(each)} is given twice; keep one")
    return value


def _local(value: str | None) -> str | None:
    """Files only: a URL would be no file, and may carry a password into logs."""
    if isinstance(value, str) and is_url(value):
        raise ValueError(REFUSED)
    return value


LocalPath = Annotated[str, BeforeValidator(_local)]


def _sources(value: Any) -> Any:
    """One source of images, or a list of them; a list of one is that one."""
    if isinstance(value, str):
        return _local(value)
    if not isinstance(value, list | tuple) or not value or not all(isinstance(each, str) and each for each in value):
        raise ValueError("give a path, or a list of paths (quote a path that YAML takes for a number)")
    if "demo" in value:
        raise ValueError("demo stands for the embedded footage alone; write ./demo for a folder of this name")
    for each in value:
        _local(each)
    return value[0] if len(value) == 1 else list(value)


Images = Annotated[str | list[str], BeforeValidator(_sources)]


def switch(value: Any) -> Any:
    """`objects: true` asks for all defaults, `false` for nothing."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


def check_name(name: str, where: str) -> None:
    """Names of recipes and feature sets become folders and words of command lines; others are a ConfigError."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"{where}: {name!r} is no name; use letters, digits, _, - and . only, and begin with no mark")


def validate(
    model: type[T], body: Any, origin: str | Origin, prefix: str = "", known: Sequence[str] | None = None
) -> T:
    """Validate `body`; the first problem becomes one line: origin, key, value, reason, nearest key."""
    around = prefix.split(".") if prefix else []
    if not isinstance(body, Mapping):
        where = place(origin, around)
        raise ConfigError(redact(f"{where}: {prefix or 'top level'}: expected key: value pairs, found {shown(body)}"))
    for key in body:
        if not isinstance(key, str):
            where = place(origin, around)
            raise ConfigError(f"{where}: {prefix or 'top level'}: {shown(key)} is no name of a key; write it as text")
    try:
        made = model.model_validate(dict(body))
    except ValidationError as error:
        problem = error.errors()[0]
        parts = [str(part) for part in problem["loc"]]
        key = ".".join([prefix, *parts] if prefix else parts)
        if problem["type"] == "extra_forbidden":
            fields = known if known is not None and len(parts) == 1 else _fields_at(model, parts[:-1])
            options = f"; known: {', '.join(fields)}" if not nearest(parts[-1], fields) else ""
            reason = f"unknown key{nearest(parts[-1], fields)}{options}"
        elif problem["type"] == "missing":
            reason = "is required"
        elif not key:  # of the whole, which is too long to be shown
            whole = f"{place(origin, [])}: {problem['msg'].removeprefix('Value error, ')}"
            raise ConfigError(one_line(redact(whole))) from None
        else:
            reason = f"{problem['msg'].removeprefix('Value error, ')}, found {shown(problem['input'])}"
        where = place(origin, [*around, *parts])
        raise ConfigError(one_line(redact(f"{where}: {key}: {reason}"))) from None
    for path, reason in _misread(body, made):
        key = ".".join([prefix, *path] if prefix else path)
        raise ConfigError(one_line(redact(f"{place(origin, [*around, *path])}: {key}: {reason}")))
    return made


def _misread(given: Any, read: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """(path, reason) where pydantic takes a value for something that nobody means by it."""
    if isinstance(given, bool) and isinstance(read, int | float) and not isinstance(read, bool):
        yield path, f"Input should be a number, found {given}"
    elif isinstance(read, int) and abs(read) >= LARGEST:
        yield path, f"Input should be less than 2^63, found {shown(given)}"
    elif isinstance(given, Mapping) and isinstance(read, Mapping | BaseModel):
        found = {str(k): v for k, v in (read if isinstance(read, Mapping) else read.__dict__).items()}
        for key, value in given.items():
            if str(key) in found:
                yield from _misread(value, found[str(key)], (*path, str(key)))
    elif isinstance(read, list | tuple):
        given = [given] if isinstance(given, int) else given  # one for a list of one
        for i, (one, other) in enumerate(zip(given if isinstance(given, list | tuple) else (), read, strict=False)):
            yield from _misread(one, other, (*path, str(i)))


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    """Field names of the (nested) model at a key path."""
    for part in path:
        field = model.model_fields.get(part)
        annotation = field.annotation if field else None
        models = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        if not models:
            return []
        model = models[0]  # of `Size | None` as well
    return list(model.model_fields)
