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
    """A piece of text. In a message nothing else is taken."""

    type: str
    text: str

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
    image_url: Annotated[str, Field(min_length=1)] | None = None
    file_id: Id | None = None
    """In the place of the other."""
    detail: Detail | None = None


class FilePart(Body):
    unsupported: ClassVar[Unsupported] = {"file_url": ()}

    type: Literal["input_file"]
    file_id: Id | None = None
    file_data: str | None = None
    filename: Annotated[str, Field(max_length=1024)] | None = None


class ResultPart(Body):
    """A piece of a tool's result. What is no text stays in an agent's history for good, so that it
    must not make the conversation unusable: the model is told that it was there."""

    type: str
    text: str

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
    id: Id | None = None
    role: Literal["user", "system", "developer", "assistant"]
    content: _content(Part) | None = None  # type: ignore[valid-type]
    phase: Annotated[str, Field(max_length=64)] | None = None


class ReasoningItem(Body):
    type: Literal["reasoning"]
    id: Id | None = None
    summary: Annotated[list[Part], _PARTS] | None = None
    content: Annotated[list[Part], _PARTS] | None = None
    encrypted_content: str | None = None
    hidden: bool | None = None
    """Ours: the content is shown to no client."""


class FunctionCallItem(Body):
    type: Literal["function_call"]
    id: Id | None = None
    call_id: CallId
    name: Name
    namespace: Name | None = None
    arguments: str
    status: str | None = None


class CustomCallItem(Body):
    type: Literal["custom_tool_call"]
    id: Id | None = None
    call_id: CallId
    name: Name
    namespace: Name | None = None
    input: str
    status: str | None = None


class ResultItem(Body):
    """What a tool answered: one text, or parts."""

    type: Literal["function_call_output", "custom_tool_call_output"]
    id: Id | None = None
    call_id: CallId
    output: _content(ResultPart)  # type: ignore[valid-type]


class ClientCallItem(Body):
    """A call of a tool that OpenAI has defined and the client runs."""

    type: Literal["local_shell_call", "shell_call", "apply_patch_call"]
    id: Id | None = None
    call_id: CallId
    action: dict[str, Any] | None = None
    operation: dict[str, Any] | None = None


class ClientResultItem(Body):
    type: Literal["local_shell_call_output", "shell_call_output", "apply_patch_call_output"]
    id: Id | None = None
    call_id: CallId | None = None
    output: Any = None


class ServedCallItem(Body):
    """A call that another server has answered itself, with its result."""

    type: Literal["mcp_call"]
    id: CallId
    name: Name
    arguments: str = "{}"
    output: str | None = None
    error: Any = None


class CompactionItem(Body):
    """A conversation in short, which only the server that made it can read."""

    type: Literal["compaction", "compaction_summary"]


class ReferenceItem(Body):
    """An item that this server answered before, by its id."""

    type: Literal["item_reference"] | None = None
    id: Annotated[str, Field(min_length=1, max_length=256)]


class ToolsItem(Body):
    """More tools. Codex offers its tools so to some models."""

    type: Literal["additional_tools", "tool_search_output"]
    tools: Annotated[list[AnyTool], Field(max_length=1024, fail_fast=True)] | None = None


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
