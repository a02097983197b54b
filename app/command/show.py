"""What is printed and ends: the settings in force, the description of the API."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from app.settings.load import Loaded, load
from app.settings.show import describe, markdown

_HEAD = ("setting", "value", "from")
_WIDEST = 60
"""Of the column with the values, beside others that are longer."""


def settings(flags: dict[str, Any]) -> int:
    as_json, only_set, as_markdown = (flags.pop(name) for name in ("json", "set", "markdown"))
    if as_markdown:
        print(markdown(), end="")
        return 0
    loaded = _loaded(flags)
    rows = [row for row in describe(loaded) if not only_set or row[2] != "default"]
    if as_json:
        shown = {name: {"value": value, "from": origin} for name, value, origin in rows}
        print(json.dumps(shown, indent=2))
        return 0
    if not rows:
        print("every setting has its default")
        return 0
    rows = [_HEAD, *rows]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, origin in rows:
        print(f"{name:<{widths[0]}}  {value:<{min(widths[1], _WIDEST)}}  {origin}")
    return 0


def openapi(flags: Mapping[str, Any]) -> int:
    """The document that a server with these settings would serve at /openapi.json."""
    from app.web.app import description

    chosen = _loaded(flags).settings
    print(json.dumps(description(chosen), indent=2, ensure_ascii=False))
    return 0


def _loaded(flags: Mapping[str, Any]) -> Loaded:
    flags = {name: value for name, value in flags.items() if name not in ("help", "version")}
    loaded = load(flags)
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return loaded


def columns() -> int:
    """Of the terminal, within what reads well."""
    return max(60, min(100, shutil.get_terminal_size((100, 40)).columns))
