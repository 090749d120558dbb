"""What a URL is. Asked wherever a user names a file, before anything else is done to the name.

Only files of this machine are read. A URL that is taken for a path loses a slash in `os.path.abspath` or `Path`, and
with it what tells readers and `maskmill.redact` that it may carry a password.
"""

from __future__ import annotations

import re

from maskmill.redact import redact

REFUSED = "is a URL, but only files of this machine are read; fetch it first"
_COLON = r"(?::|%(?:25)*3a)"  # percent-encoded once or more often
_SLASH = r"(?:\\?/|\\|%(?:25)*2f)"
_SCHEME = r"[a-z][a-z0-9+.-]*"
# With these a single slash is a URL that has lost the other one; elsewhere it is the folder `a:` of a path.
_NETWORK = (
    r"(?:https?|s?ftps?|ssh|git|svn|s3[an]?|gs|gcs|az|adl|abfss?|wasbs?|hdfs|davs?|webdavs?|oss|cos|hf|jdbc|"
    r"postgres(?:ql)?|mysql|mssql|mongodb|rediss?|amqps?)(?:\+[a-z0-9]+)*"
)
_URL = re.compile(
    rf"""[\s\ufeff\u200b<>"'(\[]*(?:{_SCHEME}::)*"""  # quotes of a careless cell; chains such as simplecache::s3://
    rf"(?:(?:jar:|view-source:)?{_SCHEME}{_COLON}{_SLASH}{{2}}|{_NETWORK}{_COLON}{_SLASH}|data:[\w.+-]+/[\w.+-]+[;,])",
    re.IGNORECASE,
)


def is_url(name: str) -> bool:
    """True for an address of any scheme, also encoded, quoted, or with one slash lost on the way."""
    return _URL.match(name) is not None


def refusal(name: str) -> str:
    """`'https://***@host/a.jpg' is a URL, but ...`: why a name is refused, without its secrets."""
    return f"{redact(name)!r} {REFUSED}"
