"""What must not be shown: secrets in a command line, an address, or the engine's options."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_WORDS = ("key", "secret", "passw", "passphrase", "credential", "signature")
_SECRET = re.compile(rf"{'|'.join(_WORDS)}|token$|^auth", re.IGNORECASE)
"""Names whose values are secret. `token` at the end only: `max_total_tokens` is none."""
_ENDS = [*(word + end for word in _WORDS for end in ("", "s", "ord", "ords")), "token"]
_SECRET_FLAG = re.compile(
    # From the beginning of a name to its end, and then what it ends with: every character is
    # looked at once. Without the (?>...) and the + after + it would be for each `-` again.
    r"(?<![a-z0-9_-])((?>[a-z0-9_-]*?--)[a-z0-9_-]*+"
    rf"(?:{'|'.join(f'(?<={end})' for end in _ENDS)})[= ]+)\S++(?:\s++(?!--)\S++)*+",
    re.IGNORECASE,
)
"""With every word up to the next flag, all of which may be keys."""
_ADDRESS = re.compile(r"://\S++")
"""From its first `://` to the end of the word: there may be others in it."""
_QUERY_VALUE = re.compile(r"(?<==)[^&#\s\"']++")
_QUERY_NAME = re.compile(r"([^?&#=]++)=[^&#]")
_MOST_SCANNED = 4096


def is_secret(name: str) -> bool:
    """By its name alone."""
    return _SECRET.search(name) is not None


def hidden(text: str) -> str:
    """A command line, an address or JSON, with the secrets in it replaced by ***."""
    if (shown := _hidden_json(text)) is not None:
        return shown
    return _ADDRESS.sub(_without_credentials, _SECRET_FLAG.sub(r"\1***", text))


def holds_secret(text: str) -> bool:
    """`hidden` has something to hide in it."""
    return hidden(text).count("***") > text.count("***")


def holds_credentials(text: str) -> bool:
    """An address in it names a user, or a query in it has a value whose name says that it is
    secret. Of a text that is no secret by itself; `hidden` hides more, to be on the safe side."""
    words = (found[0] for found in _ADDRESS.finditer(text))
    return any(
        _without_user(word) != word
        or any(is_secret(name[1]) for name in _QUERY_NAME.finditer(word.partition("?")[2]))
        for word in words
    )


def hidden_start(text: str, most_chars: int) -> str:
    """As `hidden`, the first characters: of a text that another machine wrote, however long."""
    start = text[:_MOST_SCANNED]
    if len(start) < len(text):
        if start.lstrip().startswith(("{", "[")):
            return "***"  # half of it is no JSON, by whose names its secrets are known
        # A word that is cut may be half an address, whose password has no @ behind it any more.
        cut = max(map(start.rfind, " \t\n\r"))
        start = start[:cut] if cut > 0 else "***"
    return hidden(start)[:most_chars]


def redacted(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, at any depth without the values that are secret by their name or place."""
    return {
        name: "***" if value and is_secret(str(name)) else _redacted_value(value)
        for name, value in options.items()
    }


def _without_credentials(address: re.Match[str]) -> str:
    """A word, without what stands before the @ of each address in it, and the values of a query."""
    word = _without_user(address[0])
    return _QUERY_VALUE.sub("***", word) if "?" in word else word


def _without_user(word: str) -> str:
    pieces, done, at, last = [], 0, 0, word.rfind("@")
    while 0 <= (at := word.find("://", at)) < last:
        at += 3
        slash = word.find("/", at)
        end = slash if slash >= 0 else len(word)
        colon = word.find(":", at, end)
        # With a password, up to the last @: it may have any character, `/` and `@` too.
        sign = last if 0 <= colon < last - 1 else word.rfind("@", at, end)
        if sign > at:
            pieces += [word[done:at], "***"]
            done = at = sign
    return "".join((*pieces, word[done:]))


def _redacted_value(value: Any) -> Any:
    match value:
        case str():
            return hidden(value)
        case Mapping():
            return redacted(value)
        case list() | tuple():
            return [_redacted_value(each) for each in value]
        case _:
            return value


def _hidden_json(text: str) -> str | None:
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.dumps(_redacted_value(json.loads(text)))
    except RecursionError:
        return "***"  # its secrets are known by their names, which are not reached
    except ValueError:
        return None
