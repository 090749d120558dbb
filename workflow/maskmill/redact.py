"""What is kept out of errors, logs and the report: passwords in URLs, and secrets of the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

HIDDEN = "***"
_USER = re.compile(r"(?<=://)[^/\s'\"]+(?=@)")  # user:password of a URL
_QUERY = re.compile(
    r"(?i)(?<=[?&])([\w.-]*(?:token|secret|passw(?:or)?d|key|signature|sig|credential)=)[^&#\s'\"]+"
)  # of signed and tokened URLs
_SECRET = re.compile(r"(?i)token|secret|passw|passphrase|api_?key|access_?key|private_?key|credential")
_SHORTEST = 12  # a shorter value may be a word, and stand anywhere


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """`text` with `***` for the user and password of URLs, and for values of variables that are named like secrets."""
    environment = os.environ if environment is None else environment
    secrets = {v for k, v in environment.items() if _SECRET.search(k) and len(v) >= _SHORTEST}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _QUERY.sub(rf"\g<1>{HIDDEN}", _USER.sub(HIDDEN, text))
