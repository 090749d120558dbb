"""The section `export`: which files for other tools are written."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from maskmill.errors import nearest, shown
from maskmill.recipe.base import Model, distinct, split_list

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
