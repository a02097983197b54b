"""What every dialect shares: the shape of one, reading a body, carrying events to a presenter.

    bytes ─ read ─> body ─ lower ─> GenerationRequest ─ model ─> events ─ presenter ─> frames | JSON

Whoever carries the reply (web/, runpod/) knows neither tokens nor fields.
"""

from __future__ import annotations

import gc
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, ClassVar, Generic, Protocol, Self, TypeAlias, TypeVar

import msgspec
import orjson
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from app.dialects.json_shape import shape
from app.errors import InvalidRequest, ServeError, UnsupportedParameter
from app.events import Event, Events, Result, fold
from app.generation.grammars import GrammarBounds
from app.generation.model import ServedModel
from app.settings.catalogue import Settings
from app.stats import RequestStats
from app.types import GenerationRequest, Json


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator allows in one request."""

    max_choices: int
    max_prompts: int
    max_messages: int
    max_inputs: int
    """Texts in one request for embeddings."""
    max_json_depth: int
    max_json_nodes: int
    max_tools: int
    max_stops: int
    max_stop_chars: int
    max_stop_token_ids: int
    max_logit_biases: int
    max_logprobs: int
    """Alternatives to each token."""
    allow_grammars: bool
    """`regex`, `ebnf` and the like may be asked for, beside JSON schemas."""
    grammar: GrammarBounds
    template_kwargs: frozenset[str]
    """Switches of the chat template that a client may set."""
    reasoning_alias: bool
    """Answers carry the thinking as `reasoning`, too."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            max_choices=settings.max_choices,
            max_prompts=settings.max_prompts,
            max_messages=settings.max_messages,
            max_inputs=settings.max_inputs,
            max_json_depth=settings.max_json_depth,
            max_json_nodes=settings.max_json_nodes,
            max_tools=settings.max_tools,
            max_stops=settings.max_stops,
            max_stop_chars=settings.max_stop_chars,
            max_stop_token_ids=settings.max_stop_token_ids,
            max_logit_biases=settings.max_logit_biases,
            max_logprobs=settings.max_logprobs,
            allow_grammars=settings.allow_grammars,
            grammar=GrammarBounds(
                max_bytes=settings.max_schema_bytes,
                max_depth=settings.max_schema_depth,
                max_nodes=settings.max_schema_nodes,
                max_enum=settings.max_schema_enum,
                max_regex_chars=settings.max_regex_chars,
                max_repeat=settings.max_regex_repeat,
            ),
            template_kwargs=frozenset(settings.template_kwargs),
            reasoning_alias=settings.reasoning_alias,
        )


class Call(msgspec.Struct, kw_only=True):
    """One call, as a dialect sees it."""

    id: str
    """32 hexadecimal digits: the engine's name for this request."""
    model: ServedModel
    bounds: Bounds
    stats: RequestStats
    log_fields: dict[str, Any]
    """What the end line of the log says about the request: `model`, `max_tokens`, `stream`, ..."""

    def generate(self, request: GenerationRequest) -> Events:
        return self.model.generate(request, self.stats)


class Presenter(Protocol):
    """Events in a dialect's words."""

    def feed(self, event: Event) -> bytes:
        """The frames that this event becomes; may be empty."""

    def fail(self, error: ServeError) -> bytes:
        """The frames that end a stream which has begun and cannot go on."""

    def whole(self, result: Result) -> Json | list[Json]:
        """The same answer in one piece."""


class Whole(msgspec.Struct):
    """An answer in one piece: JSON, encoded."""

    body: bytes


class Stream(msgspec.Struct):
    """An answer in pieces, each a write.

    `frames` raises ServeError: before its first piece that is an ordinary error answer, later the
    carrier writes `fail(error)` and ends. Closing `frames` aborts the request.
    """

    frames: AsyncGenerator[bytes, None]
    fail: Callable[[ServeError], bytes]


Reply: TypeAlias = Whole | Stream


class Body(BaseModel):
    """A request's JSON. Strict: `"5"`, `true` and `1.0` are not integers. `null` is "not given"."""

    model_config = ConfigDict(
        strict=True, extra="ignore", frozen=True, hide_input_in_errors=True, allow_inf_nan=False
    )

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Known fields that would change the answer and are not honoured (yet), with the values that
    change nothing."""

    @classmethod
    def lengths(cls, bounds: Bounds) -> dict[str, int]:
        """Fields whose entries are counted before any of them is looked at."""
        return {}

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name in cls.unsupported.keys() & data.keys():
                value = data[name]
                harmless = [v for v in cls.unsupported[name] if type(v) is type(value)]
                if value is not None and value not in harmless:
                    raise PydanticCustomError("unsupported_parameter", "", {"field": name})
        return data


AnyBody = TypeVar("AnyBody", bound=Body)


class Dialect(msgspec.Struct, Generic[AnyBody], frozen=True):
    """One endpoint's way of asking and answering."""

    path: str
    summary: str
    body: type[AnyBody]
    answer: Callable[[AnyBody, Call], Awaitable[Reply]]
    error: Callable[[ServeError], Json]
    """The body of an error answer."""
    example: Json
    """A body that is answered, for the API's description."""


def read(body: type[AnyBody], raw: bytes, bounds: Bounds) -> AnyBody:
    """Parse and check a body. Raises InvalidRequest that names the first field that is wrong.

    The text must be JSON, whatever its Content-Type says: `curl -d` calls it a form.
    """
    _check_shape(raw, bounds)
    try:
        data = _parse(raw)
    except orjson.JSONDecodeError as error:
        what = "is empty" if not raw.strip() else f"is not valid JSON: {error}"[:200]
        raise InvalidRequest(f"The request's body {what}.", code="invalid_json") from None
    if not isinstance(data, dict):
        raise InvalidRequest("The request's body must be a JSON object.", code="invalid_type")
    for field, longest in body.lengths(bounds).items():
        _check_length(field, data.get(field), longest)
    try:
        return body.model_validate(data)
    except ValidationError as error:
        raise _explained(error) from None


def _check_shape(raw: bytes, bounds: Bounds) -> None:
    """Refuse what would be dear to parse, before it is."""
    depth, nodes = shape(raw, bounds.max_json_nodes)
    if nodes > bounds.max_json_nodes:
        said = f"holds over {bounds.max_json_nodes} values (MAX_JSON_NODES)"
    elif depth > bounds.max_json_depth:
        said = f"is nested over {bounds.max_json_depth} levels deep (MAX_JSON_DEPTH)"
    else:
        return
    raise InvalidRequest(f"The request's body {said}.", code="invalid_json")


def _parse(raw: bytes) -> Any:
    """JSON, with the garbage collector held off: half a million entries would make it walk the
    whole heap, which is the model server's, again and again."""
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
    raise InvalidRequest(
        f"Invalid value for '{field}': must have at most {longest} entries.",
        param=field,
        code="array_above_max_length",
    )


async def present(events: Events, presenter: Presenter, *, stream: bool) -> Reply:
    """Carry events to the client's form. Not streamed, the whole answer is awaited here."""
    if stream:
        return Stream(_frames(events, presenter), presenter.fail)
    async with aclosing(events):
        return Whole(orjson.dumps(presenter.whole(await fold(events))))


async def _frames(events: Events, presenter: Presenter) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        async for beat in events:
            if frames := b"".join([presenter.feed(event) for event in beat]):
                yield frames


def now() -> int:
    """Seconds since 1970: `created` of every answer."""
    return int(time.time())


# -- errors of validation in OpenAI's words ----------------------------------------------------

_FIELD = re.compile(r"[a-z_]{1,40}")
_EXPECTED = {
    "int": "an integer", "float": "a number", "string": "a string", "bool": "a boolean",
    "list": "an array", "tuple": "an array", "dict": "an object", "model": "an object",
}  # fmt: skip
_BOUND = {
    "greater_than_equal": ("below_min_value", "at least", "ge"),
    "greater_than": ("below_min_value", "greater than", "gt"),
    "less_than_equal": ("above_max_value", "at most", "le"),
    "less_than": ("above_max_value", "less than", "lt"),
}
_LENGTH = {
    "string_too_short": ("string_below_min_length", "at least {} characters", "min_length"),
    "string_too_long": ("string_above_max_length", "at most {} characters", "max_length"),
    "too_short": ("array_below_min_length", "at least {} entries", "min_length"),
    "too_long": ("array_above_max_length", "at most {} entries", "max_length"),
}


def _explained(error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False, include_input=True)[0]
    kind, context = first["type"], first.get("ctx", {})
    param = _dotted(first["loc"])
    if kind == "missing":
        return InvalidRequest(
            f"Missing required parameter: '{param}'.",
            param=param,
            code="missing_required_parameter",
        )
    if kind in _BOUND:
        code, words, key = _BOUND[kind]
        number = "integer" if isinstance(first["input"], int) else "decimal"
        return InvalidRequest(
            f"Invalid value for '{param}': must be {words} {context[key]}.",
            param=param,
            code=f"{number}_{code}",
        )
    if kind in _LENGTH:
        code, words, key = _LENGTH[kind]
        said = words.format(context[key])
        return InvalidRequest(
            f"Invalid value for '{param}': must have {said}.", param=param, code=code
        )
    if kind == "literal_error":
        return InvalidRequest(
            f"Invalid value for '{param}': must be {context['expected']}.", param=param
        )
    if kind == "unsupported_parameter":
        param = _dotted((*first["loc"], *filter(None, [context.get("field")])))
        message = f"Unsupported parameter: '{param}' is not supported by this server."
        return UnsupportedParameter(first["msg"] or message, param=param)
    if (expected := _EXPECTED.get(kind.removesuffix("_type").removesuffix("_from_float"))) or (
        kind == "finite_number" and (expected := "a finite number")
    ):
        return InvalidRequest(
            f"Invalid type for '{param}': expected {expected}, but got "
            f"{_json_type(first['input'])} instead.",
            param=param,
            code="invalid_type",
        )
    message = first["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"Invalid value for '{param}': {message}", param=param)


_UNION_MEMBERS = {"str", "list[str]", "dict[str,any]"}
"""What pydantic adds to the place of a value that may be of several types."""


def _dotted(location: tuple[int | str, ...]) -> str:
    """('messages', 0, '~parts', 'content') -> messages[0].content; tags of unions begin with ~."""
    dotted = ""
    for step in location:
        if isinstance(step, int):
            dotted += f"[{step}]"
        elif not step.startswith("~") and step not in _UNION_MEMBERS:
            if not _FIELD.fullmatch(step):
                break  # a key of the client's own making, which is not to be repeated
            dotted += f".{step}" if dotted else step
    return dotted


def _json_type(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a number"
        case str():
            return "a string"
        case list() | tuple():
            return "an array"
        case _:
            return "an object"
