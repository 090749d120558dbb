"""The one typed source of the configuration: the model of every section, and errors with the nearest key.

`maskmill.recipe.resolve` resolves a whole run from them. Importing this module imports no torch, so it is cheap in
every job.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from maskmill.access import Readers
from maskmill.errors import ConfigError, nearest
from maskmill.recipe import backbones, registry
from maskmill.recipe.origin import Origin, place
from maskmill.redact import redact
from maskmill.store.artefact import json_hash

T = TypeVar("T", bound=BaseModel)


class Model(BaseModel):
    """A frozen section of the configuration; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def _split(value: Any) -> Any:
    """`--config seeds=0,1,2` arrives as one string or one number, `--config preset=` as None."""
    if value is None:
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int) else value


def _local(value: str | None) -> str | None:
    """Files only: a URL would be no file, and may carry a password into logs."""
    if isinstance(value, str) and re.match(r"[A-Za-z][\w+.-]*://", value):
        raise ValueError("is a URL, but only files of this machine are read; fetch it first")
    return value


LocalPath = Annotated[str, BeforeValidator(_local)]


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


STORING = {"dtype", "key_bias"}  # keys of a feature set that mean nothing to a head that trains its backbone


class FeatureSet(Model):
    """One set of dense features, stored once and shared by every recipe that asks for the same."""

    backbone: str = Field(description="a timm name, vit_small_focus, efficientnet_lite0, or colour")
    checkpoint: LocalPath | None = Field(
        None, description="local weights for a timm architecture instead of the pretrained"
    )
    facet: Literal["token", "key", "query", "value"] = Field("token", description="what to read (CNNs: token only)")
    key_bias: Literal["subtract", "keep"] = Field("subtract", description="subtract: key - bias, needed by DINOv2")
    layer: int = Field(-1, description="ViT: block; CNN: feature level; negative counts from the end")
    stride: int | None = Field(None, ge=1, description="CNN: output stride (dilates); colour: pixels a cell")
    size: Size = Field(default_factory=lambda: Size(square=448))
    flip: Literal["none", "average"] = Field(
        "none", description="average: the mean of the image's tokens and those of its mirror image, mirrored back"
    )
    dtype: Literal["float16", "int8"] = Field("float16", description="int8: half the disk, cosine error about 3e-5")
    # No parameter of what is stored: `exclude` keeps it out of the slug, of every hash and of every rule's params.
    keep: bool = Field(True, exclude=True, description="false: every store is deleted after its last reader")

    @model_validator(mode="after")
    def _parts_of_a_network(self) -> FeatureSet:
        network = backbones.of(self.backbone).network
        if not network and (self.facet, self.layer, self.checkpoint, self.flip) != ("token", -1, None, "none"):
            raise ValueError(f"backbone {self.backbone} has no facet, layer, checkpoint or flip; leave them out")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `flip` where it is none: sets that do not ask for it keep the names and hashes of older versions."""
        body: dict[str, Any] = handler(self)
        if body.get("flip") == "none":
            del body["flip"]
        return body

    @property
    def slug(self) -> str:
        """Folder name under results/features: readable, and unique by a hash of all parameters."""
        side = next(f"{k[:2]}{v}" for k, v in self.size.model_dump().items() if v is not None)
        return f"{self.weights_slug}-{self.facet}-{side}-{json_hash(self.model_dump())[:6]}"

    @property
    def weights_slug(self) -> str:
        """File stem under resources/weights."""
        name = re.sub(r"[^A-Za-z0-9_.]+", "_", self.backbone)
        return name if self.checkpoint is None else f"{name}.{json_hash(self.checkpoint)[:6]}"


class Inputs(Model):
    """Which images, how they are checked, and how they are cut into shards."""

    shard_size: int = Field(256, ge=1, le=100_000, description="images a shard (a job); keep shards below ~2000")
    max_rejected: float = Field(0.01, ge=0, le=1, description="stop when a larger share of the images is unreadable")
    verify: Literal["full", "header"] = Field("full", description="full decodes every image once")
    max_pixels: int = Field(
        178_956_970, ge=1, description="images of more pixels are rejected, by their header, before they are decoded"
    )
    frame_step: int = Field(1, ge=1, description="video: keep every n-th frame")
    max_images: int | None = Field(None, ge=1, description="keep this many, evenly spread over the sorted ids")


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


class Regions(Model):
    """regions: which feature set describes the segments (pool: token = every token is a region, no cut)."""

    features: str = Field("semantic", description="name of a feature set of the recipe")
    min_area: float = Field(0.0, ge=0, lt=1, description="drop segments below this share of the image")


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


class Paint(Model):
    """paint: how clusters become pseudo-masks. 0 is background, clusters start at 1, 255 or 65535 is ignore."""

    keep_closest: float = Field(1.0, gt=0, le=1, description="share of each cluster's regions kept, closest first")
    dropped: Literal["ignore", "background"] = Field("ignore", description="what becomes of regions not kept")
    upsample: int = Field(4, ge=1, le=16, description="mask cells a token side, bilinear on scores")
    refine: Refine = Field(default_factory=Refine, description="fit the masks to the photo's edges")


class Rounds(Model):
    """rounds: self-training on the masks of the round before. count: 0 trains nothing."""

    count: int = Field(0, ge=0, le=20, description="number of rounds")
    features: list[str] = Field(default_factory=lambda: ["grouping", "semantic"], description="what the student sees")
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

    @model_validator(mode="after")
    def _later(self) -> Rounds:
        for start, section in self.from_round.items():
            for key in ("count", "checkpoint_steps", "from_round"):
                if key in section:
                    raise ValueError(f"from_round.{start}.{key} holds for all rounds; give it beside from_round")
        return self


class ScoreSize(Model):
    """The size at which labels and masks are compared, when it is not the label's own."""

    short_side: int = Field(ge=16, le=8192, description="labels are resized to this short side, nearest neighbour")
    centre_crop: bool = Field(False, description="then cut to the square in the middle")


def _original(value: Any) -> Any:
    """`size: original` is the default written out."""
    return None if value == "original" else value


ProtocolName = Literal[
    "hungarian_counts",
    "hungarian_iou",
    "many_to_one",
    "many_to_one_iou",
    "hungarian_iou_background",
    "oracle_per_image",
]
ObjectMetric = Literal["corloc", "ap", "mbo", "fg_ari", "saliency"]


class Objects(Model):
    """evaluate.objects: the cut's segments against labelled objects, without classes."""

    metrics: Annotated[list[ObjectMetric], BeforeValidator(_split)] = Field(
        default=["corloc", "ap", "mbo", "fg_ari", "saliency"], min_length=1
    )
    instances: LocalPath | None = Field(
        None, description="folder of instance id images (0 = none); default: connected parts of each foreground class"
    )
    foreground: list[int] | None = Field(None, description="label ids of objects. Default: every id above 0")
    min_area: float = Field(0.0, ge=0, lt=1, description="objects below this share of the image are void")


def _switch(value: Any) -> Any:
    """`objects: true` asks for all defaults, `false` for nothing."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


def check_background(background: int, ignore: Sequence[int], classes: Sequence[int] | None) -> None:
    """Raises ValueError where the background is no scored class, so that no cluster can be sent there."""
    if background in ignore or (classes is not None and background not in classes):
        raise ValueError(
            f"protocol hungarian_iou_background sends surplus clusters to label {background} (background), which is "
            "not scored; set evaluate.background to a scored id, or drop the protocol"
        )


class Retrieval(Model):
    """evaluate.retrieval: dense nearest-neighbour retrieval."""

    bank: int = Field(100_000, ge=1, le=20_000_000, description="most labelled tokens in memory, even over images")
    neighbours: int = Field(30, ge=1, le=1000, description="nearest labelled tokens that vote")
    temperature: float = Field(0.02, gt=0, description="of the softmax over their cosines")


class OnlineProbe(Model):
    """evaluate.linear_probe_online: a linear classifier trained as STEGO's linear probe is, with batches and Adam."""

    steps: int = Field(5000, ge=1, description="optimiser steps")
    batch_size: int = Field(16, ge=1, description="images a step")
    learning_rate: float = Field(5e-3, gt=0, description="Adam")


class Evaluate(Model):
    """evaluate: only where labels exist. Every score is stored with its whole protocol."""

    protocols: Annotated[list[ProtocolName], BeforeValidator(_split)] = Field(
        default=["hungarian_iou", "hungarian_counts", "many_to_one"], min_length=1
    )
    classes: list[int] | None = Field(None, description="label ids that are scored; others are void. Default: all")
    class_names: dict[int, str] = Field(default_factory=dict, description="label id -> name")
    ignore: list[int] = Field(default_factory=lambda: [255], description="label ids that are void")
    background: int = Field(
        0, ge=0, description="label id that surplus clusters predict in protocol hungarian_iou_background"
    )
    size: Annotated[ScoreSize | None, BeforeValidator(_original)] = Field(
        None, description="where labels and masks meet: original (the label's own size, default) or {short_side: 320}"
    )
    candidates: bool = Field(
        True, description="also score the other ways to cluster the same tokens (cluster.readout); recipes of tokens"
    )
    linear_probe: bool = Field(False, description="also fit linear probes on each feature set and each head's codes")
    linear_probe_online: Annotated[
        OnlineProbe | None, BeforeValidator(_switch, json_schema_input_type=bool | OnlineProbe | None)
    ] = Field(None, description="also train STEGO's linear probe on each of them: true, or a mapping")
    retrieval: Annotated[Retrieval | None, BeforeValidator(_switch, json_schema_input_type=bool | Retrieval | None)] = (
        Field(None, description="also score what the nearest labelled tokens say: true, or a mapping")
    )
    objects: Annotated[Objects | None, BeforeValidator(_switch, json_schema_input_type=bool | Objects | None)] = Field(
        None, description="class-agnostic object metrics of the cut: true, or a mapping"
    )

    @property
    def readouts(self) -> tuple[str, ...]:
        """Names of the read-outs of features and codes that are asked for, in the order of `READOUTS`."""
        return tuple(name for name in READOUTS if getattr(self, name))

    @model_validator(mode="after")
    def _scored(self) -> Evaluate:
        both = sorted(set(self.classes or ()) & set(self.ignore))
        if both:
            raise ValueError(f"label {both[0]} is in classes and in ignore; keep it in one of them")
        if "hungarian_iou_background" in self.protocols:
            check_background(self.background, self.ignore, self.classes)
        if self.classes is not None and not self.classes:
            raise ValueError("classes is empty; name label ids, or leave it out to score all of them")
        return self

    @model_validator(mode="after")
    def _foreground(self) -> Evaluate:
        wanted = self.objects.foreground if self.objects else None
        if wanted is not None and not wanted:
            raise ValueError("objects.foreground is empty; name label ids, or leave it out for every id above 0")
        for label in wanted or ():
            if label in self.ignore:
                raise ValueError(f"label {label} is in objects.foreground and in ignore; keep it in one of them")
            if self.classes is not None and label not in self.classes:
                raise ValueError(f"label {label} of objects.foreground is not in classes, so it is void; add it there")
        return self


READOUTS = ("linear_probe", "linear_probe_online", "retrieval")  # keys of the section, whose names are in paths


class Export(Model):
    """export: files for other tools."""

    masks: bool = Field(True, description="indexed PNG masks at image size")
    coco: bool = Field(True, description="COCO JSON with RLE segments and regions")


class Report(Model):
    """report: the HTML file."""

    title: str = "maskmill"
    gallery: int = Field(24, ge=0, le=500, description="images shown, evenly spread")
    typical: int = Field(8, ge=0, le=64, description="regions shown a cluster")


class Config(Model):
    """The keys of config.yaml. Stage sections given here override every recipe."""

    images: LocalPath = Field("demo", description="folder, glob, CSV/Parquet manifest, video, or demo")
    labels: LocalPath | None = Field(None, description="folder of label PNGs with the same stems; optional everywhere")
    recipes: Annotated[list[str], BeforeValidator(_split)] = Field(default_factory=lambda: ["kmeans", "comus"])
    preset: Annotated[list[str], BeforeValidator(_split)] = Field(
        default_factory=list, description="names of presets of the recipes, for example small; later ones lie on top"
    )
    readers: Readers = Field(
        "owner", description="who may read what is written: owner, group, or as the umask of the shell says"
    )
    seeds: Annotated[list[int], BeforeValidator(_split)] = Field(default_factory=lambda: [0], min_length=1)
    inputs: Inputs = Field(default_factory=Inputs)
    features: dict[str, dict[str, Any] | bool] = Field(
        default_factory=dict, description="overrides by feature set name; keep: true or false for all of them"
    )
    evaluate: Evaluate = Field(default_factory=Evaluate)
    export: Export = Field(default_factory=Export)
    report: Report = Field(default_factory=Report)

    @model_validator(mode="after")
    def _keep_is_no_set(self) -> Config:
        for name, section in self.features.items():
            if isinstance(section, bool) != (name == "keep"):
                wanted = "true or false" if name == "keep" else "key: value pairs"
                raise ValueError(f"features.{name}: expected {wanted}, found {section!r}")
        return self


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
        raise ConfigError(redact(f"{where}: {prefix or 'top level'}: expected key: value pairs, found {body!r}"))
    try:
        return model.model_validate(dict(body))
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
        else:
            reason = f"{problem['msg'].removeprefix('Value error, ')}, found {problem['input']!r}"
        where = place(origin, [*around, *parts])
        raise ConfigError(redact(f"{where}: {key}: {reason}")) from None


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
