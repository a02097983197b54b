"""Content blocks of a Messages request: what clients send, and send back of answers.

Source: Anthropic's OpenAPI document, read 2026-11, and what Claude Code 2.1 and the SDKs were seen
to send. An error names a block by its path, with its type: Claude Code takes a picture or document
out of its history by that, and goes on.
"""

from __future__ import annotations

from binascii import Error
from typing import Annotated, Any, Literal, TypeAlias

import pybase64
from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from app.dialects.attachments import plain_text
from app.dialects.body import Body
from app.errors import InvalidRequest
from app.types import Picture

_BLOCKS = Field(max_length=4096, fail_fast=True)
Id = Annotated[str, Field(max_length=256)]


def refused(reason: str) -> PydanticCustomError:
    return PydanticCustomError("unsupported_parameter", reason)


def kind_of(value: Any) -> Any:
    return value.get("type") if isinstance(value, dict) else getattr(value, "type", None)


class TextBlock(Body):
    type: Literal["text"]
    """Kind of the block: text."""
    text: str
    """The text."""


class ThinkingBlock(Body):
    """`signature` is not checked: one that was changed, or is of another server, does no harm."""

    type: Literal["thinking"]
    """Kind of the block: thinking of the model, in turns of the assistant."""
    thinking: str = ""
    """The thinking. Its `signature` is not checked."""


class UseBlock(Body):
    type: Literal["tool_use", "server_tool_use", "mcp_tool_use"]
    """Kind of the block: a call, in turns of the assistant."""
    id: Id
    """Id of the call, which the block with its result repeats."""
    name: Annotated[str, Field(max_length=256)]
    """Name of the tool that was called."""
    input: Any = None
    """The arguments, as an object. Anything else is shown to the model in a field `input`."""


class ImageSource(Body):
    type: Literal["base64", "url"]
    """Where the picture is: in `data` or at `url`. `file` is refused."""
    media_type: Annotated[str, Field(max_length=100)] = "image/png"
    """Media type of the picture in `data`, which is PNG, JPEG, WEBP or GIF."""
    data: str | None = None
    """The picture in base64, with the type `base64`."""
    url: str | None = None
    """URL of the picture, with the type `url`: `https:` (with `MEDIA_HTTP` `http:`, too)
    at a host in `MEDIA_HOSTS`."""

    @model_validator(mode="before")
    @classmethod
    def _no_files(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("type") == "file":
            raise refused("this server keeps no files")
        return data


class ImageBlock(Body):
    type: Literal["image"]
    """Kind of the block: a picture, in turns of the user and in results, for models that take
    pictures."""
    source: ImageSource | None = None
    """Where the picture is; required."""

    def picture(self, param: str) -> Picture:
        source = self.source
        url = None
        if source is not None and source.type == "url":
            url = source.url
        elif source is not None and source.data is not None:
            url = f"data:{source.media_type};base64,{source.data}"
        if url is None:
            raise InvalidRequest("Field required", param=f"{param}.source")
        return Picture(url, param)


class DocumentsImage(Body):
    type: Literal["image"]
    """Refused: of documents only the text is taken."""

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        raise refused("this model takes text only")


def text_or(blocks: Any) -> Any:
    """A text, or a list of such blocks."""
    return Annotated[
        Annotated[str, Tag("~text")] | Annotated[list[blocks], _BLOCKS, Tag("~blocks")],
        Discriminator(lambda value: "~blocks" if isinstance(value, list) else "~text"),
    ]


_Shown = Annotated[
    Annotated[TextBlock, Tag("text")] | Annotated[DocumentsImage, Tag("image")],
    Discriminator(lambda value: "image" if kind_of(value) == "image" else "text"),
]


class DocumentSource(Body):
    type: Literal["text", "content"]
    """Where the text is: `text` in `data`, `content` in `content`. `base64` of a text file is
    taken, too; a PDF, `url` and `file` are refused."""
    data: str | None = None
    """The text, with the type `text`."""
    content: text_or(_Shown) | None = None  # type: ignore[valid-type]
    """The text, or blocks of text, with the type `content`."""


class DocumentBlock(Body):
    """A document, of which only text is taken."""

    type: Literal["document"]
    """Kind of the block: a document of plain text."""
    source: DocumentSource
    """The text of the document."""
    title: str | None = None
    """Title, which the model is shown before the text."""
    context: str | None = None
    """What the document is, which the model is shown before the text."""

    @model_validator(mode="before")
    @classmethod
    def _text_only(cls, data: Any) -> Any:
        source = data.get("source") if isinstance(data, dict) else None
        if isinstance(source, dict) and source.get("type") in ("base64", "url", "file"):
            return {**data, "source": {"type": "text", "data": _decoded(source)}}
        return data

    @property
    def text(self) -> str:
        source = self.source
        if isinstance(source.content, list):
            content = "\n".join(block.text for block in source.content)
        else:
            content = source.content or source.data or ""
        return "\n".join(filter(None, (self.title, self.context, content)))


def _decoded(source: dict[str, Any]) -> str:
    """The text of a source in base64."""
    kind, encoded = source.get("media_type"), source.get("data")
    if source["type"] == "base64" and isinstance(kind, str) and isinstance(encoded, str):
        try:
            content = pybase64.b64decode(encoded, validate=True)
        except (Error, ValueError):
            raise refused("the document is no base64") from None
        if kind.startswith("text/") and (text := plain_text(content)) is not None:
            return text
    raise refused("this model takes documents of plain text only")


class SearchBlock(Body):
    type: Literal["search_result"]
    """Kind of the block: what a search has found."""
    source: str = ""
    """Where it was found, such as a URL; the model is shown it."""
    title: str = ""
    """Title of what was found; the model is shown it."""
    content: Annotated[list[TextBlock], _BLOCKS] | None = None
    """Text of what was found."""

    @property
    def text(self) -> str:
        texts = (block.text for block in self.content or ())
        return "\n".join(filter(None, (self.title, self.source, *texts)))


class ReferenceBlock(Body):
    """A tool that a search has found."""

    type: Literal["tool_reference"]
    """Kind of the block: a tool that a search has found."""
    tool_name: Annotated[str, Field(max_length=256)]
    """Name of the tool. The model is told that it was loaded."""

    @property
    def text(self) -> str:
        return f"Tool loaded: {self.tool_name}"


class UploadBlock(Body):
    type: Literal["container_upload"]
    """Refused: there are no containers here to upload a file to."""

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        raise refused("this server keeps no files")


class CompactionBlock(Body):
    type: Literal["compaction"]
    """Kind of the block: a summary of all that precedes it."""
    content: str | None = None
    """The summary, which takes the place of what precedes it. Without it the block has no
    effect."""


class OtherBlock(Body):
    """A block that is not needed, such as `redacted_thinking`."""

    type: str
    """Kind of a block that is not shown to the model, such as `redacted_thinking`."""


class ServerResultBlock(Body):
    """What a tool of another server answered: its readable text."""

    type: str
    """Kind of the block: the result of a tool that another server has run; it ends with
    `_tool_result`."""
    tool_use_id: Id
    """Id of the call that it answers."""
    content: Any = None
    """The result, of which the model is shown the readable texts."""

    @property
    def text(self) -> str:
        return "\n".join(_readable(self.content))


_RESULTS = {
    "text": TextBlock, "image": ImageBlock, "document": DocumentBlock,
    "search_result": SearchBlock, "tool_reference": ReferenceBlock,
}  # fmt: skip
_IGNORED = (
    "redacted_thinking", "fallback", "mcp_tool_listing", "tool_addition", "tool_removal",
)  # fmt: skip


class UnknownBlock(Body):
    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        kind = ascii(str(kind_of(data)))[1:-1][:64]
        raise PydanticCustomError(
            "unknown_block",
            "Input tag '{kind}' found using 'type' does not match any of the expected tags",
            {"kind": kind},
        )


def _result_tag(value: Any) -> str:
    kind = kind_of(value)
    return kind if isinstance(kind, str) and kind in _RESULTS else "~unknown"


ResultPart = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ImageBlock, Tag("image")]
    | Annotated[DocumentBlock, Tag("document")]
    | Annotated[SearchBlock, Tag("search_result")]
    | Annotated[ReferenceBlock, Tag("tool_reference")]
    | Annotated[UnknownBlock, Tag("~unknown")],
    Discriminator(_result_tag),
]


class ResultBlock(Body):
    type: Literal["tool_result"]
    """Kind of the block: the result of a call, in turns of the user."""
    tool_use_id: Id
    """Id of the call that it answers."""
    content: text_or(ResultPart) | None = None  # type: ignore[valid-type]
    """The result: a text, or blocks, at most 4096."""
    is_error: bool | None = None
    """The call failed: the model is shown `Error` before the result, unless that says so. Default:
    false."""

    def parts(self, param: str) -> list[str | Picture]:
        """Its texts and pictures. No template has a place for `is_error`."""
        content: Any = self.content or ""
        parts: list[str | Picture] = [content]
        if not isinstance(content, str):
            parts = [
                part.picture(f"{param}.content[{no}].image")
                if isinstance(part, ImageBlock)
                else part.text
                for no, part in enumerate(content)
            ]
        text = "".join(part for part in parts if isinstance(part, str))
        if not self.is_error or text.startswith(("Error", "<tool_use_error>")):
            return parts
        if parts and isinstance(parts[0], str) and parts[0]:
            return [f"Error: {parts[0]}", *parts[1:]]
        return ["Error", *(part for part in parts if part)]


def _tag(value: Any) -> str:
    kind = kind_of(value)
    if not isinstance(kind, str):
        return "~unknown"
    if kind in ("server_tool_use", "mcp_tool_use"):
        return "tool_use"
    if kind in ("text", "thinking", "tool_use", "tool_result", "image", "document",
                "search_result", "tool_reference", "container_upload", "compaction"):  # fmt: skip
        return kind
    if kind in _IGNORED:
        return "~other"
    return "~server_result" if kind.endswith("_tool_result") else "~unknown"


Block: TypeAlias = (
    TextBlock | ImageBlock | ThinkingBlock | UseBlock | ResultBlock | DocumentBlock | SearchBlock
    | ReferenceBlock | CompactionBlock | OtherBlock | ServerResultBlock
)  # fmt: skip
AnyBlock = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ThinkingBlock, Tag("thinking")]
    | Annotated[UseBlock, Tag("tool_use")]
    | Annotated[ResultBlock, Tag("tool_result")]
    | Annotated[ImageBlock, Tag("image")]
    | Annotated[DocumentBlock, Tag("document")]
    | Annotated[SearchBlock, Tag("search_result")]
    | Annotated[ReferenceBlock, Tag("tool_reference")]
    | Annotated[UploadBlock, Tag("container_upload")]
    | Annotated[CompactionBlock, Tag("compaction")]
    | Annotated[OtherBlock, Tag("~other")]
    | Annotated[ServerResultBlock, Tag("~server_result")]
    | Annotated[UnknownBlock, Tag("~unknown")],
    Discriminator(_tag),
]


def _readable(value: Any, depth: int = 0) -> list[str]:
    """The texts in a result, without what is encrypted."""
    if isinstance(value, str):
        return [value]
    if depth > 8:
        return []
    if isinstance(value, list):
        return [text for each in value for text in _readable(each, depth + 1)]
    if isinstance(value, dict):
        keys = ["title", "url", "text", "stdout", "stderr", "error_code", "tool_name", "content",
                "source", "tool_references"]  # fmt: skip
        if value.get("type") == "text":
            keys.append("data")
        return [text for key in keys for text in _readable(value.get(key), depth + 1)]
    return []
