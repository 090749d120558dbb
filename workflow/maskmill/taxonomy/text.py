"""Class names name the clusters through an image-text model (CLIP and its kin, of open_clip).

Each cluster is described by crops of the places that are most typical of it, each class by sentences with its names;
a cluster gets the class whose sentences are nearest, or none where that is unsure. The model is never trained here and
sees no label. Sources: Radford et al. (ICML 2021) for sentences and scores; crops with what surrounds a region, and
with it blanked out, as in OVSeg (Liang et al., CVPR 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from maskmill.errors import ConfigError
from maskmill.recipe.base import LocalPath, Model, distinct
from maskmill.taxonomy import Clustered, Traits
from maskmill.taxonomy import _clip as clip
from maskmill.taxonomy import _prompts as prompts

if TYPE_CHECKING:
    import numpy as np

    from maskmill.store.classes import Classes

TRAITS = Traits(photos=True)
Names = Annotated[
    dict[str, list[str]],
    BeforeValidator(prompts.named, json_schema_input_type=dict[str, str | list[str]] | list[str]),
]


class Params(Model):
    """Which classes there are, in words, and the model that knows the words."""

    names: Names = Field(description="class -> what to call it, one phrase or several; or a list of class names")
    background: Names = Field(
        default_factory=dict, description="the same for what becomes background, 0 in the masks", validate_default=False
    )
    model: str = Field("ViT-B-32", min_length=1, description="of open_clip; or hf-hub:org/name, local-dir:/path")
    pretrained: str | None = Field(None, min_length=1, description="open_clip's tag of the weights, downloaded once")
    checkpoint: LocalPath | None = Field(None, description="weights in a file (safetensors or torch) instead")
    templates: list[str] = Field(
        default_factory=lambda: list(prompts.TEMPLATES), min_length=1, description="sentences with {} for a phrase"
    )
    crops: int = Field(16, ge=1, le=1000, description="places a cluster is looked at, of different images first")
    context: float = Field(0.5, ge=0, le=4, description="share of a place's side added around it at each end")
    view: Literal["box", "masked", "both"] = Field(
        "both", description="crops with their surroundings, with these blanked out, or the mean of both"
    )
    temperature: float | None = Field(
        None, gt=0, description="of the softmax over classes; default: the model's own, 1 / its logit scale"
    )
    threshold: float = Field(0.5, ge=0, le=1, description="clusters whose best class is less probable stay unnamed")
    margin: float = Field(0.0, ge=0, le=1, description="and those whose best class does not lead by more than this")
    unnamed: Literal["ignore", "background", "keep"] = Field(
        "ignore", description="what becomes of clusters without a name; keep: each a class of its own"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Params:
        prompts.check(self.names, self.background)
        for template in distinct(self.templates):
            if template.count("{}") != 1:
                raise ValueError(f"templates: {template!r} must have one {{}}, where the phrase goes")
        inside = self.model.startswith(clip.WITH_WEIGHTS)
        if inside and (self.pretrained or self.checkpoint):
            raise ValueError(f"model: {self.model} has its weights with it; leave out pretrained and checkpoint")
        if not inside and self.pretrained is None and self.checkpoint is None:
            raise ValueError(
                f"model: {self.model} has no weights: give checkpoint: /path/to/weights, or pretrained: a tag of "
                "open_clip (python -c \"import open_clip; print(open_clip.list_pretrained_tags_by_model('ViT-B-32'))\")"
            )
        return self


def serves(params: Params, recipe: str, recipes: Sequence[str], seeds: int) -> bool:
    """True: names serve every recipe of the run.

    Raises:
        ConfigError: open_clip has no such model or weights, or the checkpoint is not there.
    """
    clip.check(params.model, params.pretrained, params.checkpoint)
    return True


def check_clusters(params: Params, recipe: str, clusters: int) -> None:
    """Nothing: no cluster is named by its number."""


def place(params: Params, recipe: str) -> str:
    """Nowhere: `grouping` names everything."""
    return ""


def grouping(params: Params, recipe: str) -> dict[str, Any]:
    """All but the classes' names: their phrases in order, the model, and a fingerprint of local weights."""
    body = params.model_dump(mode="json", exclude={"names", "background"})
    phrases = {"phrases": list(params.names.values()), "outside": list(params.background.values())}
    return body | phrases | {"content": clip.content(params.model, params.checkpoint)}


def naming(params: Params, recipe: str) -> dict[str, Any]:
    """Number and name of every class, in order."""
    return {"classes": [[number, name, None] for number, name in enumerate(params.names, 1)]}


def fit(grouping: Mapping[str, Any], given: Clustered) -> tuple[Classes, Mapping[str, np.ndarray]]:
    """The classes that own the clusters which look like their names.

    Raises:
        ConfigError: the weights have changed since the run was planned. WeightsError: they do not load. InputError: no
            cluster looks enough like any name, or a photo has changed.
    """
    from maskmill.device import pick
    from maskmill.taxonomy._recognise import Settings, recognise

    model, pretrained, checkpoint = (grouping[key] for key in ("model", "pretrained", "checkpoint"))
    if clip.content(model, checkpoint) != grouping["content"]:
        raise ConfigError(f"{checkpoint or model}: changed since the run was planned; run snakemake again")
    tower = clip.load(model, pretrained, checkpoint, pick(given.device))
    keys = ("phrases", "outside", "templates", "crops", "context", "view", "temperature", "threshold", "margin")
    settings = Settings(**{key: grouping[key] for key in keys}, unnamed=grouping["unnamed"])
    return recognise(settings, tower, given), {}
