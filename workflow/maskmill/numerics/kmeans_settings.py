"""Parameters of k-means, apart from the fit so that a configuration can be read without it."""

from __future__ import annotations

from pydantic import Field

from maskmill.recipe.base import Model


class Course(Model):
    """Parameters of k-means apart from the number of clusters."""

    spherical: bool = Field(True, description="cosine geometry; false: Euclidean")
    restarts: int = Field(
        5, ge=1, le=1000, description="seedings tried on a sample; the best one goes on to all points"
    )
    iterations: int = Field(100, ge=1, description="largest number of Lloyd iterations at a level")
    tolerance: float = Field(1e-4, ge=0, lt=1, description="stop when the inertia falls by less than this share")


class Settings(Course):
    """Parameters of k-means."""

    clusters: int = Field(8, ge=1, le=65534, description="number of clusters k")
