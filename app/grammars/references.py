"""What a `$ref` leads to: within the schema, never outside of it.

Source: JSON Schema 2020-12, section 8.2 (`$id`, `$anchor`, `$ref`); draft 7 is the same but for
anchors, which are an `$id` with a fragment there.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from urllib.parse import quote, unquote, urldefrag, urljoin

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
        base = self._bases.get(id(node), "")
        # Not urljoin's, which leaves the base out if it is a URN.
        uri, fragment = (base, ref[1:]) if ref.startswith("#") else urldefrag(urljoin(base, ref))
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
        stack: list[tuple[Any, str, bool]] = [(schema, "", False)]
        self._resources[""] = schema
        while stack:
            value, base, named = stack.pop()
            if isinstance(value, list):
                stack += [(each, base, False) for each in value]
            elif isinstance(value, dict) and named:
                self._bases[id(value)] = base
                stack += [(each, base, False) for each in value.values()]
            elif isinstance(value, dict):
                if isinstance(own := value.get("$id"), str) and not own.startswith("#"):
                    with suppress(ValueError):  # no address
                        base = urldefrag(urljoin(base, own)).url
                    self._resources.setdefault(base, value)
                for name in ("$anchor", "$dynamicAnchor"):
                    if isinstance(anchor := value.get(name), str):
                        key = base, anchor
                        self._anchors[key] = None if key in self._anchors else value
                self._bases[id(value)] = base
                stack += [
                    (each, base, key in _SCHEMAS_BY_NAME)
                    for key, each in value.items()
                    if key not in _DATA
                ]


def rerooted(schema: Json, root: str) -> Json:
    """The schema as it must be once it stands at the place `root` of another, such as
    `#/$defs/tool0`: each `$ref` is a path from there, and nothing has a name of its own any more,
    which another schema may have, too."""
    references = References(schema)
    places: dict[int, str] = {}
    _note_places(schema, root, places)

    def moved(value: Any, *, named: bool = False) -> Any:
        if isinstance(value, list):
            return [moved(each) for each in value]
        if not isinstance(value, dict):
            return value
        if named:
            return {name: moved(each) for name, each in value.items()}
        copy = {
            key: each if key in _DATA else moved(each, named=key in _SCHEMAS_BY_NAME)
            for key, each in value.items()
            if not (key in _NAMES and isinstance(each, str))
        }
        if isinstance(ref := value.get("$ref"), str):
            with suppress(KeyError, IndexError, TypeError, ValueError):  # refused later, by name
                copy["$ref"] = places[id(references.target(value, ref))]
        return copy

    moved_schema: Json = moved(schema)
    return moved_schema


_DATA = ("const", "enum", "default", "examples", "example")
"""Keywords whose values are no schemas."""
_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose values have any names, those of keywords too."""
_NAMES = ("$id", "$anchor", "$dynamicAnchor")


def _note_places(value: Any, place: str, places: dict[int, str]) -> None:
    if isinstance(value, dict):
        places.setdefault(id(value), place)
        for key, each in value.items():
            step = quote(key.replace("~", "~0").replace("/", "~1"))
            _note_places(each, f"{place}/{step}", places)
    elif isinstance(value, list):
        for no, each in enumerate(value):
            _note_places(each, f"{place}/{no}", places)
