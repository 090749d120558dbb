"""JSON as a word of a command line, compressed where it is long.

Snakemake writes a command of more than 65535 characters to a script, and does not quote its path: in a folder whose
name has a blank that job fails. A report of fifty recipes would have such a command.
"""

from __future__ import annotations

import base64
import zlib

try:  # a Python that was built without liblzma has no such module
    import lzma
except ImportError:
    lzma = None  # type: ignore[assignment]

LONG = 8_000  # characters
XZ = b"\xfd7zXZ"  # what bytes of this format begin with


def packed(text: str) -> str:
    """The JSON object, or base64 of it compressed, which does not begin with a brace.

    LZMA takes a fifth less than deflate of what jobs are told: many paths that are nearly alike.
    """
    if len(text) < LONG:
        return text
    body = text.encode()
    return base64.b64encode(zlib.compress(body, 9) if lzma is None else lzma.compress(body, preset=9)).decode()


def unpacked(text: str) -> str:
    """What was given to `packed`, there or on a machine that compresses in the other way.

    Raises:
        ValueError: it is neither, or this Python can not read it.
    """
    if text.startswith("{"):
        return text
    body = base64.b64decode(text, validate=True)
    if body.startswith(XZ):
        if lzma is None:
            raise ValueError("compressed by LZMA, which this Python was built without")
        try:
            return lzma.decompress(body).decode()
        except lzma.LZMAError as error:
            raise ValueError(str(error)) from None
    try:
        return zlib.decompress(body).decode()
    except zlib.error as error:
        raise ValueError(str(error)) from None
