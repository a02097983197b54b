"""What must not be shown: secrets in a command line, an address, or the engine's options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SECRET = re.compile("key|token$|secret|password", re.IGNORECASE)
_SECRET_FLAG = re.compile(r"(--[a-z-]*(?:key|token|secret|password)[= ]+)\S+", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def hidden(text: str) -> str:
    """A command line or an address, with the secrets in it replaced by ***."""
    return _USERINFO.sub("***", _SECRET_FLAG.sub(r"\1***", text))


def redacted(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with the values of those that are secret by their name replaced by ***."""
    return {name: "***" if _SECRET.search(name) else value for name, value in options.items()}
