"""Every token is a region of its own: the plain baselines, without cut and without region table."""

from __future__ import annotations

from maskmill.config import Model


class Params(Model):
    """token has no parameters."""
