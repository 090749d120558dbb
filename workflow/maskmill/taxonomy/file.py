"""Classes from a file: made by hand, saved in the report, or left behind by another source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from maskmill.errors import ConfigError
from maskmill.recipe.base import LocalPath, Model, split_list
from maskmill.taxonomy import Clustered, Traits
from maskmill.taxonomy._document import Document, read

if TYPE_CHECKING:
    import numpy as np

    from maskmill.store.classes import Classes

TRAITS = Traits()


class Params(Model):
    """Where the file is."""

    file: Annotated[list[LocalPath], BeforeValidator(split_list)] = Field(
        min_length=1, description="taxonomy.yaml, or several, one a recipe"
    )


def serves(params: Params, recipe: str, recipes: Sequence[str]) -> bool:
    """False where the files are those of other recipes of the run: then the clusters of this one have no names.

    Raises:
        ConfigError: a file is impossible, two serve the recipe, or one serves no recipe of the run.
    """
    documents = [(file, read(file)) for file in params.file]
    for file, document in documents:
        if document.recipe is not None and document.recipe not in recipes:
            raise ConfigError(
                f"{file}: recipe: written for {document.recipe}, which this run does not have ({', '.join(recipes)}); "
                "add it to recipes, or remove the key if the clusters are the same"
            )
    mine = [file for file, document in documents if document.recipe in (None, recipe)]
    if len(mine) > 1:
        raise ConfigError(f"taxonomy.file: {mine[0]} and {mine[1]} are both for recipe {recipe}; keep one")
    return bool(mine)


def document_of(params: Params, recipe: str) -> tuple[str, Document]:
    """The file of a recipe, and what it says."""
    found = ((file, read(file)) for file in params.file)
    return next((file, each) for file, each in found if each.recipe in (None, recipe))


def grouping(params: Params, recipe: str) -> dict[str, Any]:
    """The file, and the hash of what it says of clusters; the file itself may be large."""
    file, document = document_of(params, recipe)
    return {"file": file, "content": document.content}


def naming(params: Params, recipe: str) -> dict[str, Any]:
    """Number, name and colour of every class."""
    _, document = document_of(params, recipe)
    return {"classes": [[document.numbers[each.name], each.name, each.colour] for each in document.classes]}


def fit(grouping: Mapping[str, Any], given: Clustered) -> tuple[Classes, Mapping[str, np.ndarray]]:
    """The classes of the file; one that was written for other clusters is carried over to these.

    Raises:
        ConfigError: the file has changed since the run was planned, or does not fit the clusters or the images.
    """
    from maskmill.taxonomy._merge import merge

    file = str(grouping["file"])
    document = read(file)
    if document.content != grouping["content"]:
        raise ConfigError(f"{file}: changed since the run was planned; run snakemake again")
    return merge(document, file, given), {}
