"""Classes from a file: made by hand, saved in the report, or left behind by another source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from maskmill.errors import ConfigError
from maskmill.recipe.base import LocalPath, Model, split_list
from maskmill.taxonomy import Clustered, Traits
from maskmill.taxonomy._document import Document, read
from maskmill.taxonomy._document import check_clusters as check_numbers

if TYPE_CHECKING:
    import numpy as np

    from maskmill.store.classes import Classes

TRAITS = Traits()


class Params(Model):
    """Where the file is."""

    file: Annotated[list[LocalPath], BeforeValidator(split_list, json_schema_input_type=str | list[str])] = Field(
        min_length=1, description="taxonomy.yaml, or several, one a recipe"
    )


def serves(params: Params, recipe: str, recipes: Sequence[str], seeds: int) -> bool:
    """False where the files are those of other recipes of the run: then the clusters of this one have no names.

    Numbers of clusters mean something for one recipe and one seed only, so a file for several must say for which.

    Raises:
        ConfigError: a file is impossible, two serve the recipe, or one serves no recipe of the run.
    """
    documents = [(file, read(file)) for file in params.file]
    for file, document in documents:
        if Path(file).resolve().is_relative_to(Path("results").resolve()):
            raise ConfigError(f"taxonomy.file: {file}: the run writes this file anew; copy it out of results/ first")
        if document.recipe is None and len(recipes) > 1:
            raise ConfigError(
                f"{file}: recipe: is missing, and the run has {', '.join(recipes)}; name the one that it is for"
            )
        if seeds > 1 and (document.codebook is None or document.members is None):
            raise ConfigError(
                f"{file}: codebook and members: are missing, and the run has {seeds} seeds, each with clusters of its "
                "own; save the file in the report, or run one seed"
            )
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


def check_clusters(params: Params, recipe: str, clusters: int) -> None:
    """The file names no cluster beyond so many, unless it can be carried over from another clustering.

    Raises:
        ConfigError: it does.
    """
    file, document = document_of(params, recipe)
    if document.codebook is None or document.members is None:
        check_numbers(document, file, clusters)


def place(params: Params, recipe: str) -> str:
    """The file."""
    return document_of(params, recipe)[0]


def grouping(params: Params, recipe: str) -> dict[str, Any]:
    """The hash of what the file says of clusters; the file itself may be large, and may move."""
    return {"content": document_of(params, recipe)[1].content}


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

    file = given.place
    document = read(file)
    if document.content != grouping["content"]:
        raise ConfigError(f"{file}: changed since the run was planned; run snakemake again")
    return merge(document, file, given), {}
