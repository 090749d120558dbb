"""The section `inputs`: which images, how they are read and checked, how they are cut into windows and shards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from maskmill.recipe import sensors
from maskmill.recipe.base import LocalPath, Model


def _number(value: Any) -> Any:
    """Digits as the number that they are: on the command line Snakemake gives all nested values as text."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


# A number from 0, or the name that the file gives it.
Channel = Annotated[Annotated[int, Field(ge=0)] | str, BeforeValidator(_number)]


class Window(Model):
    """How an image larger than a window is cut into windows, each of which is a picture of its own."""

    size: int = Field(1024, ge=16, le=8192, description="side of a window in pixels of the level; a square")
    overlap: int = Field(
        128, ge=0, description="pixels that neighbours share, cut in their middle; default: an eighth of the size"
    )
    level: int | None = Field(None, ge=0, description="of a pyramid: 0 is the full resolution, and the default")
    resolution: float | None = Field(
        None, gt=0, description="instead of level: microns (or units of the map) a pixel; the nearest level is read"
    )
    skip_empty: bool = Field(True, description="leave windows out that hold nothing but nodata or bare background")

    @model_validator(mode="before")
    @classmethod
    def _eighth(cls, value: Any) -> Any:
        """The section with its overlap."""
        if isinstance(value, Mapping) and value.get("overlap") is None:
            size = _number(value.get("size"))
            return {**value, "overlap": size // 8} if isinstance(size, int) else value
        return value

    @model_validator(mode="after")
    def _fits(self) -> Window:
        if self.overlap >= self.size:
            raise ValueError(f"overlap: {self.overlap} is not below size: {self.size}; at most half of it is useful")
        if self.level is not None and self.resolution is not None:
            raise ValueError("give level or resolution, not both")
        return self


class Inputs(Model):
    """Which images, how they are checked, and how they are cut into shards."""

    shard_size: int = Field(256, ge=1, le=100_000, description="images a shard (a job); keep shards below ~2000")
    max_rejected: float = Field(
        0.01, ge=0, le=1, description="stop when a larger share of the images is unreadable; 0: stop at the first"
    )
    max_rejected_count: int = Field(
        10, ge=0, description="but not for this many or fewer, up to half of the images, whatever their share"
    )
    verify: Literal["full", "header"] = Field("full", description="full decodes every image once")
    max_pixels: int = Field(
        178_956_970, ge=1, description="images of more pixels are rejected, by their header, before they are decoded"
    )
    frame_step: int = Field(1, ge=1, description="video: keep every n-th frame")
    max_images: int | None = Field(None, ge=1, description="keep this many, evenly spread over the sorted ids")
    # What is checked in parts is the same to the last byte: no hash has it.
    check_files: int = Field(
        20_000,
        ge=1,
        exclude=True,
        description="more files than this are checked in several jobs, each of about so many",
    )
    range: Literal["auto", "dtype", "percentile"] | tuple[float, float] = Field(
        "auto",
        description="values that become black and white; auto: 8 bits as they are, deeper by percentiles of the data "
        "set; percentile: 8 bits too; dtype: all that the type can hold; or [low, high]",
    )
    percentiles: tuple[float, float] = Field((0.5, 99.5), description="of a sample of all files, for range")
    channels: Literal["all"] | tuple[Channel, ...] | dict[str, str] | None = Field(
        None,
        description="which become red, green and blue: numbers from 0 or the file's names, or {sensor: composite}; "
        "all: backbones see every channel; default: as the file declares",
    )
    composites: dict[str, tuple[Channel, ...] | dict[str, str]] | None = Field(
        None, description="several pictures of every file: name -> channels"
    )
    pages: Literal["first", "all", "max", "mean"] = Field(
        "first", description="of files with several: the first, each as a picture, or the maximum or mean of all"
    )
    depth: LocalPath | None = Field(
        None, description="folder of depth maps with the same stems, larger is farther: PNG, TIFF or .npy"
    )
    window: Window | None = Field(None, description="cut larger images into windows; none: every image is one picture")

    @property
    def one_picture(self) -> bool:
        """Whether no file becomes more pictures than one."""
        return self.window is None and self.composites is None and self.pages != "all"

    @field_validator("range")
    @classmethod
    def _low_below_high(cls, value: Any) -> Any:
        if isinstance(value, tuple) and value[0] >= value[1]:
            raise ValueError(f"low {value[0]:g} is not below high {value[1]:g}; give [low, high]")
        return value

    @field_validator("percentiles")
    @classmethod
    def _of_hundred(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] <= 100:
            raise ValueError("give two numbers from 0 to 100, the lower one first")
        return value

    @field_validator("channels", mode="before")
    @classmethod
    def _no_word(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "all":
            raise ValueError("give all, or three of [numbers or names], or {sensor: composite}")
        if isinstance(value, list | tuple) and list(value) == ["all"]:
            raise ValueError("all is no list; write channels: all")
        return value

    @field_validator("channels")
    @classmethod
    def _three(cls, value: Any) -> Any:
        if value is not None and value != "all":
            sensors.numbers(value)
        return value

    @field_validator("composites")
    @classmethod
    def _named(cls, value: Any) -> Any:
        for name, channels in (value or {}).items():
            if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
                raise ValueError(f"{name!r} is no name of a composite; use letters, digits, _ and -")
            sensors.numbers(channels)
        return value

    @model_validator(mode="after")
    def _one_choice(self) -> Inputs:
        if self.channels is not None and self.composites is not None:
            raise ValueError("give channels or composites, not both")
        return self

    @model_validator(mode="after")
    def _depth_of_whole_images(self) -> Inputs:
        """How many pages a file has is seen in the file only: of those the stage itself speaks."""
        for key in ("window", "composites"):
            if self.depth is not None and getattr(self, key) is not None:
                raise ValueError(f"depth: {key} makes several pictures of one image, and depth maps are those of whole "
                                 f"images; drop {key} or depth")  # fmt: skip
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without keys of newer versions that are not set: runs that set none keep the hashes of older versions."""
        body: dict[str, Any] = handler(self)
        for key in ("range", "percentiles", "channels", "composites", "pages", "depth", "window"):
            if key in body and getattr(self, key) == type(self).model_fields[key].default:
                del body[key]
        return body
