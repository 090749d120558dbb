"""A few labelled images name the clusters, or teach a linear probe, or vote as nearest neighbours.

The images are some of the run. `clusters`: their labels vote for the centroids of an over-clustering, and centroids
that no label reaches are named by those most like them (`_votes`). `probe` (`_probe`) and `neighbours` (`_neighbours`)
look at nothing but the labelled vectors; they are the yardstick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from maskmill.errors import InputError
from maskmill.images.listing import content_fingerprint, listing_fingerprint
from maskmill.recipe.base import LocalPath, Model
from maskmill.store.class_names import check_class_name
from maskmill.taxonomy import Clustered, Traits

if TYPE_CHECKING:
    import numpy as np

    from maskmill.store.classes import Classes

TRAITS = Traits(labels=True)
CALIBRATION = 1  # version of what is measured of the classes: another one fits these again, and no others


class Params(Model):
    """Which images are examples, and how their labels become classes."""

    labels: LocalPath = Field(description="folder of label images that are named like some images of the run")
    images: LocalPath | None = Field(
        None, description="text file of image ids, one a line: only these are examples; default: all with a label"
    )
    method: Literal["clusters", "probe", "neighbours"] = Field(
        "clusters", description="votes for clusters, a linear probe, or votes of the nearest labelled vectors"
    )
    class_names: dict[int, str] | None = Field(
        None, description="label id -> name; default: those of evaluate.class_names, else `class <id>`"
    )
    background: int | None = Field(None, ge=0, description="label id that is background; default: the one called so")
    ignore: list[int] = Field(default_factory=lambda: [255], description="label ids that are void")

    @field_validator("class_names")
    @classmethod
    def _are_names(cls, names: dict[int, str] | None) -> dict[int, str] | None:
        for name in (names or {}).values():
            check_class_name(name)
        return names


def serves(params: Params, recipe: str, recipes: Sequence[str], seeds: int) -> bool:
    """True: examples serve every recipe of the run."""
    return True


def check_clusters(params: Params, recipe: str, clusters: int) -> None:
    """Nothing: no cluster is named by its number."""


def place(params: Params, recipe: str) -> str:
    """Nowhere: `grouping` names everything."""
    return ""


def grouping(params: Params, recipe: str) -> dict[str, Any]:
    """All but names, with fingerprints of what the paths name."""
    body = params.model_dump(mode="json", exclude={"class_names"}) | {"background": _background(params)}
    listed = content_fingerprint(params.images) if params.images is not None else ""
    content = [listing_fingerprint([], params.labels), listed]
    return body | {"content": content, "calibration": CALIBRATION}


def _background(params: Params) -> int | None:
    """The label id of the background: the one that is given, or the one that is called so."""
    called = (label for label, name in sorted((params.class_names or {}).items()) if name.casefold() == "background")
    return params.background if params.background is not None else next(called, None)


def naming(params: Params, recipe: str) -> dict[str, Any]:
    """Label id -> name, of labels that say something."""
    named = {label: name for label, name in (params.class_names or {}).items() if label not in params.ignore}
    return {"label_names": {str(label): name for label, name in sorted(named.items())}}


def fit(grouping: Mapping[str, Any], given: Clustered) -> tuple[Classes, Mapping[str, np.ndarray]]:
    """The classes that the labels of the examples give, and these labels as classes.

    Raises:
        InputError: no label fits an image, or none can be used.
    """
    import numpy as np

    from maskmill.store.classes import IGNORE
    from maskmill.store.manifest import read_manifest
    from maskmill.taxonomy._calibrate import calibrate
    from maskmill.taxonomy._labelled import chosen_labels, read
    from maskmill.taxonomy._learn import learn
    from maskmill.taxonomy._sure import with_images

    manifest = read_manifest(given.manifest)
    labels = chosen_labels(manifest, str(grouping["labels"]), grouping["images"])
    scored = {row.id for row in manifest.rows if row.label is not None}
    if scored and scored <= set(labels):
        raise InputError(
            f"taxonomy.labels: all {len(scored)} labelled images of the run are examples, so none is left to score; "
            "name some of them in taxonomy.images (a text file of ids), or leave labels out"
        )
    found = read(labels, grouping["ignore"], given)
    learnt = partial(learn, str(grouping["method"]), background=grouping["background"], given=given)
    classes = learnt(found)
    calibration = with_images(calibrate(found, learnt, given.ground), classes, given)
    classes = replace(classes, calibration=calibration)
    values = np.append(classes.columns, IGNORE)  # which is the value of column -1, void
    return classes, {image_id: values[column] for image_id, column in found.columns.items()}
