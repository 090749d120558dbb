"""A set of dense features in the configuration: which backbone, how it reads images, how its tokens are stored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from maskmill.recipe import backbones
from maskmill.recipe.base import LocalPath, Model
from maskmill.store.hashing import json_hash

LONGEST = 8  # with size.short_side the long side is at most this many times the short side


class Size(Model):
    """How an image is resized before the backbone; sides are rounded to whole patches. Exactly one key."""

    square: int | None = Field(None, ge=16, le=8192, description="both sides, aspect ratio not kept")
    short_side: int | None = Field(None, ge=16, le=8192, description="short side, aspect ratio kept")
    long_side: int | None = Field(None, ge=16, le=8192, description="long side, aspect ratio kept")

    @model_validator(mode="after")
    def _one(self) -> Size:
        if sum(side is not None for side in (self.square, self.short_side, self.long_side)) != 1:
            raise ValueError("give exactly one of square, short_side, long_side")
        return self


UNSET = ("pq", "sift", "pretrain", "shifts", "debias", "concat", "upsample")  # not serialised where they are None
STORING = {"dtype", "pq", "key_bias"}  # keys of a feature set that mean nothing to a head that trains its backbone


class ProductCode(Model):
    """How tokens become codes of a few bytes (dtype: pq). The codec is fitted on tokens of a sample of the images."""

    bytes: int = Field(32, ge=1, le=256, description="bytes a token; a divisor of the token's length")
    rotate: bool = Field(True, description="principal directions, dealt out to the bytes; false: tokens as they are")
    images: int = Field(256, ge=1, le=100_000, description="fit on this many images, drawn by the seed")
    points: int = Field(65_536, ge=256, description="and on at most this many tokens, even over these images")
    seed: int = Field(0, ge=0, description="of the draw; feature sets are shared by all seeds of a run")


class SiftPatch(Model):
    """The patch around every cell that backbone sift describes."""

    patch: int = Field(16, ge=8, le=256, description="pixels along a side, after the image is resized")
    root: bool = Field(True, description="RootSIFT: the square root of a descriptor that sums to 1; false: SIFT")


class Debias(Model):
    """What of a token says where it lies, and not what is there, is taken out (maskmill.backbones._debias)."""

    method: Literal["position"] = Field("position", description="the subspace of the tokens of a black image (INSID3)")
    components: int = Field(20, ge=1, le=4096, description="its principal directions that are removed")


class Upsample(Model):
    """Tokens on a finer grid that follows the edges of the photo (maskmill.backbones._upsample)."""

    factor: Literal[2, 4] = Field(2, description="cells along a side of a token; tokens take its square of the disk")
    space: float = Field(0.5, gt=0, le=4, description="standard deviation of a token's reach, in tokens")
    colour: float = Field(0.1, gt=0, le=10, description="distance of colours in 0..1 at which a token has e^-0.5")


class Part(Model):
    """What else a feature set reads: the tokens of another backbone, or of another layer of the same one."""

    backbone: LocalPath | None = Field(None, description="a name, without training; default: the set's own")
    checkpoint: LocalPath | None = Field(
        None, description="local weights; default: the set's, where the backbone is the same"
    )
    facet: Literal["token", "key", "query", "value"] = Field("token", description="what to read of this part")
    key_bias: Literal["subtract", "keep"] = Field("subtract", description="of this part")
    layer: int = Field(-1, description="of this part: a block or a feature level")
    stride: int | None = Field(None, ge=1, description="of this part; its tokens are laid on the grid of the set")
    weight: float = Field(1.0, gt=0, le=100, description="length of its part of a token; that of the set's own is 1")


def _named(value: Any) -> Any:
    """`debias: position` is its method with the defaults."""
    return {"method": value} if isinstance(value, str) else value


def _by_factor(value: Any) -> Any:
    """`upsample: 2` is the factor with the defaults."""
    return {"factor": value} if isinstance(value, int) and not isinstance(value, bool) else value


def _or_pretrained(schema: dict[str, Any]) -> None:
    """The schema of a backbone: its name, or the name of one that is trained on the images of the run."""
    name = {key: schema.pop(key) for key in ("type", "minLength", "pattern") if key in schema}
    trained = {
        "type": "object",
        "additionalProperties": False,
        "required": ["pretrain"],
        "properties": {"pretrain": {"type": "string"}},
    }
    schema["anyOf"] = [name or {"type": "string"}, trained]


class FeatureSet(Model):
    """One set of dense features, stored once and shared by every recipe that asks for the same."""

    backbone: LocalPath = Field(
        description="a timm name, vit_small_focus, efficientnet_lite0, colour or sift; {pretrain: NAME}: one that the "
        "section pretrain trains on the images of the run",
        json_schema_extra=_or_pretrained,
    )
    checkpoint: LocalPath | None = Field(
        None, description="local weights for a timm architecture instead of the pretrained"
    )
    facet: Literal["token", "key", "query", "value"] = Field("token", description="what to read (CNNs: token only)")
    key_bias: Literal["subtract", "keep"] = Field("subtract", description="subtract: key - bias; keep: for DINO")
    layer: int = Field(-1, description="ViT: block; CNN: feature level; negative counts from the end")
    stride: int | None = Field(None, ge=1, description="CNN: output stride (dilates); colour, sift: pixels a cell")
    size: Size = Field(default_factory=lambda: Size(square=448))
    flip: Literal["none", "average"] = Field(
        "none", description="average: the mean of the image's tokens and those of its mirror image, mirrored back"
    )
    shifts: int | None = Field(
        None, ge=2, le=8, description="tokens are means over n x n copies of the image, shifted within a token"
    )
    debias: Annotated[Debias | None, BeforeValidator(_named, json_schema_input_type=str | Debias | None)] = Field(
        None, description="position: what tells only where a token lies is removed; or a mapping"
    )
    concat: tuple[Part, ...] | None = Field(  # hashable, as the whole set is
        None, min_length=1, max_length=7, description="further backbones or layers, whose tokens lie beside the set's"
    )
    upsample: Annotated[Upsample | None, BeforeValidator(_by_factor, json_schema_input_type=int | Upsample | None)] = (
        Field(None, description="2 or 4: tokens on a finer grid, guided by the photo; or a mapping")
    )
    channels: Literal["shown", "all"] = Field(
        "shown", description="what the backbone sees; all: every channel, the default with inputs.channels: all"
    )
    dtype: Literal["float16", "int8", "pq"] = Field(
        "float16", description="int8: half the disk, cosine error about 3e-5; pq: a few bytes a token (docs/store.md)"
    )
    pq: ProductCode | None = Field(None, description="dtype: pq: how many bytes, and what the codec is fitted on")
    sift: SiftPatch | None = Field(None, description="backbone: sift: what is described around every cell")
    pretrain: dict[str, Any] | None = Field(
        None, description="set by backbone: {pretrain: NAME}: the section that says how the backbone is trained"
    )
    # No parameter of what is stored: `exclude` keeps it out of the slug, of every hash and of every rule's params.
    keep: bool = Field(True, exclude=True, description="false: every store is deleted after its last reader")

    @model_validator(mode="before")
    @classmethod
    def _trained(cls, value: Any) -> Any:
        """`backbone: {pretrain: NAME}` as the name and an empty section, which the recipe's takes the place of."""
        if not isinstance(value, Mapping) or not isinstance(given := value.get("backbone"), Mapping):
            return value
        if set(given) != {"pretrain"} or not isinstance(given["pretrain"], str):
            raise ValueError(
                f"backbone: {dict(given)!r}; give a name, or {{pretrain: NAME}} for one that is trained here"
            )
        return {**value, "backbone": given["pretrain"], "pretrain": {}}

    @field_validator("backbone")
    @classmethod
    def _is_a_name(cls, backbone: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][\w.:/@+-]*", backbone):  # with that of a hub: hf-hub:timm/...
            raise ValueError("is no name of a backbone; use letters, digits and _ . : / @ + -")
        return backbone

    @model_validator(mode="after")
    def _parts_of_a_network(self) -> FeatureSet:
        network = backbones.of(self.backbone).network
        if not network and (self.debias, self.shifts) != (None, None):
            raise ValueError(f"backbone {self.backbone} has no network to debias or to shift; drop debias and shifts")
        depth = backbones.of(self.backbone).depth
        if self.debias is not None and depth is not None and self.debias.components >= depth:
            raise ValueError(f"debias.components: {self.debias.components} directions of tokens of {self.backbone}, "
                             f"which have {depth}: nothing would be left; give fewer")  # fmt: skip
        if not network and (self.facet, self.layer, self.checkpoint, self.flip) != ("token", -1, None, "none"):
            raise ValueError(f"backbone {self.backbone} has no facet, layer, checkpoint or flip; leave them out")
        if self.sift is not None and self.backbone != "sift":
            raise ValueError(f"sift is for backbone: sift, not {self.backbone}; leave it out (sift: null)")
        if not network and self.pretrain is not None:
            raise ValueError(f"backbone {self.backbone} has no weights that could be trained; name a network")
        return self

    @model_validator(mode="after")
    def _several_parts(self) -> FeatureSet:
        if self.concat is not None and self.pretrain is not None:
            raise ValueError("concat is for backbones that are not trained here; name one by its name, or drop concat")
        try:
            _ = self.parts
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"concat: {said}") from None
        return self

    @model_validator(mode="before")
    @classmethod
    def _with_sections(cls, value: Any) -> Any:
        """The sections `pq` and `sift` with their defaults where the dtype or the backbone asks for them."""
        for key, name in (("dtype", "pq"), ("backbone", "sift")):
            if isinstance(value, Mapping) and value.get(key) == name and value.get(name) is None:
                value = {**value, name: {}}
        return value

    @model_validator(mode="after")
    def _fitting_code(self) -> FeatureSet:
        if self.pq is None:
            return self
        if self.dtype != "pq":
            raise ValueError(f"pq is for dtype: pq, not {self.dtype}; leave it out (pq: null), or set dtype: pq")
        specs = [backbones.of(part.backbone) for part in self.parts]
        depths = [None if self.channels == "all" and spec.colours else spec.depth for spec in specs]
        known = [depth for depth in depths if depth is not None]
        if len(known) == len(depths):  # else the fit says it, the first job of the feature set
            self.check_depth(sum(known))
        return self

    def check_depth(self, depth: int) -> None:
        """Raise ValueError where tokens of a length can not be cut into the bytes of a code."""
        if self.pq is not None and depth % self.pq.bytes:
            fitting = [str(size) for size in range(1, min(depth, 256) + 1) if depth % size == 0]
            raise ValueError(
                f"pq.bytes: {self.pq.bytes} does not divide the length {depth} of a token of {self.backbone}; take one "
                f"of {', '.join(fitting)}"
            )

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `flip` where it is none, without `channels` where these are shown, and without the keys of `UNSET`
        where they are not set: such sets keep the names and hashes of older versions.
        """
        body: dict[str, Any] = handler(self)
        if body.get("flip") == "none":
            del body["flip"]
        if body.get("channels") == "shown":
            del body["channels"]
        for key in UNSET:
            if body.get(key) is None:
                body.pop(key, None)
        return body

    @cached_property
    def slug(self) -> str:
        """Folder name under results/features: readable, and unique by a hash of all parameters."""
        side = next(f"{k[:2]}{v}" for k, v in self.size.model_dump().items() if v is not None)
        return f"{self.weights_slug}-{self.facet}-{side}-{json_hash(self.model_dump())[:6]}"

    @property
    def parts(self) -> tuple[FeatureSet, ...]:
        """The sets whose tokens lie beside one another: the set itself, or it and those of `concat`, one a network.

        None of several has `concat`, `upsample` or a storage of its own; their grids are that of the first.
        """
        if self.concat is None:
            return (self,)
        own = {"concat": None, "upsample": None, "dtype": "float16", "pq": None}
        shared = {key: getattr(self, key) for key in ("size", "flip", "shifts", "debias", "channels")}
        first = FeatureSet.model_validate(self.model_dump() | own)  # no copy: that would keep the name of the whole
        return (first, *(self._part(part, shared) for part in self.concat))

    def _part(self, part: Part, shared: Mapping[str, Any]) -> FeatureSet:
        """The feature set of one of `concat`."""
        body = part.model_dump(exclude={"weight"})
        if part.backbone in (None, self.backbone):
            body |= {"backbone": self.backbone, "checkpoint": part.checkpoint or self.checkpoint}
        return FeatureSet.model_validate(body | dict(shared))

    @property
    def care(self) -> dict[str, str]:
        """Keys by which tokens are more than what a network says of the image as it is, and what they are set to."""
        found = {"flip": "average"} if self.flip == "average" else {}
        if self.shifts is not None:
            found["shifts"] = str(self.shifts)
        if self.debias is not None:
            found["debias"] = self.debias.method
        if self.concat is not None:
            found["concat"] = f"{len(self.concat)} more"
        if self.upsample is not None:
            found["upsample"] = str(self.upsample.factor)
        return found

    @property
    def colours(self) -> bool:
        """True where a token begins with r, g, b in 0..1; with `concat` its vectors are of length one."""
        return self.concat is None and backbones.of(self.backbone).colours

    @property
    def passes(self) -> int:
        """How often a network sees an image."""
        return (2 if self.flip == "average" else 1) * (self.shifts or 1) ** 2

    @property
    def weights_slug(self) -> str:
        """File stem of the weights under resources/weights; a folder under results/pretrain for those trained here."""
        if self.pretrain is None:
            return self.origin_slug
        channels = self.channels if self.channels == "all" else None
        told = json_hash([self.pretrain, channels])[:6]
        return f"{self.origin_slug}.{self.pretrain.get('method', '')}-{told}"

    @property
    def origin_slug(self) -> str:
        """File stem under resources/weights of the weights that are there before any training."""
        name = re.sub(r"[^A-Za-z0-9_.]+", "_", self.backbone)
        return name if self.checkpoint is None else f"{name}.{json_hash(self.checkpoint)[:6]}"
