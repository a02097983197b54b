"""A turn of a conversation in OpenAI's format, and its lowering to `Message`.

Source: https://platform.openai.com/docs/api-reference/chat, read 2026-11; `reasoning_content` as
DeepSeek and SGLang write it, `reasoning` as OpenRouter and vLLM do.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from app.dialects import attachments, tool_use
from app.dialects.attachments import NONE, Attached, Named
from app.dialects.body import Body, Unsupported
from app.dialects.openai import tools
from app.dialects.openai.tools import FunctionCall, PastCall
from app.types import Detail, Message, Part, Picture, Text, ToolCall


class TextPart(Body):
    type: str
    """Kind of the part: `text`, `refusal` (read as text), or in assistant messages `thinking` or
    `reasoning` (read as `reasoning_content`). Others are refused."""
    text: str
    """The text."""

    @model_validator(mode="before")
    @classmethod
    def _text_only(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        if kind == "refusal":
            return {"type": "text", "text": data.get("refusal")}
        if isinstance(kind, str) and kind != "text":
            raise PydanticCustomError(
                "unsupported_parameter",
                "Content parts of another type than 'text', 'image_url' and 'file' are not "
                "supported.",
            )
        return data


class ImageUrl(Body):
    url: Annotated[str, Field(min_length=1)]
    """The picture as a `data:` URL with base64 (PNG, JPEG, WEBP, GIF), or a URL at a host in
    `MEDIA_HOSTS` (`https:`; with `MEDIA_HTTP` `http:`, too)."""
    detail: Detail | None = None
    """`low` makes the picture at most 512 pixels wide and high; `auto` and `high` leave its
    size."""


class ImagePart(Body):
    type: Literal["image_url"]
    """Kind of the part: a picture. Only in messages of users and tools, for models that take
    pictures."""
    image_url: Annotated[
        ImageUrl, BeforeValidator(lambda value: {"url": value} if isinstance(value, str) else value)
    ]
    """Where the picture is. A string, as vLLM takes it, is the URL."""


class FileContent(Body):
    file_id: Annotated[str, Field(max_length=256)] | None = None
    """Id of a file from `/v1/files`, uploaded with the same key. Either this or `file_data`."""
    file_data: str | None = None
    """The file itself, as a `data:` URL with base64 or as base64 alone. It must be UTF-8 text; a
    PDF is refused."""
    filename: Annotated[str, Field(max_length=1024)] | None = None
    """Name that the model is shown with `file_data`. With `file_id` it is shown the name of the
    upload."""


class FilePart(Body):
    type: Literal["file"]
    """Kind of the part: a file, whose text becomes part of the prompt."""
    file: FileContent
    """The file, by its id or by its content."""


def _kind(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        return "~text"
    return {"image_url": "~image", "file": "~file"}.get(kind, "~text")


ContentPart = Annotated[
    Annotated[TextPart, Tag("~text")]
    | Annotated[ImagePart, Tag("~image")]
    | Annotated[FilePart, Tag("~file")],
    Discriminator(_kind),
]
Content = Annotated[
    Annotated[str, Tag("~text")]
    | Annotated[
        list[ContentPart], Field(min_length=1, max_length=1024, fail_fast=True), Tag("~parts")
    ],
    Discriminator(lambda value: "~parts" if isinstance(value, list) else "~text"),
]


class ChatMessage(Body):
    unsupported: ClassVar[Unsupported] = {"audio": ()}

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    """Author of the message. `developer` is rendered as `system` where the chat template knows no
    such role; `function` is the older form of `tool`."""
    content: Content | None = None
    """The text, or up to 1024 parts: texts, pictures, files. Required, except from the
    assistant."""
    name: Annotated[str, Field(max_length=256)] | None = None
    """Name of the author, which the model's chat template gets and may ignore."""
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None
    """In a `tool` message: id of the call whose result this is."""
    tool_calls: Annotated[list[PastCall], Field(max_length=1024, fail_fast=True)] | None = None
    """In an `assistant` message: the calls that it has made. Refused in others."""
    function_call: FunctionCall | None = None
    """In an `assistant` message: the call that it has made, in the older form. Refused beside
    `tool_calls`."""
    reasoning_content: str | None = None
    """In an `assistant` message: the thinking that preceded it, for the chat template. Ignored in
    others."""
    reasoning: str | None = None
    """OpenRouter's and vLLM's name of `reasoning_content`, which takes precedence."""
    refusal: str | None = None
    """A refusal of the assistant, read as its `content` if it has none."""

    @model_validator(mode="before")
    @classmethod
    def _fold_thinking(cls, data: Any) -> Any:
        """Join parts that are thinking into `reasoning_content`; an empty list is no content."""
        if not isinstance(data, dict) or not isinstance(parts := data.get("content"), list):
            return data
        thoughts = [
            part.get(part["type"]) or part.get("text")
            for part in parts
            if isinstance(part, dict) and part.get("type") in ("thinking", "reasoning")
        ]
        if data.get("role") != "assistant" or (parts and not thoughts):
            return data
        other_parts = [
            part
            for part in parts
            if not isinstance(part, dict) or part.get("type") not in ("thinking", "reasoning")
        ]
        thinking = "".join(text for text in thoughts if isinstance(text, str))
        return {
            **data,
            "content": other_parts or None,
            "reasoning_content": thinking or data.get("reasoning_content"),
        }

    def named(self, param: str) -> list[Named]:
        """The files that it names."""
        if not isinstance(self.content, list):
            return []
        return [
            Named(part.file.file_id, f"{param}.content[{no}].file.file_id")
            for no, part in enumerate(self.content)
            if isinstance(part, FilePart) and part.file.file_id is not None
        ]

    def lower(self, param: str, attached: Attached = NONE) -> Message:
        """`param`: where it stands, such as `messages[0]`. `attached`: the files that it names."""
        content = self.content if self.content is not None else self.refusal
        parts: tuple[Part, ...]
        if isinstance(content, list):
            parts = tuple(
                [_part(part, f"{param}.content[{no}]", attached) for no, part in enumerate(content)]
            )
        else:
            parts = () if content is None else (Text(content),)
        thinking = self.reasoning_content or self.reasoning
        return Message(
            role="tool" if self.role == "function" else self.role,
            parts=parts,
            name=self.name,
            tool_call_id=self.tool_call_id,
            calls=self._calls() if self.tool_calls or self.function_call else (),
            reasoning=(thinking or None) if self.role == "assistant" else None,
        )

    def _calls(self) -> tuple[ToolCall, ...]:
        if self.tool_calls or self.function_call is None:
            return tuple([tools.past_call(call) for call in self.tool_calls or ()])
        called = self.function_call
        return (ToolCall("", called.name, tool_use.as_object(called.arguments)),)


def _part(part: TextPart | ImagePart | FilePart, param: str, attached: Attached) -> Part:
    if isinstance(part, TextPart):
        return Text(part.text)
    if isinstance(part, FilePart):
        file = part.file
        text = attachments.text(
            file_id=file.file_id,
            file_data=file.file_data,
            filename=file.filename,
            param=f"{param}.file",
            attached=attached,
        )
        return Text(text)
    image = part.image_url
    return Picture(image.url, f"{param}.image_url.url", image.detail or "auto")
