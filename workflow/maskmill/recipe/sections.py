"""The one typed source of the configuration: the model of every section, and errors with the nearest key.

`maskmill.recipe.resolve` resolves a whole run from them. Importing this module imports no torch, so it is cheap in
every job.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from maskmill.access import Readers
from maskmill.errors import ConfigError, nearest
from maskmill.recipe import registry
from maskmill.recipe.base import Images, LocalPath, Model, distinct, split_list, validate
from maskmill.recipe.export import Export
from maskmill.recipe.inputs import Inputs
from maskmill.recipe.scoring import Evaluate


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
    batch_norms: Literal["auto", "batch", "kept"] = Field(
        "auto",
        description="batch: statistics of the micro-batch; kept: those that came with the weights; auto: kept unless "
        "the start is scratch",
    )
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


class Stuff(Model):
    """paint.stuff: what lies between the segments, as classes of a second clustering behind those of the segments."""

    features: str = Field("semantic", description="name of the feature set whose tokens are clustered (k-means)")
    clusters: int = Field(27, ge=1, le=4096, description="number of classes of stuff (U2Seg: STEGO's 27)")
    covered: float = Field(
        0.7, gt=0, le=1, description="a class of which segments cover more than this in an image is ignore there"
    )
    max_fit_points: int = Field(1_000_000, ge=1, description="most tokens the fit sees, drawn evenly")


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
    stuff: Stuff | None = Field(None, description="recipes of segments: fill what lies between them (U2Seg)")

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `abstain` where it is 0, and `stuff`: masks that do not ask for it are those of older versions."""
        body: dict[str, Any] = handler(self)
        if not body.get("abstain"):
            body.pop("abstain", None)
        if body.get("abstain_by") == "margin":
            body.pop("abstain_by")
        if body.get("stuff") is None:
            body.pop("stuff", None)
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
