"""The items of a Responses request: what clients send as `input`, and send back of our answers.

Source: OpenAI's OpenAPI document of 2026-08, and what Codex 0.169, the SDKs, the AI SDK, LangChain
and openai-agents were seen to send. Items come back as they were answered, with all their fields,
so that whatever is not needed here is ignored and not refused.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeAlias, get_args

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError, PydanticKnownError

from app.dialects.body import Body, Unsupported
from app.dialects.openai.responses.tool_models import AnyTool
from app.types import Detail

_ID = Field(max_length=256)
Id = Annotated[str, _ID]
CallId = Annotated[str, Field(min_length=1, max_length=256)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
_PARTS = Field(max_length=1024, fail_fast=True)
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_SEEN_BY_OTHERS = "[{} that this model cannot read]"


class Part(Body):
    """A piece of text."""

    type: str
    """Kind of the part: `input_text`, `output_text`, `text`, `summary_text`, `reasoning_text`, or
    `refusal`, whose text is read. Others are refused."""
    text: str
    """The text."""

    @model_validator(mode="before")
    @classmethod
    def _text_only(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        if kind == "refusal":
            return {"type": "text", "text": data.get("refusal")}
        if isinstance(kind, str) and kind not in _TEXTS:
            raise PydanticCustomError(
                "unsupported_parameter",
                "Content parts of other kinds than text, 'input_image' and 'input_file' are not "
                "supported.",
            )
        return data


class PicturePart(Body):
    type: Literal["input_image"]
    """Kind of the part: a picture, for models that take pictures."""
    image_url: Annotated[str, Field(min_length=1)] | None = None
    """The picture as a `data:` URL with base64 (PNG, JPEG, WEBP, GIF), or a URL at a host in
    `MEDIA_HOSTS` (`https:`; with `MEDIA_HTTP` `http:`, too). It takes precedence over `file_id`."""
    file_id: Id | None = None
    """Id of a picture from `/v1/files`, uploaded with the same key. In messages only."""
    detail: Detail | None = None
    """`low` makes the picture at most 512 pixels wide and high; `auto` and `high` leave its
    size."""


class FilePart(Body):
    unsupported: ClassVar[Unsupported] = {"file_url": ()}

    type: Literal["input_file"]
    """Kind of the part: a file, whose text becomes part of the prompt."""
    file_id: Id | None = None
    """Id of a file from `/v1/files`, uploaded with the same key. Either this or `file_data`."""
    file_data: str | None = None
    """The file itself, as a `data:` URL with base64 or as base64 alone. It must be UTF-8 text; a
    PDF is refused."""
    filename: Annotated[str, Field(max_length=1024)] | None = None
    """Name that the model is shown with `file_data`. With `file_id` it is shown the name of the
    upload."""


class ResultPart(Body):
    """A piece of a tool's result. What is no text stays in an agent's history for good, so that it
    must not make the conversation unusable: the model is told that it was there."""

    type: str
    """Kind of the part, as of messages. Of a file, or a picture without a URL, the model is told
    that it was there."""
    text: str
    """The text."""

    @model_validator(mode="before")
    @classmethod
    def _placeholder(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind not in _TEXTS:
            what = "a picture" if "image" in kind else "a file"
            return {"type": "text", "text": _SEEN_BY_OTHERS.format(what)}
        return data


UNSEEN = _SEEN_BY_OTHERS.format("a picture")
"""To a model that takes none, where a tool has shown one."""


def _content(part: type[Body]) -> Any:
    each = Annotated[  # mypy knows no type that is an argument
        Annotated[part, Tag("~part")]  # type: ignore[valid-type]
        | Annotated[PicturePart, Tag("~picture")]
        | Annotated[FilePart, Tag("~file")],
        Discriminator(_kind_of_result if part is ResultPart else _kind),
    ]
    return Annotated[
        Annotated[str, Tag("~text")] | Annotated[list[each], _PARTS, Tag("~parts")],
        Discriminator(lambda value: "~parts" if isinstance(value, list) else "~text"),
    ]


def _kind(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
    return {"input_image": "~picture", "input_file": "~file"}.get(str(kind), "~part")


def _kind_of_result(part: Any) -> str:
    """The model is told of files, and of a picture without a URL."""
    if isinstance(part, dict) and not isinstance(part.get("image_url"), str):
        return "~part"
    return "~picture" if _kind(part) == "~picture" else "~part"


class MessageItem(Body):
    type: Literal["message"] | None = None
    """Kind of the item: a message, also without this field if it has a `role`."""
    id: Id | None = None
    """The id that the item was answered with. A kept item gets an id of this server; in a
    conversation always a new one."""
    role: Literal["user", "system", "developer", "assistant"]
    """Author of the message."""
    content: _content(Part) | None = None  # type: ignore[valid-type]
    """The text, or up to 1024 parts: texts, files, and from users pictures."""
    phase: Annotated[str, Field(max_length=64)] | None = None
    """Which part of an answer it was. Kept with the item, without effect."""


class ReasoningItem(Body):
    type: Literal["reasoning"]
    """Kind of the item: thinking of the model."""
    id: Id | None = None
    """The id that the item was answered with. A kept item gets an id of this server; in a
    conversation always a new one."""
    summary: Annotated[list[Part], _PARTS] | None = None
    """The thinking, if there is neither `content` nor an `encrypted_content` that can be opened."""
    content: Annotated[list[Part], _PARTS] | None = None
    """The thinking as text. It takes precedence over the other fields."""
    encrypted_content: str | None = None
    """The thinking as this server has sealed it. What it cannot open is passed over."""
    hidden: bool | None = None
    """This server's own mark of items that it keeps: their content is shown to no client."""


class FunctionCallItem(Body):
    type: Literal["function_call"]
    """Kind of the item: a call of a function."""
    id: Id | None = None
    """The id that the item was answered with. A kept item gets an id of this server; in a
    conversation always a new one."""
    call_id: CallId
    """Id of the call, which the item with its result repeats."""
    name: Name
    """Name of the function that was called."""
    namespace: Name | None = None
    """Name of the `namespace` tool that the function belongs to."""
    arguments: str
    """The arguments, as the text of a JSON object. Any other text is shown to the model as one
    string, `input`."""
    status: str | None = None
    """`incomplete` leaves out a call without a result, which the limit of tokens cut off. Others
    have no effect."""


class CustomCallItem(Body):
    type: Literal["custom_tool_call"]
    """Kind of the item: a call of a custom tool."""
    id: Id | None = None
    """The id that the item was answered with. A kept item gets an id of this server; in a
    conversation always a new one."""
    call_id: CallId
    """Id of the call, which the item with its result repeats."""
    name: Name
    """Name of the tool that was called."""
    namespace: Name | None = None
    """Name of the `namespace` tool that the tool belongs to."""
    input: str
    """The text that it was called with."""
    status: str | None = None
    """`incomplete` leaves out a call without a result, which the limit of tokens cut off. Others
    have no effect."""


class ResultItem(Body):
    """What a tool answered: one text, or parts."""

    type: Literal["function_call_output", "custom_tool_call_output"]
    """Kind of the item: the result of a call of a function or a custom tool."""
    id: Id | None = None
    """The id that the item was answered with. A kept item gets an id of this server; in a
    conversation always a new one."""
    call_id: CallId
    """Id of the call that it answers. A result without a call is refused, and a call without a
    result."""
    output: _content(ResultPart)  # type: ignore[valid-type]
    """The result: a text, or up to 1024 parts."""


class ClientCallItem(Body):
    """A call of a tool that OpenAI has defined and the client runs."""

    type: Literal["local_shell_call", "shell_call", "apply_patch_call"]
    """Kind of the item: a call of a tool that OpenAI has defined and the client runs."""
    id: Id | None = None
    """The id that the item was answered with. A kept item gets an id of this server; in a
    conversation always a new one."""
    call_id: CallId
    """Id of the call, which the item with its result repeats."""
    action: dict[str, Any] | None = None
    """What a shell was to run. The model is shown it as the call's arguments."""
    operation: dict[str, Any] | None = None
    """What a patch was to change, in the place of `action`."""


class ClientResultItem(Body):
    type: Literal["local_shell_call_output", "shell_call_output", "apply_patch_call_output"]
    """Kind of the item: the result of a call of a tool that OpenAI has defined and the client
    runs."""
    id: Id | None = None
    """Without `call_id`: id of the item that called."""
    call_id: CallId | None = None
    """Id of the call that it answers. Without it and `id`: the first call that has no result."""
    output: Any = None
    """The result: a text, or JSON that the model is shown as text."""


class ServedCallItem(Body):
    """A call that another server has answered itself, with its result."""

    type: Literal["mcp_call"]
    """Kind of the item: a call of an MCP server's tool that another server has run."""
    id: CallId
    """Id of the item, and of the call."""
    name: Name
    """Name of the tool that was called."""
    arguments: str = "{}"
    """The arguments, as the text of a JSON object."""
    output: str | None = None
    """The result, as text."""
    error: Any = None
    """Why it failed, if there is no `output`: any JSON, which the model is shown as text."""


class CompactionItem(Body):
    """A compacted conversation, which only the server that made it can read."""

    type: Literal["compaction", "compaction_summary"]
    """Kind of the item: a compacted conversation. Refused: only the server that made it can read
    it."""


class ReferenceItem(Body):
    """An item that this server answered before, by its id."""

    type: Literal["item_reference"] | None = None
    """Kind of the item: a reference, also without this field if it has an `id` and no `role`."""
    id: Annotated[str, Field(min_length=1, max_length=256)]
    """Id of a kept item of this server's, which takes this place. Refused in the items of a
    conversation."""


class ToolsItem(Body):
    """More tools. Codex offers its tools so to some models."""

    type: Literal["additional_tools", "tool_search_output"]
    """Kind of the item: more tools."""
    tools: Annotated[list[AnyTool], Field(max_length=1024, fail_fast=True)] | None = None
    """Tools that the model may call from the beginning, beside those of the request; at most
    `MAX_TOOLS` together."""


class IgnoredItem(Body):
    """What other servers' own tools left in a history: their results are in the text that follows,
    or are of no use to a model."""

    model_config = ConfigDict(extra="allow")

    type: Literal[
        "web_search_call", "file_search_call", "image_generation_call", "code_interpreter_call",
        "computer_call", "computer_call_output", "mcp_list_tools", "mcp_approval_request",
        "mcp_approval_response", "tool_search_call", "program", "program_output",
        "configuration_update",
    ]  # fmt: skip
    """Kind of the item, which is kept with the input and not shown to the model."""


_KINDS: tuple[type[Body], ...] = (
    MessageItem, ReasoningItem, FunctionCallItem, CustomCallItem, ResultItem, ClientCallItem,
    ClientResultItem, ServedCallItem, CompactionItem, ReferenceItem, ToolsItem, IgnoredItem,
)  # fmt: skip


def _words(annotation: Any) -> list[str]:
    """Of a Literal, which may be optional."""
    if isinstance(annotation, str):
        return [annotation]
    return [word for each in get_args(annotation) for word in _words(each)]


_BY_TYPE = {
    kind: f"~{model.__name__}"
    for model in _KINDS
    for kind in _words(model.model_fields["type"].annotation)
}


def _tag(value: Any) -> str:
    """By `type`; without one it is a message, or the id of an item."""
    if not isinstance(value, dict):
        return "~MessageItem"
    kind = value.get("type")
    if kind is None:
        return "~MessageItem" if "role" in value or "id" not in value else "~ReferenceItem"
    return _BY_TYPE.get(kind, "~UnknownItem") if isinstance(kind, str) else "~UnknownItem"


def _unknown(_: object) -> str:
    raise PydanticKnownError("literal_error", {"expected": "a type of item that is known here"})


class UnknownItem(Body):
    type: Annotated[Literal["message"], BeforeValidator(_unknown)]
    """Refused: an item of any other type is not known here."""


Item: TypeAlias = (
    MessageItem | ReasoningItem | FunctionCallItem | CustomCallItem | ResultItem | ClientCallItem
    | ClientResultItem | ServedCallItem | CompactionItem | ReferenceItem | ToolsItem | IgnoredItem
)  # fmt: skip
AnyItem = Annotated[
    Annotated[MessageItem, Tag("~MessageItem")]
    | Annotated[ReasoningItem, Tag("~ReasoningItem")]
    | Annotated[FunctionCallItem, Tag("~FunctionCallItem")]
    | Annotated[CustomCallItem, Tag("~CustomCallItem")]
    | Annotated[ResultItem, Tag("~ResultItem")]
    | Annotated[ClientCallItem, Tag("~ClientCallItem")]
    | Annotated[ClientResultItem, Tag("~ClientResultItem")]
    | Annotated[ServedCallItem, Tag("~ServedCallItem")]
    | Annotated[CompactionItem, Tag("~CompactionItem")]
    | Annotated[ReferenceItem, Tag("~ReferenceItem")]
    | Annotated[ToolsItem, Tag("~ToolsItem")]
    | Annotated[IgnoredItem, Tag("~IgnoredItem")]
    | Annotated[UnknownItem, Tag("~UnknownItem")],
    Discriminator(_tag),
]
