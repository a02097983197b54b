"""What a `$ref` leads to: within the schema, never outside of it.

Source: JSON Schema 2020-12, section 8.2 (`$id`, `$anchor`, `$ref`); draft 7 is the same but for
anchors, which are an `$id` with a fragment there.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from app.types import Json


class References:
    """The places of one schema that a `$ref` may name."""

    def __init__(self, schema: Json) -> None:
        self._resources: dict[str, Any] = {}
        self._anchors: dict[tuple[str, str], Any] = {}
        """None: two schemas have this one."""
        self._bases: dict[int, str] = {}
        self._add(schema)

    def target(self, node: Json, ref: str) -> Any:
        """The schema that `node`'s `$ref` names. Raises KeyError if there is none."""
        uri, fragment = urldefrag(urljoin(self._bases.get(id(node), ""), ref))
        if fragment and not fragment.startswith("/"):
            if (anchored := self._anchors[uri, fragment]) is None:
                raise KeyError(fragment)
            return anchored
        place = self._resources[uri]
        for part in unquote(fragment).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            place = place[int(key)] if isinstance(place, list) and key.isdigit() else place[key]
        return place

    def _add(self, schema: Json) -> None:
        # Everything that is an object, a property's or an enum's value too: a place is only looked
        # up by what a `$ref` says.
        stack: list[tuple[Any, str]] = [(schema, "")]
        self._resources[""] = schema
        while stack:
            value, base = stack.pop()
            if isinstance(value, list):
                stack += [(each, base) for each in value]
            elif isinstance(value, dict):
                if isinstance(own := value.get("$id"), str) and not own.startswith("#"):
                    base = urldefrag(urljoin(base, own)).url
                    self._resources.setdefault(base, value)
                for name in ("$anchor", "$dynamicAnchor"):
                    if isinstance(anchor := value.get(name), str):
                        key = base, anchor
                        self._anchors[key] = None if key in self._anchors else value
                self._bases[id(value)] = base
                stack += [(each, base) for each in value.values()]
