"""The one typed source of the configuration: the model of every section, and errors with the nearest key.

`maskmill.recipe.resolve` resolves a whole run from them. Importing this module imports no torch, so it is cheap in
every job.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from maskmill.access import Readers
from maskmill.errors import ConfigError, nearest, shown
from maskmill.recipe import backbones, registry, sensors
from maskmill.recipe.base import Images, LocalPath, Model, distinct, split_list, validate
from maskmill.recipe.scoring import Evaluate
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
        if not network and (self.facet, self.layer, self.checkpoint, self.flip) != ("token", -1, None, "none"):
            raise ValueError(f"backbone {self.backbone} has no facet, layer, checkpoint or flip; leave them out")
        if self.sift is not None and self.backbone != "sift":
            raise ValueError(f"sift is for backbone: sift, not {self.backbone}; leave it out (sift: null)")
        if not network and self.pretrain is not None:
            raise ValueError(f"backbone {self.backbone} has no weights that could be trained; name a network")
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
        spec = backbones.of(self.backbone)
        depth = None if self.channels == "all" and spec.colours else spec.depth
        if depth is not None:  # else the fit says it, the first job of the feature set
            self.check_depth(depth)
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
        """Without `flip` where it is none, without `channels` where these are shown, and without `pq`, `sift` and
        `pretrain` where they are not set: such sets keep the names and hashes of older versions.
        """
        body: dict[str, Any] = handler(self)
        if body.get("flip") == "none":
            del body["flip"]
        if body.get("channels") == "shown":
            del body["channels"]
        for key in ("pq", "sift", "pretrain"):
            if body.get(key) is None:
                body.pop(key, None)
        return body

    @cached_property
    def slug(self) -> str:
        """Folder name under results/features: readable, and unique by a hash of all parameters."""
        side = next(f"{k[:2]}{v}" for k, v in self.size.model_dump().items() if v is not None)
        return f"{self.weights_slug}-{self.facet}-{side}-{json_hash(self.model_dump())[:6]}"

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

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without keys of newer versions that are not set: runs that set none keep the hashes of older versions."""
        body: dict[str, Any] = handler(self)
        for key in ("range", "percentiles", "channels", "composites", "pages", "window"):
            if key in body and getattr(self, key) == type(self).model_fields[key].default:
                del body[key]
        return body


class Refine(Model):
    """How masks are fitted to the edges of the photo: a method of `maskmill.refine`, by name or with parameters.

    `refine: crf` and `refine: {method: crf, xy_std: 67}` are both valid; parameters are the method's own.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    method: str = Field("none", description="none, crf, guided or bilateral")

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, value: Any) -> Any:
        """The flat section with every parameter of the method."""
        section = {"method": value or "none"} if value is None or isinstance(value, str) else value
        if not isinstance(section, Mapping):
            raise ValueError("give a method name, or {method: name, parameter: value}")
        own = dict(section)
        method, known = own.pop("method", "none"), registry.available("refine")
        if method not in known:
            raise ValueError(f"unknown method {method!r}{nearest(str(method), known)}; known: {', '.join(known)}")
        model = registry.load("refine", method).Params
        try:
            return {"method": method} | validate(model, own, method).model_dump()
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @property
    def params(self) -> Model:
        """The method's parameters."""
        params: Model = registry.load("refine", self.method).Params(**(self.model_extra or {}))
        return params

    @classmethod
    def schema_of(cls) -> dict[str, Any]:
        """JSON schema: a name, or an object with the parameters of every method."""
        names = {"enum": list(registry.available("refine")), "description": "the method"}
        properties: dict[str, Any] = {"method": names}
        for method in registry.available("refine"):
            own = registry.load("refine", method).Params.model_json_schema().get("properties", {})
            properties |= {k: v for k, v in own.items() if k not in properties}
        return {"anyOf": [names, {"type": "object", "additionalProperties": False, "properties": properties}]}


UNFREEZING = ("unfreeze", "backbone_rate", "light", "blur")  # keys of a head that mean nothing on stored tokens
FREEZING = ("hide", "jitter")  # and those that mean nothing where its backbone learns


class Pretrain(Model):
    """pretrain: a backbone learns on the images of the run, without labels; feature sets say {pretrain: NAME}."""

    start: Literal["weights", "scratch"] = Field(
        "weights", description="from the weights that the backbone has (or its checkpoint), or from random ones"
    )
    seed: int = Field(0, ge=0, description="of weights, order and views; feature sets are shared by all seeds of a run")
    images: int | None = Field(None, ge=2, description="learn from at most this many photos, drawn by the seed")
    stride: int | None = Field(None, ge=1, description="CNN: output stride while it learns (dilates)")
    accept: Literal["always", "better"] = Field(
        "always",
        description="better: where features got worse by what needs no label, the weights of the start are kept",
    )
    checkpoint_steps: int = Field(200, ge=0, description="steps between two checkpoints; 0: only when a signal comes")
    cache_mib: int = Field(2048, ge=0, description="memory for photos; those beyond it are decoded again")


class Adapt(Model):
    """adapt: a head learnt on a feature set, whose codes are a feature set of the recipe named `codes`."""

    features: str = Field("semantic", description="name of a feature set of the recipe")
    checkpoint_steps: int = Field(500, ge=0, description="steps between two checkpoints; 0: only when a signal comes")
    cache_mib: int = Field(2048, ge=0, description="memory for tokens; images beyond it are read again")


class Cut(Model):
    """cut: which feature set is grouped, and by which method."""

    features: str = Field("grouping", description="name of a feature set of the recipe")
    colour: str | None = Field(None, description="name of a second feature set, of backbone colour, on the same grid")
    refine: Refine = Field(default_factory=Refine, description="fit the segments to the photo's edges")
    refine_cells: int = Field(8, ge=1, le=16, description="with refine: segment cells a token side")
    fill_holes: bool = Field(False, description="with refine: holes of refined segments are filled (CutLER)")


class Regions(Model):
    """regions: which feature set describes the segments (pool: token = every token is a region, no cut)."""

    features: str = Field("semantic", description="name of a feature set of the recipe")
    min_area: float = Field(0.0, ge=0, lt=1, description="drop segments below this share of the image")
    min_pixels: int = Field(0, ge=0, description="drop segments of at most this many pixels of the photo (COMUS: 400)")


class Reduce(Model):
    """reduce: what is done to the vectors before clustering."""

    max_fit_points: int | None = Field(
        None, ge=2, description="fit on at most this many vectors, even over images; default: the method's (docs)"
    )


class Foreground(Model):
    """foreground: which tokens of a recipe without a cut are foreground; only these are clustered, the rest is 0."""

    features: str = Field("grouping", description="name of a feature set of the recipe with the method's evidence")
    clusters: int = Field(200, ge=2, le=20_000, description="fine clusters of tokens, each one wholly in or out")
    threshold: float | None = Field(
        None, ge=0, le=1, description="a fine cluster with this mean precision is foreground; null: found by Otsu"
    )
    max_fit_points: int = Field(500_000, ge=2, description="fit on at most this many tokens, even over images")


class Cluster(Model):
    """cluster: how vectors become classes."""

    max_fit_points: int = Field(500_000, ge=2, description="fit on at most this many vectors, even over images")
    distance: Literal["own", "cosine"] = Field(
        "own",
        description="of a region to its centre, by which paint and rounds keep the closest; own: that of the method",
    )


class Taxonomy(Model):
    """taxonomy: how clusters become classes with names. source: none leaves them as they are."""


class Paint(Model):
    """paint: how clusters become pseudo-masks. 0 is background, clusters start at 1, 255 or 65535 is ignore."""

    keep_closest: float = Field(1.0, gt=0, le=1, description="share of each cluster's regions kept, closest first")
    dropped: Literal["ignore", "background"] = Field("ignore", description="what becomes of regions not kept")
    upsample: int = Field(4, ge=1, le=16, description="mask cells a token side, bilinear on scores")
    refine: Refine = Field(default_factory=Refine, description="fit the masks to the photo's edges")
    abstain: float = Field(
        0.0, ge=0, lt=1, description="recipes of tokens: cells with a margin below it are ignore; 0: none"
    )
    abstain_by: Literal["margin", "confidence"] = Field(
        "margin", description="what abstain compares; confidence: calibrated on the labels that made the classes"
    )

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `abstain` where it is 0: masks that do not ask for it are those of older versions."""
        body: dict[str, Any] = handler(self)
        if not body.get("abstain"):
            body.pop("abstain", None)
        if body.get("abstain_by") == "margin":
            body.pop("abstain_by")
        return body


class Rounds(Model):
    """rounds: self-training on the masks of the round before. count: 0 trains nothing."""

    count: int = Field(0, ge=0, le=20, description="number of rounds")
    features: Annotated[list[str], AfterValidator(distinct)] = Field(
        default_factory=lambda: ["grouping", "semantic"], description="what the student sees"
    )
    images: Literal["all", "surest"] = Field(
        "all", description="surest: round 1 learns from a share of the images only"
    )
    share: float = Field(
        0.5, gt=0, le=1, description="images surest: this share, closest to their centres, feeds round 1"
    )
    confidence: float = Field(
        0.0, ge=0, lt=1, description="predicted cells whose softmax maximum is below it are ignore for the next round"
    )
    start: Literal["fresh", "continue"] = Field("fresh", description="continue: from the student of the round before")
    keep_labels: bool = Field(
        False, description="labelled pixels of taxonomy.labels stay what they are in what every round learns from"
    )
    match: Literal["none", "hungarian"] = Field(
        "none", description="hungarian: class ids follow the masks that the student was trained on, by overlap"
    )
    refine: Refine = Field(default_factory=Refine, description="fit the predicted masks to the photo's edges")
    stop: float = Field(
        0.0, ge=0, lt=1, description="a share of changed cells below it ends training: the student is handed on"
    )
    from_round: dict[Annotated[int, Field(ge=2, le=20)], dict[str, Any]] = Field(
        default_factory=dict, description="{2: {...}}: keys of this section that hold from that round on"
    )
    checkpoint_steps: int = Field(
        100, ge=0, description="steps between two checkpoints of a training; 0: only on SIGTERM or SIGUSR1"
    )

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `keep_labels` where it is false: students that do not ask for it are those of older versions."""
        body: dict[str, Any] = handler(self)
        if not body.get("keep_labels"):
            body.pop("keep_labels", None)
        return body

    @model_validator(mode="after")
    def _later(self) -> Rounds:
        for start, section in self.from_round.items():
            for key in ("count", "checkpoint_steps", "from_round"):
                if key in section:
                    raise ValueError(f"from_round.{start}.{key} holds for all rounds; give it beside from_round")
        return self


class Tracks(Model):
    """tracks: regions of the last masks carried through frames or slices. Only where the section is given."""

    order: Literal["files", "folder"] = Field(
        "files",
        description="what follows one another: frames of a video and pages of a file; folder: also the images of one "
        "folder, in the order of their ids",
    )
    match: Literal["overlap", "features"] = Field(
        "features", description="overlap: IoU of the masks; features: that and the cosine of mean tokens"
    )
    overlap: float = Field(0.5, gt=0, le=1, description="match: features: weight of the IoU, the rest is the cosine's")
    features: str | None = Field(
        None, description="feature set of flow and cosine; default: the one whose vectors are clustered"
    )
    flow: Literal["none", "features"] = Field(
        "features", description="how a region is carried to the next frame; none: it stays where it is"
    )
    radius: int = Field(3, ge=0, le=64, description="tokens that something moves from frame to frame at most")
    least: float = Field(0.3, gt=0, le=1, description="regions that are less alike are two things")
    gap: int = Field(1, ge=0, le=16, description="frames in which a thing may be missing")
    within: Literal["class", "any"] = Field("class", description="any: a track may change its class")
    min_area: float = Field(0.001, ge=0, lt=1, description="regions below this share of the image have no track")

    @property
    def looks(self) -> bool:
        """Whether tokens are asked for."""
        return "features" in (self.match, self.flow)


WHOLE = ("geotiff", "ome_zarr", "pyramid_tiff", "geojson")  # formats of whole images, put together from their windows
FORMATS = ("coco_panoptic", "voc", "yolo", "mmseg", "cvat", "label_studio", *WHOLE)
PALETTED = ("voc", "mmseg")  # formats whose masks are indexed PNGs
PALETTE = 254  # classes of an indexed PNG beside background and ignore


def _known_formats(value: list[str]) -> list[str]:
    for name in value:
        if name not in FORMATS:
            raise ValueError(f"unknown {shown(name)}{nearest(name, FORMATS)}; known: {', '.join(FORMATS)}")
    return value


class Export(Model):
    """export: files for other tools."""

    masks: bool = Field(True, description="indexed PNG masks at image size")
    coco: bool = Field(True, description="COCO JSON with RLE segments and regions")
    formats: Annotated[
        list[str], BeforeValidator(split_list), AfterValidator(_known_formats), AfterValidator(distinct)
    ] = Field(
        default_factory=list,
        description=f"folders that other tools open, any of {', '.join(FORMATS)}",
        json_schema_extra={"items": {"type": "string", "enum": list(FORMATS)}},
    )
    photos: Literal["none", "link", "copy"] = Field(
        "none", description="in the folders of formats: link: symbolic links to your photos; copy: copies of them"
    )
    image_url: str = Field(
        "/data/local-files/?d=", description="label_studio: where it finds photos; the name of each one is put behind"
    )
    tolerance: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="geojson: pixels of the mask that simplified borders may be off; 0: exact",
    )

    # One job or many write the same bytes: no hash has it.
    single_images: int = Field(
        20_000, ge=0, exclude=True, description="up to so many images one job exports; of more, a job a shard"
    )

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the keys that say nothing: exports that ask for no format keep the hashes of older versions."""
        body: dict[str, Any] = handler(self)
        if not self.formats:
            del body["formats"], body["photos"]
        if "label_studio" not in self.formats:
            del body["image_url"]
        if "geojson" not in self.formats:
            del body["tolerance"]
        return body


class Report(Model):
    """report: the HTML file."""

    title: str = "maskmill"
    gallery: int = Field(24, ge=0, le=500, description="images shown, evenly spread")
    typical: int = Field(8, ge=0, le=64, description="regions shown a cluster")


class Config(Model):
    """The keys of config.yaml. Stage sections given here override every recipe."""

    images: Images = Field("demo", description="folder, glob, CSV/Parquet manifest, video, or a list of such; or demo")
    labels: LocalPath | None = Field(None, description="folder of label PNGs with the same stems, or a table; optional")
    recipes: Annotated[list[str], BeforeValidator(split_list)] = Field(default_factory=lambda: ["kmeans", "comus"])
    preset: Annotated[list[str], BeforeValidator(split_list)] = Field(
        default_factory=list, description="names of presets of the recipes, for example small; later ones lie on top"
    )
    readers: Readers = Field(
        "owner", description="who may read what is written: owner, group, or as the umask of the shell says"
    )
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(split_list), AfterValidator(distinct)] = Field(
        default_factory=lambda: [0], min_length=1
    )
    inputs: Inputs = Field(default_factory=Inputs)
    features: dict[str, dict[str, Any] | bool] = Field(
        default_factory=dict, description="overrides by feature set name; keep: true or false for all of them"
    )
    evaluate: Evaluate = Field(default_factory=Evaluate)
    export: Export = Field(default_factory=Export)
    report: Report = Field(default_factory=Report)

    @property
    def sources(self) -> tuple[str, ...]:
        """What `images` names, one or several."""
        return (self.images,) if isinstance(self.images, str) else tuple(self.images)

    @model_validator(mode="after")
    def _keep_is_no_set(self) -> Config:
        for name, section in self.features.items():
            if isinstance(section, bool) != (name == "keep"):
                wanted = "true or false" if name == "keep" else "key: value pairs"
                raise ValueError(f"features.{name}: expected {wanted}, found {section!r}")
        return self
