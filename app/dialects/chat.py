"""OpenAI chat completions: request -> GenerationRequest, events -> `chat.completion.chunk` frames.

Source: https://platform.openai.com/docs/api-reference/chat, read 2026-11.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, assert_never

import orjson
from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from app.dialects import fields
from app.dialects.base import Body, Bounds, Call, Dialect, Reply, now, present
from app.dialects.fields import DONE, SamplingFields, frame, usage_json
from app.errors import InvalidRequest, ServeError
from app.types import (
    ChatPrompt,
    Event,
    Finished,
    GenerationRequest,
    Json,
    Message,
    Result,
    Started,
    TextDelta,
    Usage,
)  # fmt: skip


class TextPart(Body):
    type: str
    text: str

    @model_validator(mode="before")
    @classmethod
    def _text_only(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind != "text":
            raise PydanticCustomError(
                "unsupported_parameter",
                "This model takes text only: content parts of another type than 'text' are not "
                "supported.",
            )
        return data


Content = Annotated[
    Annotated[str, Tag("~text")]
    | Annotated[
        list[TextPart], Field(min_length=1, max_length=1024, fail_fast=True), Tag("~parts")
    ],
    Discriminator(lambda value: "~parts" if isinstance(value, list) else "~text"),
]


class ChatMessage(Body):
    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {
        "tool_calls": ([],), "function_call": (), "audio": (), "reasoning_content": ("",),
        "reasoning": ("",),
    }  # fmt: skip

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: Annotated[str, Field(max_length=256)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None

    @property
    def lowered(self) -> Message:
        content = self.content
        if isinstance(content, list):
            content = [{"type": "text", "text": part.text} for part in content]  # type: ignore
        message: Message = {"role": self.role, "content": content}
        if self.name is not None:
            message["name"] = self.name
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message


class ChatBody(SamplingFields):
    unsupported = fields.UNSUPPORTED

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None

    @classmethod
    def lengths(cls, bounds: Bounds) -> dict[str, int]:
        return {**super().lengths(bounds), "messages": bounds.max_messages}


async def answer(body: ChatBody, call: Call) -> Reply:
    model = fields.model_name(body, call)
    request = lower(body, call)
    presenter = ChatPresenter(
        id=call.id, model=model, n=request.n, include_usage=body.include_usage
    )
    call.about |= {
        "model": body.model, "messages": len(body.messages), "n": request.n,
        "max_tokens": request.sampling.max_tokens, "stream": bool(body.stream),
    }  # fmt: skip
    return await present(call.generate(request), presenter, stream=bool(body.stream))


def lower(body: ChatBody, call: Call) -> GenerationRequest:
    for no, message in enumerate(body.messages):
        if message.content is None and message.role != "assistant":
            raise InvalidRequest(
                f"Missing required parameter: 'messages[{no}].content'.",
                param=f"messages[{no}].content",
                code="missing_required_parameter",
            )
    max_tokens = body.max_completion_tokens
    return GenerationRequest(
        id=call.id,
        prompts=(ChatPrompt([message.lowered for message in body.messages]),),
        sampling=body.sampling(max_tokens=body.max_tokens if max_tokens is None else max_tokens),
        n=fields.choices(body, call),
    )


class ChatPresenter:
    """Frames and JSON of one chat completion.

    Everything of a frame but its text is rendered once per choice: for each token only the text is
    escaped.
    """

    def __init__(self, *, id: str, model: str, n: int, include_usage: bool) -> None:
        self._n = n
        self._include_usage = include_usage
        self._common: Json = {
            "id": f"chatcmpl-{id}", "object": "chat.completion.chunk", "created": now(),
            "model": model, "system_fingerprint": None,
        }  # fmt: skip
        head = b"data: " + orjson.dumps(self._common)[:-1]
        self._heads = [
            b'%b,"choices":[{"index":%d,"delta":{"content":' % (head, index) for index in range(n)
        ]
        self._tail = b'},"logprobs":null,"finish_reason":null}]' + (
            b',"usage":null}\n\n' if include_usage else b"}\n\n"
        )

    def feed(self, event: Event) -> bytes:
        match event:
            case TextDelta(text, index):
                return b"%b%b%b" % (self._heads[index], orjson.dumps(text), self._tail)
            case Started():
                # All roles first, in order: the SDKs append choices as they first see them.
                first = {"role": "assistant", "content": "", "refusal": None}
                return b"".join(self._chunk(index, first, None) for index in range(self._n))
            case Finished(reason, index):
                return self._chunk(index, {}, reason)
            case Usage():
                return (self._usage(event) if self._include_usage else b"") + DONE
            case _:
                assert_never(event)

    def fail(self, error: ServeError) -> bytes:
        return fields.failed(error)

    def whole(self, result: Result) -> Json:
        return self._common | {
            "object": "chat.completion",
            "choices": [
                {
                    "index": choice.index,
                    "message": {
                        "role": "assistant",
                        "content": choice.text,
                        "refusal": None,
                        "annotations": [],
                    },
                    "logprobs": None,
                    "finish_reason": choice.finish_reason,
                }
                for choice in result.choices
            ],
            "usage": usage_json(result.usage),
        }

    def _chunk(self, index: int, delta: Json, finish_reason: str | None) -> bytes:
        choice = {
            "index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason,
        }  # fmt: skip
        usage = {"usage": None} if self._include_usage else {}
        return frame(self._common | {"choices": [choice]} | usage)

    def _usage(self, usage: Usage) -> bytes:
        return frame(self._common | {"choices": [], "usage": usage_json(usage)})


CHAT = Dialect(
    path="/v1/chat/completions",
    summary="Answer a conversation",
    body=ChatBody,
    answer=answer,
    error=fields.error_json,
)
