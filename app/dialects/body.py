"""A request's body: JSON whose size is checked before parsing, then validated field by field."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from app.dialects.error_forms import form_of
from app.dialects.json_shape import shape
from app.errors import InvalidRequest, too_many
from app.settings.bounds import Bounds

Unsupported: TypeAlias = dict[str, tuple[Any, ...]]
"""Name of a field -> the values that have no effect and are accepted; any other is refused."""


class Body(BaseModel):
    """A request's JSON. Strict: `"5"`, `true` and `1.0` are not integers. `null` means absent."""

    model_config = ConfigDict(
        strict=True, extra="ignore", frozen=True, hide_input_in_errors=True, allow_inf_nan=False
    )

    unsupported: ClassVar[Unsupported] = {}
    """Known fields that would change the answer, but which this server does not honour."""
    reasons: ClassVar[Mapping[str, str]] = {}
    """Of some of them -> why."""

    @classmethod
    def lengths(cls, bounds: Bounds) -> dict[str, int]:
        """Field -> the most entries that it may have, checked before any entry is validated."""
        return {}

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name in cls.unsupported.keys() & data.keys():
                value = data[name]
                harmless = [each for each in cls.unsupported[name] if type(each) is type(value)]
                if value is not None and value not in harmless:
                    raise PydanticCustomError("unsupported_parameter", "", _context(cls, name))
        return data


def _context(body: type[Body], name: str) -> dict[str, str]:
    why = body.reasons.get(name)
    return {"field": name} if why is None else {"field": name, "why": why.replace("`", "")}


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Some editors and shells write it before JSON; RFC 8259 lets it be ignored."""

AnyBody = TypeVar("AnyBody", bound=Body)


def read(body: type[AnyBody], raw: bytes, bounds: Bounds, path: str) -> AnyBody:
    """Parse and validate the body of a request to `path`.

    Raises InvalidRequest that names the first wrong field, in the words of the path's vendor.

    The text must be JSON; Content-Type is ignored, because `curl -d` declares a form.
    """
    raw = raw.removeprefix(_BYTE_ORDER_MARK)
    _check_shape(raw, bounds)
    try:
        data = _parse(raw)
    except orjson.JSONDecodeError as error:
        problem = "is empty" if not raw.strip() else f"is not valid JSON: {error}"[:200]
        raise InvalidRequest(f"The request's body {problem}.", code="invalid_json") from None
    if not isinstance(data, dict):
        raise InvalidRequest("The request's body must be a JSON object.", code="invalid_type")
    for field, longest in body.lengths(bounds).items():
        _check_length(field, data.get(field), longest)
    try:
        return body.model_validate(data)
    except ValidationError as error:
        raise form_of(path).explain(error) from None


def _check_shape(raw: bytes, bounds: Bounds) -> None:
    """Reject bodies that would be expensive to parse, before parsing them."""
    depth, nodes = shape(raw, bounds.max_json_nodes)
    if nodes > bounds.max_json_nodes:
        problem = f"holds over {bounds.max_json_nodes} values (MAX_JSON_NODES)"
    elif depth > bounds.max_json_depth:
        problem = f"is nested over {bounds.max_json_depth} levels deep (MAX_JSON_DEPTH)"
    else:
        return
    raise InvalidRequest(f"The request's body {problem}.", code="invalid_json")


def _parse(raw: bytes) -> Any:
    """Parse JSON with garbage collection disabled: while half a million objects are created, the
    collector would scan the whole heap of the serving process again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return orjson.loads(raw)
    finally:
        if collecting:
            gc.enable()


def _check_length(field: str, value: object, longest: int) -> None:
    if not isinstance(value, list | dict) or len(value) <= longest:
        return
    if isinstance(value, list) and type(value[0]) is int:
        return  # token ids of one prompt: bounded by the context
    raise too_many(field, longest)
