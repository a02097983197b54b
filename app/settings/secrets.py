"""What must not be shown: secrets in a command line, an address, or the engine's options."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_WORDS = "key|secret|passw|passphrase|credential|signature"
_SECRET = re.compile(rf"{_WORDS}|token$|^auth", re.IGNORECASE)
"""Names whose values are secret. `token` at the end only: `max_total_tokens` is none."""
_SECRET_FLAG = re.compile(
    rf"(--[a-z0-9_-]*(?:(?:{_WORDS})(?:s|ord|ords)?|token)[= ]+)\S+(?:\s+(?!--)\S+)*", re.IGNORECASE
)
"""With every word up to the next flag, all of which may be keys."""
_USERINFO = re.compile(r"(?<=://)(?:[^/\s]*:\S+|[^/\s]+)(?=@)")
"""Up to the last @: a password may have any character, `/` and `@` too."""
_QUERY = re.compile(r"://[^\s?]*\?\S*")
_QUERY_VALUE = re.compile(r"(?<==)[^&#\s\"']+")


def is_secret(name: str) -> bool:
    """By its name alone."""
    return _SECRET.search(name) is not None


def hidden(text: str) -> str:
    """A command line, an address or JSON, with the secrets in it replaced by ***."""
    if (shown := _hidden_json(text)) is not None:
        return shown
    text = _USERINFO.sub("***", _SECRET_FLAG.sub(r"\1***", text))
    return _QUERY.sub(lambda address: _QUERY_VALUE.sub("***", address[0]), text)


def redacted(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, at any depth without the values that are secret by their name or place."""
    return {
        name: "***" if value and is_secret(str(name)) else _redacted_value(value)
        for name, value in options.items()
    }


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
