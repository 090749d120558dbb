"""JSON as a word of a command line, compressed where it is long.

Snakemake writes a command of more than 65535 characters to a script, and does not quote its path: in a folder whose
name has a blank that job fails. A report of thirty recipes would have such a command.
"""

from __future__ import annotations

import base64
import zlib

LONG = 8_000  # characters


def packed(text: str) -> str:
    """The JSON object, or base64 of it compressed, which does not begin with a brace."""
    return text if len(text) < LONG else base64.b64encode(zlib.compress(text.encode())).decode()


def unpacked(text: str) -> str:
    """What was given to `packed`.

    Raises:
        ValueError, zlib.error: it is neither.
    """
    return text if text.startswith("{") else zlib.decompress(base64.b64decode(text, validate=True)).decode()
