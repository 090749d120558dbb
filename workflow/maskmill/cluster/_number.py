"""The keys `clusters` and `range`: a number of clusters, or `auto` and the numbers to choose from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

from maskmill.recipe.base import Model

AUTO: Literal["auto"] = "auto"
FIRST, LAST = 2, 64  # the numbers that are looked at unless `range` says others
MOST = 1000  # the largest number that can be looked for
INTEGER = TypeAdapter(int)


def _counted(least: int, most: int) -> BeforeValidator:
    """Reads a number of clusters within bounds, or the word auto; every problem is said in one line."""

    def read(value: Any) -> Any:
        if value == AUTO:
            return value
        try:
            number = INTEGER.validate_python(value)
        except ValidationError:
            raise ValueError("Input should be a whole number, or auto") from None
        if not least <= number <= most:
            raise ValueError(f"Input should be from {least} to {most}, or auto")
        return value if isinstance(value, bool) else number  # what true means is asked elsewhere

    return BeforeValidator(read)


def no_auto(advice: str) -> BeforeValidator:
    """Refuses the word auto with advice; other values are read by the field."""

    def read(value: Any) -> Any:
        if value == AUTO:
            raise ValueError(f"auto is for methods that are told their number: {advice}")
        return value

    return BeforeValidator(read)


UpTo65534 = Annotated[Annotated[int, Field(ge=1, le=65534)] | Literal["auto"], _counted(1, 65534)]
From2To65534 = Annotated[Annotated[int, Field(ge=2, le=65534)] | Literal["auto"], _counted(2, 65534)]
UpTo10000 = Annotated[Annotated[int, Field(ge=2, le=10_000)] | Literal["auto"], _counted(2, 10_000)]
UpTo1000 = Annotated[Annotated[int, Field(ge=2, le=1000)] | Literal["auto"], _counted(2, 1000)]


class NumberParams(Model):
    """Parameters of a method whose key `clusters` may be auto.

    A subclass has the field `clusters`. The default of `range` is written out where `clusters` is auto, and the key is
    absent from the section where it is not: what does not look for a number does not depend on it.
    """

    range: tuple[Annotated[int, Field(ge=2, le=MOST)], Annotated[int, Field(ge=2, le=MOST)]] | None = Field(
        None, description=f"with clusters: auto, the smallest and the largest number to choose from; [{FIRST}, {LAST}]"
    )

    @model_validator(mode="before")
    @classmethod
    def _written_out(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("clusters") == AUTO and value.get("range") is None:
            fine = value.get("fine", cls.model_fields["fine"].default if "fine" in cls.model_fields else LAST)
            last = min(LAST, fine) if isinstance(fine, int) else LAST
            return dict(value) | {"range": [FIRST, max(last, FIRST + 1)]}
        return value

    @model_validator(mode="after")
    def _sound_range(self) -> NumberParams:
        if self.range is None:
            return self
        if not self.auto:
            raise ValueError("range is for clusters: auto; set it, or drop range")
        if self.range[0] >= self.range[1]:
            raise ValueError(f"range must be [smallest, largest], and is {list(self.range)}")
        return self

    @model_serializer(mode="wrap")
    def _without_range(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if key != "range" or value is not None}

    @property
    def auto(self) -> bool:
        """True where the number is to be chosen."""
        return bool(getattr(self, "clusters", None) == AUTO)

    @property
    def count(self) -> int:
        """The number of clusters.

        Raises:
            ValueError: it is still to be chosen; `maskmill.cluster.run.fit` does so before it calls a method.
        """
        number = getattr(self, "clusters", None)
        if not isinstance(number, int):
            raise ValueError("clusters: auto has to be chosen first (maskmill.cluster.run.fit)")
        return number
