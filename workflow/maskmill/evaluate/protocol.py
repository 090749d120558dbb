"""The protocol: everything that a score depends on besides the masks. No score is ever stored without it.

Two families of published numbers differ in the matching rule alone by several points, others in the size of the
labels or in what becomes of surplus clusters. Here every such choice has a name, and the hash over all of them says
which numbers may stand in one column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from maskmill.recipe.scoring import READOUTS, Evaluate, ProtocolName, ScoreSize
from maskmill.store.hashing import json_hash

MATCHING = {
    "hungarian_counts": "one cluster a class, largest sum of matched pixels (ties: largest sum of IoU)",
    "hungarian_iou": "one cluster a class, largest sum of IoU (ties: largest sum of matched pixels)",
    "many_to_one": "each cluster its majority class by pixels, which is its class of highest precision"
    " (ties: the lowest class id)",
    "many_to_one_iou": "each cluster its class of largest IoU (ties: the lowest class id)",
    "hungarian_iou_background": "one cluster a class, largest sum of IoU (ties: largest sum of matched pixels)",
    "oracle_per_image": "an oracle: in each image anew one cluster a class, largest sum of matched pixels",
    "named": "none: a class is the label class of the same name",
    "linear_probe": "none: a linear classifier trained on labels",
    "linear_probe_online": "none: a linear classifier trained on labels with batches, as STEGO's",
    "retrieval": "none: votes of the nearest labelled tokens",
    "segment_retrieval": "none: votes of the nearest labelled segments",
}
ONE_TO_ONE = "unmatched clusters stay in the denominator: their pixels are wrong and lower the IoU of the true class"
MANY_TO_ONE = "every cluster is matched, so more clusters can only help: compare equal numbers of clusters only"
UNKNOWN_NAMES = "pixels of classes whose name no label has are wrong: they stay in the denominator"
TO_BACKGROUND = "clusters without a class predict the background, label id "
PREDICTED_IGNORE = "pixels that the masks call ignore are wrong: they stay in the denominator"


class _Complete(BaseModel):
    """One way of scoring, complete; comparable exactly when the hashes are equal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def hash(self) -> str:
        """Hash of all fields: the name of the column that a number belongs to."""
        return json_hash(self.model_dump(mode="json"))

    def as_dict(self) -> dict[str, Any]:
        """All fields and the hash."""
        return self.model_dump(mode="json") | {"hash": self.hash}


class Protocol(_Complete):
    """One way of scoring, complete. Two scores are comparable exactly when their protocols' hashes are equal.

    Attributes:
        name: the matching rule's name. matching, extra_clusters, predicted_ignore: the rules in words.
        size: "original" or "short_side 320" or "short_side 320, centre crop".
        ignore: void label ids. classes: scored label ids; every other id is void.
        selection: which checkpoint was scored; always the last one, labels choose nothing.
        images: how many labelled images. image_list: hash of their ids. labels: hash of their label pixels.
        details: what only this kind of protocol has (the training of a read-out).
    """

    name: ProtocolName | Literal["named", "linear_probe", "linear_probe_online", "retrieval", "segment_retrieval"]
    matching: str
    extra_clusters: str
    predicted_ignore: str
    size: str
    ignore: tuple[int, ...]
    classes: tuple[int, ...]
    selection: Literal["last"] = "last"
    images: int
    image_list: str
    labels: str
    details: dict[str, Any] = Field(default_factory=dict)


def protocol(
    name: str,
    size: ScoreSize | None,
    ignore: Sequence[int],
    classes: Sequence[int],
    label_digests: dict[str, str],
    **details: Any,
) -> Protocol:
    """The protocol of a name in `MATCHING`.

    Args:
        label_digests: {image id: digest of its label's pixels} of all scored images.
        details: JSON values that the protocol's numbers depend on besides.
    """
    several = {"many_to_one": MANY_TO_ONE, "many_to_one_iou": MANY_TO_ONE}
    extra = "none" if name in READOUTS else several.get(name, ONE_TO_ONE)
    if name == "named":
        extra = UNKNOWN_NAMES
    if name == "hungarian_iou_background":
        extra = f"{TO_BACKGROUND}{details['background']}"
    return Protocol(
        name=name,  # type: ignore[arg-type]
        matching=MATCHING[name],
        extra_clusters=extra,
        predicted_ignore="none" if name in READOUTS else PREDICTED_IGNORE,
        size=size_text(size),
        ignore=tuple(sorted(set(ignore))),
        classes=tuple(classes),
        images=len(label_digests),
        image_list=json_hash(sorted(label_digests)),
        labels=json_hash(sorted(label_digests.items())),
        details=details,
    )


def size_text(size: ScoreSize | None) -> str:
    """The size rule in words."""
    if size is None:
        return "original"
    return f"short_side {size.short_side}" + (", centre crop" if size.centre_crop else "")


class ObjectProtocol(_Complete):
    """One way of scoring objects or foreground, complete; comparable exactly when the hashes are equal.

    It says the rules of every metric that is computed by default, computed or not, so that leaving one out changes no
    hash.

    Attributes:
        name: "objects" (segments against labelled objects), "saliency" (foreground against background) or "superpixels"
            (segments against the regions of label maps).
        objects: what an object is. foreground: label ids of objects. min_area: smaller ones are void.
        ignore, classes, size, images, image_list, labels: as in Protocol; classes None = no id is void for it.
        instances: hash of the instance images' pixels, or "none".
        rules: metric -> rule in words. prediction: what is compared, and how it meets the labels.
    """

    name: Literal["objects", "saliency", "superpixels"]
    objects: str
    foreground: tuple[int, ...] | Literal["every id above 0", "every instance", "every id"]
    min_area: float
    prediction: str
    rules: dict[str, str]
    size: str
    ignore: tuple[int, ...]
    classes: tuple[int, ...] | Literal["all"]
    images: int
    image_list: str
    labels: str
    instances: str


class PanopticProtocol(_Complete):
    """One way of scoring panoptic maps, complete; comparable exactly when the hashes are equal.

    Attributes:
        matching: name of the rule that maps clusters to classes; rule: it in words. separated: what recipes do that
            know which clusters are things. things: label ids whose objects are told apart. truth, prediction: what a
            segment is. quality: the rule of PQ, SQ and RQ. instances: as in ObjectProtocol.
        ignore, classes, size, images, image_list, labels: as in Protocol.
    """

    name: Literal["panoptic"] = "panoptic"
    matching: str
    rule: str
    separated: str = "clusters that are known to be things are mapped to things alone, those of stuff to stuff"
    things: tuple[int, ...] | Literal["every id above 0"]
    truth: str
    min_area: float
    prediction: str = (
        "instances by falling score, without what better ones have, left out where these have more than half; else "
        "connected parts (8 neighbours) of things; stuff where no instance is, one segment a class and image"
    )
    quality: str = (
        "segments of one class match at IoU > 0.5; PQ = sum of IoU / (hits + false / 2 + missed / 2); void counts in "
        "no union, unmatched segments more than half in void are not false; mean over classes that occur"
    )
    size: str
    ignore: tuple[int, ...]
    classes: tuple[int, ...]
    images: int
    image_list: str
    labels: str
    instances: str


def panoptic_protocol(
    matching: tuple[str, str],
    settings: Evaluate,
    classes: Sequence[int],
    label_digests: Mapping[str, str],
    instance_digests: Mapping[str, str],
) -> PanopticProtocol:
    """The protocol of `settings.panoptic`.

    Args:
        matching: name and words of the rule. classes: scored label ids.
        label_digests, instance_digests: {image id: digest of its pixels} of all scored images.
    """
    wanted = settings.panoptic
    assert wanted is not None
    by_id = wanted.instances is not None
    return PanopticProtocol(
        matching=matching[0],
        rule=matching[1],
        things="every id above 0" if wanted.things is None else tuple(sorted(set(wanted.things))),
        truth=THINGS[by_id],
        min_area=wanted.min_area,
        size=size_text(settings.size),
        ignore=tuple(sorted(set(settings.ignore))),
        classes=tuple(classes),
        images=len(label_digests),
        image_list=json_hash(sorted(label_digests)),
        labels=json_hash(sorted(label_digests.items())),
        instances=json_hash(sorted(instance_digests.items())) if by_id else "none",
    )


THINGS = {
    True: "instance images: each id above 0 of each class of things is a segment, other pixels of things are void",
    False: "each connected part (8 neighbours) of each class of things is a segment",
}
OBJECTS = {
    True: "instance images: each id above 0 is an object",
    False: "each connected part (8 neighbours) of each foreground class is an object",
}
PREDICTION = {
    "objects": "each segment, nearest neighbour at pixel centres, without void pixels",
    "saliency": "union of the segments, or painted clusters; nearest neighbour at pixel centres; void pixels never"
    " count; what a mask calls ignore is wrong",
    "superpixels": "segments, and what none holds as one more; nearest neighbour at pixel centres; no void pixels",
}


REGIONS = "each label id is a region"


def object_protocol(
    name: Literal["objects", "saliency", "superpixels"],
    settings: Evaluate,
    rules: Mapping[str, str],
    label_digests: Mapping[str, str],
    instance_digests: Mapping[str, str],
) -> ObjectProtocol:
    """The protocol of `settings.objects`.

    Args:
        label_digests, instance_digests: {image id: digest of its pixels} of all scored images.
    """
    wanted = settings.objects
    assert wanted is not None
    regions = name == "superpixels"  # whatever is an object
    by_id = wanted.instances is not None and not regions
    default: Literal["every id above 0", "every instance"] = "every instance" if by_id else "every id above 0"
    chosen = default if wanted.foreground is None else tuple(sorted(set(wanted.foreground)))
    return ObjectProtocol(
        name=name,
        objects=REGIONS if regions else OBJECTS[by_id],
        foreground="every id" if regions else chosen,
        min_area=0.0 if regions else wanted.min_area,
        prediction=PREDICTION[name],
        rules=dict(rules),
        size=size_text(settings.size),
        ignore=tuple(sorted(set(settings.ignore))),
        classes="all" if settings.classes is None else tuple(sorted(set(settings.classes))),
        images=len(label_digests),
        image_list=json_hash(sorted(label_digests)),
        labels=json_hash(sorted(label_digests.items())),
        instances=json_hash(sorted(instance_digests.items())) if by_id else "none",
    )
