"""JSON schemas for llguidance: what it cannot enforce is refused by name, the rest made plain.

llguidance 1.9.1 refuses most of what it does not know; what it takes in silence, ends the process
on, or refuses though nothing is lost, is handled here. Only what can be reached from the root
counts: an unused definition may hold anything.

Two things are narrower than JSON Schema has them. Objects that declare properties and do not say
what else they may have are closed, as OpenAI's strict mode wants them: a small model would go on
writing properties. The order of properties is the schema's. Unknown formats are annotations.
"""

from __future__ import annotations

import copy
import decimal
import itertools
import json
import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from app.grammars.keywords import (
    BESIDE,
    BEST_EFFORT,
    LARGEST,
    LARGEST_COUNT,
    LISTED,
    NAMED,
    UNSUPPORTED,
    check,
    leave_out,
)
from app.grammars.patterns import plain_schema_pattern
from app.grammars.references import References
from app.grammars.refused import Refused
from app.types import Json

_LEAST = 1e-9
"""Beside 0; a number with more zeros is not needed."""
_MAX_COMPARED = 64
_EXACT = 2**53
"""Up to it integers are floats of the same value."""

_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
FORMATS = {
    "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri",
}  # fmt: skip
_SINGLE = ("items", "additionalItems", "additionalProperties")
_OLD_DRAFT = re.compile(r"draft-0[3-7]|2019-09")
_ANNOTATIONS = {
    "$schema", "$id", "$anchor", "$dynamicAnchor", "$comment", "$defs", "definitions", "title",
    "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "nullable",
    "discriminator", "example", BEST_EFFORT,
}  # fmt: skip


def enforceable(schema: Json, *, close: bool = True, without_patterns: bool = False) -> Json:
    """A copy that llguidance enforces as it stands.

    `close`: objects that declare properties have no others. `without_patterns`: leave patterns out
    where the schema asks for best effort. Raises Refused.
    """
    return _Preparation(copy.deepcopy(schema), without_patterns).run(close=close)


def places(schema: Json) -> Iterator[tuple[str, Json]]:
    """Every schema that can be reached, with its place, such as `#/properties/a`."""
    for visit in _Preparation(copy.deepcopy(schema)).visits():
        yield visit.place, visit.node


class _Visit:
    """One schema on the way through all that the root leads to."""

    __slots__ = ("best_effort", "merged", "node", "place")

    def __init__(self, node: Json, place: str, merged: bool, best_effort: bool) -> None:
        self.node, self.place = node, place
        self.best_effort = best_effort or node.get(BEST_EFFORT) is True
        self.merged = merged
        """Its values are also described by another schema, so it must stay as open as it is."""


class _Preparation:
    def __init__(self, schema: Json, without_patterns: bool = False) -> None:
        self._schema = schema
        self._without_patterns = without_patterns
        self._references = References(schema)

    def run(self, *, close: bool) -> Json:
        merged: set[int] = set()
        nodes: dict[int, _Visit] = {}
        for visit in self.visits():
            if id(visit.node) not in nodes:
                nodes[id(visit.node)] = visit
            if visit.merged:
                merged.add(id(visit.node))
        _check_endings(nodes, self._references)
        for key, visit in nodes.items():
            _make_plain(visit.node)
            if close and key not in merged:
                _close(visit.node)
        self._schema.pop("x-guidance", None)  # it would switch refusals off
        if _OLD_DRAFT.search(str(self._schema.pop("$schema", ""))):
            for visit in nodes.values():
                visit.node.pop("prefixItems", None)  # which came later
        return self._schema

    def visits(self) -> Iterator[_Visit]:
        """Each schema once, and once more if it is merged only later on. Raises Refused."""
        seen: set[tuple[int, bool]] = set()
        waiting = deque([_Visit(self._schema, "#", False, False)])
        while waiting:
            visit = waiting.popleft()
            key = id(visit.node), visit.merged
            if key in seen or (id(visit.node), True) in seen:
                continue
            seen.add(key)
            if visit.best_effort:
                leave_out(visit.node, without_patterns=self._without_patterns)
                if not self._is_fine(visit):
                    visit.node.clear()
            check(visit.node, visit.place)
            yield visit
            waiting += self._below(visit)

    def _is_fine(self, visit: _Visit) -> bool:
        try:
            check(visit.node, visit.place)
            if "$ref" in visit.node:
                _target(self._references, visit)
        except Refused:
            return False
        return True

    def _below(self, visit: _Visit) -> Iterator[_Visit]:
        node, place = visit.node, visit.place
        alone = not (node.keys() - _ANNOTATIONS - {"anyOf"}) or not (
            node.keys() - _ANNOTATIONS - {"$ref"}
        )
        beside = visit.merged or not alone
        if "$ref" in node:
            target = _target(self._references, visit)
            if isinstance(target, dict):
                where = node["$ref"] if node["$ref"][0] == "#" else place
                yield _Visit(target, where, beside, visit.best_effort)
        for keyword in NAMED:
            for name, child in node.get(keyword, {}).items():
                yield from _visit(visit, child, f"{keyword}/{_escaped(name)}", visit.merged)
        for keyword in LISTED:
            merged = {"prefixItems": visit.merged, "anyOf": beside}.get(keyword, True)
            for no, child in enumerate(node.get(keyword, ())):
                yield from _visit(visit, child, f"{keyword}/{no}", merged)
        for keyword in _SINGLE:
            if keyword not in node:
                continue
            child = node[keyword]
            for no, each in enumerate(child if isinstance(child, list) else [child]):
                inner = f"{keyword}/{no}" if isinstance(child, list) else keyword
                yield from _visit(visit, each, inner, visit.merged)


def _visit(parent: _Visit, child: Any, inner: str, merged: bool) -> Iterator[_Visit]:
    place = f"{parent.place}/{inner}"
    if isinstance(child, dict):
        yield _Visit(child, place, merged, parent.best_effort)
    elif not isinstance(child, bool):
        raise Refused(f"must have a schema at {place}: an object, true or false")


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")[:64]


def _target(references: References, visit: _Visit) -> Any:
    ref = visit.node["$ref"]
    if not isinstance(ref, str) or not ref:
        raise Refused(f"has at {visit.place} a '$ref' that is no text")
    try:
        target = references.target(visit.node, ref)
    except (KeyError, IndexError, TypeError, ValueError):
        raise Refused(
            f"has at {visit.place} a '$ref' to '{ref[:100]}', which is not in this schema "
            "(other documents are not fetched)"
        ) from None
    if not isinstance(target, dict | bool):
        raise Refused(f"has at {visit.place} a '$ref' to '{ref[:100]}', which is no schema")
    if "$id" in visit.node and not ref.startswith("#"):
        raise Refused(f"has at {visit.place} a '$ref' beside '$id': drafts differ on its meaning")
    return target


# -- all schemas together: can a value be finished ------------------------------------------------


def _check_endings(nodes: dict[int, _Visit], references: References) -> None:
    """Raises Refused for what no finite text follows, such as an object that requires itself."""
    ends: set[int] = set()

    def has_end(child: Any) -> bool:
        return not isinstance(child, dict) or id(child) in ends

    def can_end(visit: _Visit) -> bool:
        node = visit.node
        if "$ref" in node and not has_end(_target(references, visit)):
            return False
        if not all(map(has_end, node.get("allOf", ()))):
            return False
        if any(
            choices and not any(map(has_end, choices))
            for choices in (node.get("anyOf"), node.get("oneOf"))
        ):
            return False
        return "const" in node or "enum" in node or _some_kind_ends(node, has_end)

    unsettled = list(nodes.values())
    while unsettled:
        settled = [visit for visit in unsettled if can_end(visit)]
        if not settled:
            place = unsettled[0].place
            raise Refused(f"has no finite value at {place}: it requires itself")
        ends |= {id(visit.node) for visit in settled}
        unsettled = [visit for visit in unsettled if id(visit.node) not in ends]


def _some_kind_ends(node: Json, has_end: Callable[[Any], bool]) -> bool:
    """One of the types that the value may have can be written to its end."""
    types = node.get("type", "null")
    for type in types if isinstance(types, list) else [types]:
        match type:
            case "object":
                properties = node.get("properties", {})
                rest = node.get("additionalProperties")
                if all(has_end(properties.get(name, rest)) for name in node.get("required", ())):
                    return True
            case "array":
                least = int(node.get("minItems", 0))
                items = node.get("items")
                first = items if isinstance(items, list) else node.get("prefixItems", [])
                rest = node.get("additionalItems") if isinstance(items, list) else items
                needed = [*first[:least], *([rest] if least > len(first) else [])]
                if all(map(has_end, needed)):
                    return True
            case _:
                return True
    return False


# -- one schema: the same in the spelling that llguidance takes -----------------------------------


def _make_plain(node: Json) -> None:
    if "anyOf" not in node and _exclude_each_other(node.get("oneOf", ())):
        node["anyOf"] = node.pop("oneOf")
    if node.get("unevaluatedProperties") is False and "additionalProperties" not in node:
        node["additionalProperties"] = False
    for keyword in (*UNSUPPORTED, "then", "else", "minContains", "maxContains"):
        node.pop(keyword, None)  # checked: it asks for nothing
    if node.get("format") not in FORMATS:
        node.pop("format", None)
    for keyword in _COUNTS:
        if keyword in node:
            node[keyword] = int(node[keyword])
            if node[keyword] > LARGEST_COUNT:
                del node[keyword]  # no answer is as long
    for keyword in _BOUNDS:
        if keyword in node:
            _bound(node, keyword)
    if isinstance(node.get("pattern"), str):
        node["pattern"] = plain_schema_pattern(node["pattern"])
    if "patternProperties" in node:
        node["patternProperties"] = {
            plain_schema_pattern(pattern): each
            for pattern, each in node["patternProperties"].items()
        }
    if isinstance(node.get("$ref"), str):
        node["$ref"] = quote(node["$ref"], safe="#/%:?&=~!$'()*+,;@-._")


def _exclude_each_other(branches: Sequence[Any]) -> bool:
    """No value follows two of these schemas. llguidance knows it of fewer."""
    if not 0 < len(branches) <= _MAX_COMPARED:
        return False
    values = [_listed_values(each) for each in branches]
    if all(each is not None for each in values):
        listed = [text for each in values for text in set(each or ())]
        return len(listed) == len(set(listed))
    return all(_misses(one, other) for one, other in itertools.combinations(branches, 2))


def _listed_values(schema: Any) -> list[str] | None:
    """The JSON of each value of a `const` or `enum`; None: it has neither."""
    if not isinstance(schema, dict):
        return None
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is None or any(isinstance(value, float | dict | list) for value in values):
        return None
    return [json.dumps(value) for value in values]


def _misses(one: Any, other: Any) -> bool:
    """Both are closed objects, and one requires what the other does not have."""

    def closed(schema: Any) -> bool:
        return (
            isinstance(schema, dict)
            and schema.get("type") == "object"
            and schema.get("additionalProperties") is False
            and "patternProperties" not in schema
        )

    return (
        closed(one)
        and closed(other)
        and bool(
            set(one.get("required", ())) - other.get("properties", {}).keys()
            or set(other.get("required", ())) - one.get("properties", {}).keys()
        )
    )


def _bound(node: Json, keyword: str) -> None:
    """As a bound that includes its end, within 64 bits.

    llguidance takes the end that a bound excludes where both bounds have the same whole part.
    """
    value, lower = node.pop(keyword), keyword in ("minimum", "exclusiveMinimum")
    excludes, side = keyword.startswith("exclusive"), "minimum" if lower else "maximum"
    if abs(value) > LARGEST:
        value = -LARGEST if lower else LARGEST
    elif node.get("type") in ("integer", ["integer"]):
        value = _next_integer(value, up=lower, excludes=excludes)
    elif excludes or isinstance(value, float) or abs(value) > _EXACT:
        value = _next_number(value, up=lower, excludes=excludes)
    other = node.get(side)
    node[side] = value if other is None else (max if lower else min)(value, other)


def _next_integer(value: float, *, up: bool, excludes: bool) -> int:
    """The first integer on this side that is a float, too: llguidance's bounds are floats."""
    whole = math.ceil(value) if up else math.floor(value)
    if excludes and whole == value:
        whole += 1 if up else -1
    nearest = float(whole)
    if (nearest < whole) if up else (nearest > whole):
        nearest = math.nextafter(nearest, math.inf if up else -math.inf)
    return int(nearest)


def _next_number(value: float, *, up: bool, excludes: bool) -> float:
    """The first number on this side with 15 digits: llguidance keeps no more."""
    if excludes and value == 0:
        return _LEAST if up else -_LEAST
    rounding = decimal.ROUND_CEILING if up else decimal.ROUND_FLOOR
    context = decimal.Context(prec=15, rounding=rounding)
    rounded = context.create_decimal(repr(value))
    if excludes and rounded == decimal.Decimal(repr(value)):
        rounded = context.next_plus(rounded) if up else context.next_minus(rounded)
    return float(rounded)


def _close(node: Json) -> None:
    properties = node.get("properties")
    says = {"additionalProperties", "patternProperties", *BESIDE} & node.keys()
    if not properties or says or not set(node.get("required", ())) <= properties.keys():
        return
    if node.get("minProperties", 0) <= len(properties):
        node["additionalProperties"] = False
