"""What is kept out of errors, logs, `rejected.csv` and the report: passwords, tokens, and secrets of the environment.

Secrets are known in three ways: by where they stand (before the `@` of a URL, in its query, after `password=` or
`Authorization:`), by their form (`ghp_...`, `AKIA...`, a JSON web token), and by the environment, whose values are
hidden wherever they stand when the variable's name or the value's form says that it is a secret.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "***"
_COLON, _SLASH, _AT = r"(?::|%(?:25)*3a)", r"(?:\\?/|\\|%(?:25)*2f)", r"(?:@|%(?:25)*40)"
_IN_URL = r"[^\s'\"<>]"

# Words in the name of a variable, of a key or of a parameter in a query. A word by itself, as many are parts of
# ordinary ones (monkey, compass, path, author), and a few that mean a secret wherever they stand.
_WORDS = (
    r"tok(?:en)?|secret|pass|passw(?:or)?d|passwrd|passphrase|pwd?|pat|key|apikey|auth|authorization|bearer|jwt|sas|"
    r"cred(?:ential)?s?|cookie|sig|signature|hmac|otp|dsn|netrc"
)
_IN_QUERY = r"session|sessionid|sid|pin|code|login|user|nonce|assertion|state"
_ANYWHERE = (
    r"token(?!s|iz)|secret(?!s|ar)|passw(?:or)?d|passphrase|credential|(?:api|access|private|secret|account|shared|"
    r"auth|encryption|signing|storage|license)[_.-]?key|signature|oauth"
)
_NAME = re.compile(rf"(?i)(?:^|[^a-z])(?:{_WORDS})\d*(?:$|[^a-z])|{_ANYWHERE}")
_QUERY_NAME = re.compile(rf"(?i)(?:^|[^a-z])(?:{_WORDS}|{_IN_QUERY})\d*(?:$|[^a-z])|{_ANYWHERE}")
_PASSWORD_NAME = re.compile(r"(?i)passw(?:or)?d|passphrase|(?:^|[^a-z])(?:pass|pwd)$")
_RANDOM = re.compile(r"\d|[A-Z][^A-Z]*[a-z][^A-Z]*[A-Z]|[a-z][A-Z]")  # no word
_HARMLESS = {"PWD", "OLDPWD"}  # of the shell: the working directory
_LONG, _SHORTEST = 12, 6  # letters: a shorter value may be a word, which can stand anywhere

# user:password of a URL: all up to the last @ before the next slash; with a colon in it, slashes may be part of it.
_NETWORK = r"(?:https?|s?ftps?|ssh|git|s3|gs|postgres(?:ql)?|mysql|mongodb|rediss?|amqps?)(?:\+[a-z0-9]+)*"
_HOSTED = r"(?!file\b)[a-z][a-z0-9+.-]{1,30}"
_USER = re.compile(
    rf"(?i)(\b{_HOSTED}{_COLON}{_SLASH}+)(?:(?!{_SLASH}|{_COLON}|{_AT}){_IN_URL}){{0,500}}{_COLON}(?!\d+{_SLASH})"
    rf"(?:(?![?#]){_IN_URL}){{0,500}}(?={_AT})"
    rf"|(\b{_HOSTED}{_COLON}{_SLASH}{{2,}}|\b{_NETWORK}{_COLON}{_SLASH})(?:(?!{_SLASH}){_IN_URL}){{1,500}}(?={_AT})"
)
_BARE_USER = re.compile(r"(?<![\w./%-])[\w.+-]+:[^\s/@:'\"]+(?=@(?:localhost|[\w-]+(?:\.[\w-]+)+)(?:[:/?]|$))")
_ADDRESS = re.compile(rf"(?i)\b[a-z][a-z0-9+.-]{{1,30}}{_COLON}{_SLASH}{_IN_URL}*")
_PAIR = re.compile(  # name=value in a query or a fragment
    r"(?i)((?:[?&;#]|%(?:25)*(?:3f|26|23))([\w.~\[\]-]{1,80})(?:=|%(?:25)*3d))((?:(?!%(?:25)*26)[^&;#\s'\"<>])+)"
)
_LONGEST_SHOWN = 4  # of a value in the query of a URL: a number, a format

_HEADER = re.compile(
    r"(?i)(\b(?:(?:proxy-)?authorization|(?:set-)?cookie|private-token|x-[\w-]*(?:key|token|auth|secret)[\w-]*)"
    r"[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic|token|digest|negotiate|apikey)\s+)?)[^\s'\"]+"
)
_BEARER = re.compile(r"(?i)(\bbearer[\s:]+)(?=\S*[\d._~+/=-])[\w.~+/=-]{6,}")
_ASSIGNED = re.compile(  # password=..., "password": "...", --password ...
    r"((?<![\w/-])(--)?([A-Za-z][\w.-]{0,80})(?(2)(?:=|[ ]+)|[\"']?\s*([=:])\s*))(\"[^\"]+\"|'[^']+'|[^\s,;&'\"]+)"
)
_NETRC = re.compile(r"(?i)(\blogin\s+\S+\s+password\s+)\S+")
_FORMS = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"A(?:KIA|SIA|GPA|IDA|ROA|IPA|NPA|NVA|BIA|CCA)(?=[A-Z]*\d)[A-Z0-9]{12,}"  # AWS
    r"|gh[pousr]_[A-Za-z0-9]{10,}|github_pat_\w{10,}|glpat-[\w-]{10,}"
    r"|(?:hf|npm|gsk|r8)_[A-Za-z0-9]{16,}|[spr]k_(?:live|test)_[A-Za-z0-9]{10,}|sk-(?:[a-z]+\d*-)*[A-Za-z0-9]{16,}"
    r"|xox[a-z]-[\w-]{10,}|AIza[\w-]{30,}|ya29\.[\w-]{10,}|SG\.[\w-]{10,}\.[\w-]{10,}|pypi-[\w-]{20,}|dckr_pat_[\w-]{10,}"
    r"|eyJ[\w-]{6,}\.[\w-]{6,}\.[\w-]*"  # JSON web token
    r"|[a-z][a-z0-9]{1,9}[_-](?=[A-Za-z0-9]{0,40}[A-Z])(?=[A-Za-z0-9]{0,40}[a-z])(?=[A-Za-z0-9]{0,40}\d)[A-Za-z0-9]{30,}"
    r")"
)
_VALUE_URL = re.compile(r"(?i)[a-z][a-z0-9+.-]{1,30}://([^/\s'\"]*)@")
_VALUE_PASSWORD = re.compile(
    r"(?i)\w{0,40}(?:passw(?:or)?d|passphrase|pwd)[\"']?\s*[=:]\s*[\"']?([^\s;,&'\"]+)"
    r"|login\s+\S+\s+password\s+(\S+)|\w{0,40}key\s*=\s*([^\s;,&'\"]{12,})"
)
_PRIVATE = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL)


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """`text` with `***` in place of whatever is known to be a secret; see the module."""
    given = os.environ if environment is None else environment
    for secret in _secrets(tuple(sorted(given.items()))):
        text = secret.sub(HIDDEN, text)
    text = _PRIVATE.sub(HIDDEN, text)
    text = _USER.sub(lambda m: f"{m[1] or m[2]}{HIDDEN}", text)
    text = _BARE_USER.sub(HIDDEN, text)
    text = _ADDRESS.sub(lambda m: _PAIR.sub(_shown, m[0]), text)
    text = _PAIR.sub(lambda m: f"{m[1]}{HIDDEN}" if _QUERY_NAME.search(_words(m[2])) else m[0], text)
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    text = _NETRC.sub(rf"\1{HIDDEN}", text)
    text = _ASSIGNED.sub(_assigned, text)
    return _FORMS.sub(HIDDEN, text)


def _shown(pair: re.Match[str]) -> str:
    """`name=value` in the query of a URL: a short value of a harmless name stays."""
    hidden = len(pair[3]) > _LONGEST_SHOWN or _QUERY_NAME.search(_words(pair[2]))
    return f"{pair[1]}{HIDDEN}" if hidden else pair[0]


def _assigned(pair: re.Match[str]) -> str:
    """`name=value`, `"name": "value"` or `--name value`, outside a URL; a colon before a bare word is a sentence."""
    flag, name, sign, value = pair[2], _words(pair[3]), pair[4], pair[5].strip("'\"")
    bare, random = value == pair[5], len(value) >= 8 and "/" not in value[:8] and _RANDOM.search(value)
    hidden = not (sign == ":" and bare) and (
        _PASSWORD_NAME.search(name) or (re.search(_ANYWHERE, name, re.IGNORECASE) and (flag or random))
    )
    return f"{pair[1]}{HIDDEN}" if hidden else pair[0]


def _words(name: str) -> str:
    """`accessKeyId` as `access_Key_Id`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)


@lru_cache(maxsize=8)
def _secrets(environment: tuple[tuple[str, str], ...]) -> tuple[re.Pattern[str], ...]:
    """What matches a secret of the environment, the longest first."""
    found: dict[str, str] = {}
    for name, value in environment:
        for secret in {*_parts(value), *_whole(name, value)}:
            edge = len(secret) < _LONG  # such a value is hidden only as a word by itself
            escaped = (quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1], json.dumps(secret)[1:-1])
            for form in (secret, *escaped):
                found[form] = rf"(?<!\w){re.escape(form)}(?!\w)" if edge else re.escape(form)
    return tuple(re.compile(found[form]) for form in sorted(found, key=len, reverse=True))


def _parts(value: str) -> Iterator[str]:
    """Passwords inside a value, whatever its variable is called: those of URLs and of connection strings."""
    for match in _VALUE_URL.finditer(value):
        password = match[1].partition(":")[2] or match[1]
        yield from (part for part in (password, unquote(password)) if len(part) >= _SHORTEST)
    for match in _VALUE_PASSWORD.finditer(value):
        password = match[1] or match[2] or match[3]
        if len(password) >= _SHORTEST and not os.path.exists(password):
            yield password


def _whole(name: str, value: str) -> Iterator[str]:
    """The value of a variable that is named like a secret, and the long words of a value that has several."""
    ending = name.endswith(("PASS", "PWD", "KEY", "AUTH"))  # SSHPASS, without a mark before it
    if name.upper() in _HARMLESS or not (ending or _NAME.search(_words(name))):
        return
    value = value.strip()
    if value.startswith(("/", "~")) and os.path.exists(os.path.expanduser(value)):
        return  # a file that holds the secret
    password = name.endswith(("PASS", "PWD")) or _PASSWORD_NAME.search(name)
    if (
        not password
        and len(value) < _LONG
        and value.isalpha()
        and (value.islower() or value.isupper() or value.istitle())
    ):
        return  # SORT_KEY=species: a word, which may stand in any path
    if len(value) >= (_SHORTEST if password or re.search(r"\d\D|\D\d", value) else _LONG):
        yield value
    if re.search(r"[\s{\"]", value):  # JSON, a key of several lines, a file for netrc
        words = re.split(r"[\s\"'{}\[\],;=]+", value)
        yield from (word for word in words if len(word) >= _LONG and "/" not in word[:8])
