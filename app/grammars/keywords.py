"""One schema on its own: is it well-formed, and can llguidance enforce its keywords?

llguidance 1.9.1 would take some of what is refused here in silence, and end the process on some.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from app.grammars.patterns import UNWRITTEN
from app.grammars.refused import Refused
from app.types import Json

MAX_OPTIONAL = 450
"""Properties of one object that need not be there: each is four items in a row of the parser."""
MAX_PATTERNS = 64
"""Of `patternProperties`: each is compared with each other."""
LARGEST = 9_200_000_000_000_000_000
"""Numbers are 64-bit there, and one at the end of their range ends the process."""
LARGEST_COUNT = 10**9
_TYPES = {"null", "boolean", "object", "array", "number", "string", "integer"}
UNSUPPORTED = (
    "not", "if", "contains", "uniqueItems", "dependentRequired", "dependentSchemas",
    "dependencies", "propertyNames", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef",
    "$recursiveRef",
)  # fmt: skip
NAMED = ("properties", "patternProperties")
LISTED = ("allOf", "anyOf", "oneOf", "prefixItems")
BESIDE = {"$ref", "allOf", "anyOf", "oneOf"}
"""What applies further schemas to the same value."""


BEST_EFFORT = "x-best-effort"
"""Set in a schema: what cannot be enforced in it and below is left out instead of refused. So it is
with the arguments of tools that are not strict."""


def leave_out(node: Json, *, without_patterns: bool) -> None:
    """Take out of a schema what would be refused though it is well-formed."""
    for keyword in UNSUPPORTED:
        if keyword in node and not _asks_for_nothing(keyword, node):
            del node[keyword]
    if "oneOf" in node:
        choices = node.pop("oneOf")
        node.setdefault("anyOf", choices)
    if isinstance(patterns := node.get("patternProperties"), dict) and len(patterns) > 1:
        del node["patternProperties"]
        node.pop("additionalProperties", None)
    node.pop("minProperties", None)
    node.pop("maxProperties", None)
    for keyword in ("pattern", "patternProperties") if without_patterns else ():
        node.pop(keyword, None)


def asserted(node: Json) -> set[str]:
    """The keywords of a schema that a value may break; others are annotations."""
    return {
        keyword
        for keyword in node.keys() & _ASSERTIONS
        if keyword not in UNSUPPORTED or not _asks_for_nothing(keyword, node)
    }


def check(node: Json, place: str) -> None:
    """Raises Refused that names the keyword and its place."""
    for keyword, value in node.items():
        if (well := _CHECKS.get(keyword)) is not None and (wrong := well(value)) is not None:
            raise Refused(f"has at {place} a '{keyword}' that {wrong}")
    for keyword in UNSUPPORTED:
        if keyword in node and not _asks_for_nothing(keyword, node):
            raise Refused(f"has '{keyword}' at {place}, which cannot be enforced")
    _check_sizes(node, place)


def _asks_for_nothing(keyword: str, node: Json) -> bool:
    """The keyword can be left out, or another one says the same."""
    value = node[keyword]
    match keyword:
        case "if":
            return not {"then", "else"} & node.keys()
        case "uniqueItems":
            return value is False or node.get("maxItems", 2) in (0, 1)
        case "dependentRequired" | "dependentSchemas" | "dependencies":
            return bool(value == {})
        case "propertyNames":
            return value in (True, {}, {"type": "string"})
        case "unevaluatedProperties":
            same = value is False and not (BESIDE | {"patternProperties"}) & node.keys()
            return value in (True, {}) or same
        case "unevaluatedItems":
            return value in (True, {})
        case _:
            return False


def _check_sizes(node: Json, place: str) -> None:
    properties, required = node.get("properties", {}), node.get("required", [])
    if len(properties.keys() - set(required)) > MAX_OPTIONAL:
        raise Refused(f"has more than {MAX_OPTIONAL} optional 'properties' at {place}")
    if len(node.get("patternProperties", {})) > MAX_PATTERNS:
        raise Refused(f"has more than {MAX_PATTERNS} 'patternProperties' at {place}")
    least = node.get("minProperties", 0)
    if least > max(1, len(set(required))):
        # A property that is not declared may be written twice, and would be counted twice.
        raise Refused(
            f"has a 'minProperties' at {place} that is more than the properties which are required"
        )
    counted = "minProperties" if least else "maxProperties" if "maxProperties" in node else None
    if properties.keys() - set(required) and counted is not None:
        raise Refused(f"has '{counted}' beside optional properties at {place}")
    if _unwritable(list(properties)) is not None:
        raise Refused(f"has in 'properties' at {place} a name with a control character")
    for keyword in ("const", "enum", "required"):
        if keyword in node and (what := _unwritable(node[keyword])) is not None:
            raise Refused(f"has in '{keyword}' at {place} {what}")


def _is_written_back(value: float) -> bool:
    """llguidance reads the same number: it takes the digits as one, and a power of ten, which are
    both exact only so far."""
    _, digits, exponent = Decimal(repr(value)).as_tuple()
    significand = int("".join(map(str, digits)))
    return significand <= 2**53 and isinstance(exponent, int) and abs(exponent) <= 22


def _unwritable(value: Any) -> str | None:
    """What is in a value that no grammar can have it written."""
    stack = [value]
    while stack:
        each = stack.pop()
        match each:
            case dict():
                stack += [*each, *each.values()]
            case list():
                stack += each
            case str() if not UNWRITTEN.isdisjoint(map(ord, each)):
                return "a control character"
            case int() | float() if abs(each) > LARGEST or int(float(each)) != int(each):
                return "a number that is no 64-bit float"
            case float() if not _is_written_back(each):
                return "a number with too many digits"
    return None


def _is_count(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return "is no whole number"
    return "is negative" if value < 0 else None


def _is_least_count(value: Any) -> str | None:
    wrong = _is_count(value)
    return "is too large" if wrong is None and value > LARGEST_COUNT else wrong


def _is_number(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "is no number"
    return None


def _is_least(value: Any) -> str | None:
    wrong = _is_number(value)
    return "is beyond 64 bits" if wrong is None and value > LARGEST else wrong


def _is_most(value: Any) -> str | None:
    wrong = _is_number(value)
    return "is beyond 64 bits" if wrong is None and value < -LARGEST else wrong


def _is_step(value: Any) -> str | None:
    wrong = _is_number(value)
    return "is not above 0" if wrong is None and value <= 0 else wrong


def _is_type(value: Any) -> str | None:
    names = value if isinstance(value, list) else [value]
    if not names:
        return "is empty"
    if not all(isinstance(name, str) and name in _TYPES for name in names):
        return f"is none of {', '.join(sorted(_TYPES))}"
    return None


def _is_list(value: Any) -> str | None:
    if not isinstance(value, list):
        return "is no array"
    return None if value else "is empty"


def _is_names(value: Any) -> str | None:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return "is no array of names"
    return None


def _is_map(value: Any) -> str | None:
    return None if isinstance(value, dict) else "is no object"


def _is_text(value: Any) -> str | None:
    return None if isinstance(value, str) else "is no text"


_CHECKS: dict[str, Callable[[Any], str | None]] = {
    "type": _is_type,
    "enum": _is_list,
    "required": _is_names,
    "pattern": _is_text,
    "format": _is_text,
    "multipleOf": _is_step,
    "minimum": _is_least,
    "exclusiveMinimum": _is_least,
    "maximum": _is_most,
    "exclusiveMaximum": _is_most,
    **dict.fromkeys(("minLength", "minItems", "minProperties"), _is_least_count),
    **dict.fromkeys(("maxLength", "maxItems", "maxProperties"), _is_count),
    **dict.fromkeys((*NAMED, "$defs", "definitions"), _is_map),
    **dict.fromkeys(LISTED, _is_list),
}
_ASSERTIONS = frozenset(
    {*_CHECKS, *UNSUPPORTED, "$ref", "const", "items", "additionalItems", "additionalProperties"}
    - {"$defs", "definitions"}
)
