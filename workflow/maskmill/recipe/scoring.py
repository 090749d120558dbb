"""The section `evaluate`: protocols, what is scored, and read-outs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from maskmill.recipe.base import LocalPath, Model, distinct, split_list, switch


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


ObjectMetric = Literal["corloc", "ap", "ar", "mbo", "fg_ari", "saliency", "superpixels", "oracle"]


class Objects(Model):
    """evaluate.objects: the cut's segments against labelled objects, without classes."""

    metrics: Annotated[list[ObjectMetric], BeforeValidator(split_list), AfterValidator(distinct)] = Field(
        default=["corloc", "ap", "mbo", "fg_ari", "saliency"], min_length=1
    )
    instances: LocalPath | None = Field(
        None, description="folder of instance id images (0 = none); default: connected parts of each foreground class"
    )
    foreground: list[int] | None = Field(None, description="label ids of objects. Default: every id above 0")
    min_area: float = Field(0.0, ge=0, lt=1, description="objects below this share of the image are void")


PanopticRule = Literal["hungarian_counts", "hungarian_majority", "many_to_one"]


class Panoptic(Model):
    """evaluate.panoptic: PQ, SQ and RQ of the masks of every round, with its instances where there are some."""

    matching: Annotated[list[PanopticRule], BeforeValidator(split_list), AfterValidator(distinct)] = Field(
        default=["hungarian_counts", "hungarian_majority"],
        min_length=1,
        description="what becomes of clusters: one a class; the others to their majority class; all to that",
    )
    things: list[int] | None = Field(
        None, description="label ids whose objects are told apart, other classes are stuff. Default: every id above 0"
    )
    instances: LocalPath | None = Field(
        None, description="folder of instance id images (0 = none); default: connected parts of each class of things"
    )
    min_area: float = Field(0.0, ge=0, lt=1, description="labelled things below this share of the image are void")


class Candidates(Model):
    """evaluate.candidates: prototypes and k-means of the same tokens side by side."""

    steps: int = Field(
        1000, ge=1, description="of prototypes that are trained on tokens, without a head; STEGO's have 5000"
    )


class Boundary(Model):
    """evaluate.boundary: how well the boundaries of each class are met, under each matching of clusters to classes."""

    tolerance: float = Field(
        0.0075, gt=0, lt=1, description="distance at which a boundary is met, as a share of the image's diagonal"
    )


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


class SegmentRetrieval(Model):
    """evaluate.segment_retrieval: what the nearest labelled segments say, as SegSort is read out."""

    bank: int = Field(100_000, ge=1, le=20_000_000, description="most labelled segments in memory")
    neighbours: int = Field(15, ge=1, le=1000, description="nearest labelled segments that vote")
    parts: int = Field(5, ge=1, le=64, description="squares a side that the k-means of an image starts from")
    iterations: int = Field(10, ge=1, le=1000, description="of that k-means")


class OnlineProbe(Model):
    """evaluate.linear_probe_online: a linear classifier trained as STEGO's linear probe is, with batches and Adam."""

    steps: int = Field(5000, ge=1, description="optimiser steps")
    batch_size: int = Field(16, ge=1, description="images a step")
    learning_rate: float = Field(5e-3, gt=0, description="Adam")


class Time(Model):
    """evaluate.time: how far the masks of frames that follow one another agree; needs no labels."""

    order: Literal["files", "folder"] = Field("files", description="what follows one another, as in tracks.order")
    features: str | None = Field(
        None, description="feature set of the flow; default: the one whose vectors are clustered, which flatters"
    )
    radius: int = Field(3, ge=0, le=64, description="tokens that something moves from frame to frame at most")
    pairs: int = Field(256, ge=1, le=100_000, description="neighbours that are compared at most, evenly over all")


class Evaluate(Model):
    """evaluate: only where labels exist, but for `time`. Every score is stored with its whole protocol."""

    protocols: Annotated[list[ProtocolName], BeforeValidator(split_list), AfterValidator(distinct)] = Field(
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
    candidates: Annotated[
        Candidates | None, BeforeValidator(switch, json_schema_input_type=bool | Candidates | None)
    ] = Field(
        default_factory=lambda: Candidates(),
        description="also score the other ways to cluster the same tokens (cluster.readout); recipes of tokens",
    )
    boundary: Annotated[Boundary | None, BeforeValidator(switch, json_schema_input_type=bool | Boundary | None)] = (
        Field(None, description="also boundary precision, recall and F of each class: true, or a mapping")
    )
    linear_probe: bool = Field(False, description="also fit linear probes on each feature set and each head's codes")
    linear_probe_online: Annotated[
        OnlineProbe | None, BeforeValidator(switch, json_schema_input_type=bool | OnlineProbe | None)
    ] = Field(None, description="also train STEGO's linear probe on each of them: true, or a mapping")
    retrieval: Annotated[Retrieval | None, BeforeValidator(switch, json_schema_input_type=bool | Retrieval | None)] = (
        Field(None, description="also score what the nearest labelled tokens say: true, or a mapping")
    )
    segment_retrieval: Annotated[
        SegmentRetrieval | None, BeforeValidator(switch, json_schema_input_type=bool | SegmentRetrieval | None)
    ] = Field(None, description="also score what the nearest labelled segments say: true, or a mapping")
    objects: Annotated[Objects | None, BeforeValidator(switch, json_schema_input_type=bool | Objects | None)] = Field(
        None, description="class-agnostic object metrics of the cut: true, or a mapping"
    )
    panoptic: Annotated[Panoptic | None, BeforeValidator(switch, json_schema_input_type=bool | Panoptic | None)] = (
        Field(None, description="panoptic quality of the masks of every round: true, or a mapping")
    )

    # A job of its own, which alone depends on it: no other hash has it.
    time: Annotated[Time | None, BeforeValidator(switch, json_schema_input_type=bool | Time | None)] = Field(
        None, exclude=True, description="agreement of the masks of neighbouring frames: true, or a mapping"
    )

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `boundary` and `panoptic` where they are not asked for: such sections keep their hashes."""
        body: dict[str, Any] = handler(self)
        return {key: value for key, value in body.items() if key not in ("boundary", "panoptic") or value is not None}

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
    def _things(self) -> Evaluate:
        for label in (self.panoptic.things if self.panoptic else None) or ():
            if label in self.ignore:
                raise ValueError(f"label {label} is in panoptic.things and in ignore; keep it in one of them")
            if self.classes is not None and label not in self.classes:
                raise ValueError(f"label {label} of panoptic.things is not in classes, so it is void; add it there")
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


# Keys of the section, whose names are in paths.
READOUTS = ("linear_probe", "linear_probe_online", "retrieval", "segment_retrieval")
