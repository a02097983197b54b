"""OpenAI chat completions: request -> GenerationRequest, events -> `chat.completion.chunk` frames.

Source: https://platform.openai.com/docs/api-reference/chat, read 2026-11; `reasoning_content` as
DeepSeek and SGLang write it, `reasoning` as OpenRouter and vLLM do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Annotated, Any, ClassVar, assert_never

import orjson
from pydantic import Field

from app.dialects import attachments, pictures
from app.dialects.attachments import NONE, Attached, Named
from app.dialects.body import Unsupported
from app.dialects.contract import Call, Dialect, Reply, present
from app.dialects.json_array import JsonArray
from app.dialects.openai import functions, models, tools
from app.dialects.openai.beams import beam_width
from app.dialects.openai.call_forms import FUNCTION_CALL, TOOL_CALLS, CallForm
from app.dialects.openai.frames import OpenAIFrames, logprob_json, usage_json
from app.dialects.openai.functions import FunctionChoice, Functions
from app.dialects.openai.messages import ChatMessage
from app.dialects.openai.sampling import (
    UNSUPPORTED,
    SamplingFields,
    alternative_count,
    choice_count,
)
from app.dialects.openai.thinking import ThinkingFields
from app.dialects.openai.tools import AnyTool, ToolChoice
from app.dialects.template_kwargs import template_kwargs
from app.errors import InvalidRequest, UnsupportedParameter
from app.events import (
    Choice,
    Event,
    Finished,
    Progress,
    ReasoningDelta,
    Result,
    Scored,
    ScoredToken,
    Started,
    TextDelta,
    TokenIds,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from app.settings.bounds import Bounds, hard_limit
from app.types import ChatPrompt, GenerationRequest, Json, Scoring


class ChatBody(SamplingFields, ThinkingFields):
    unsupported: ClassVar[Unsupported] = {
        **{name: UNSUPPORTED[name] for name in UNSUPPORTED if not name.startswith("function")},
        "add_special_tokens": (False,),  # the chat template writes them
        "best_of": (1,),
        "echo": (False,),
        "suffix": ("",),
    }

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    """The conversation, oldest message first; at most `MAX_MESSAGES`."""
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Most tokens of the answer, thinking included; with the prompt at most the context. Default:
    up to the end of the context."""
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """The newer name of `max_tokens`, over which it takes precedence."""
    tools: Annotated[list[AnyTool], Field(min_length=1, fail_fast=True)] | None = None
    """Tools that the model may call, at most `MAX_TOOLS`."""
    tool_choice: ToolChoice | None = None
    """`none`, `auto`, `required` (call at least one), one tool to call, or the tools that may be
    called. Without `tools` only `none`. Default: `auto`."""
    parallel_tool_calls: bool | None = None
    """Whether one answer may have several calls. Default: true. Refused with `functions`, of which
    one is called."""
    logprobs: bool | None = None
    """Return the log-probability of each token of the answer, as the model has it before sampling.
    Default: false."""
    top_logprobs: Annotated[int, Field(ge=0, le=hard_limit("max_logprobs"))] | None = None
    """Number of likeliest alternatives to return for each token. Refused without `logprobs: true`.
    Default: 0."""
    functions: Functions | None = None
    """The older form of `tools`, at most `MAX_TOOLS`: at most one is called, and the answer has it
    as `function_call`. Refused beside `tools`."""
    function_call: FunctionChoice | None = None
    """The older form of `tool_choice`: `none`, `auto`, or the function to call. Without `functions`
    only `none`. Default: `auto`."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables of the model's chat template, at most 16: names in `ALLOWED_TEMPLATE_KWARGS`,
    values booleans or words of at most 64 characters."""
    continue_final_message: bool | None = None
    """Go on with the last message, which must be the assistant's and have text, instead of
    beginning a new one. Default: false."""
    add_generation_prompt: bool | None = None
    """Taken only as the opposite of `continue_final_message`, which decides."""

    @classmethod
    def lengths(cls, bounds: Bounds) -> dict[str, int]:
        return {
            **super().lengths(bounds),
            "messages": bounds.max_messages,
            "tools": bounds.max_tools,
            "chat_template_kwargs": 16,
        }


def answer(body: ChatBody, call: Call, attached: Attached | None = None) -> Awaitable[Reply]:
    """`attached`: the files that it names, once they are loaded."""
    if attached is None and (named := _named(body)):
        return _answer_with_files(body, call, named)
    model = models.generator_name(body.model, call)
    request = lower(body, call, attached or NONE)
    presenter = ChatPresenter(
        id=call.id,
        model=model,
        fingerprint=call.model.info.fingerprint,
        n=request.n,
        include_usage=body.include_usage(call.bounds),
        logprobs=request.scoring is not None,
        alias=call.bounds.reasoning_alias,
        calls=FUNCTION_CALL if body.functions else TOOL_CALLS,
    )
    call.log_fields |= {
        "id": f"chatcmpl-{call.id}",
        "model": body.model,
        "messages": len(body.messages),
        "n": request.n,
        "max_tokens": request.sampling.max_tokens,
        "stream": bool(body.stream),
    }
    if offered := body.tools or body.functions:
        call.log_fields["tools"] = len(offered)
    return present(call.generate(request), presenter, stream=bool(body.stream))


async def _answer_with_files(body: ChatBody, call: Call, named: Sequence[Named]) -> Reply:
    models.generator_name(body.model, call)
    begun = answer(body, call, await attachments.load(named, call))
    del body, named  # megabytes that are not needed while the engine answers
    return await begun


def _named(body: ChatBody) -> list[Named]:
    """The files that its messages name."""
    for message in body.messages:
        if message.content.__class__ is list:
            break
    else:
        return []
    return [file for no, each in enumerate(body.messages) for file in each.named(f"messages[{no}]")]


def lower(body: ChatBody, call: Call, attached: Attached = NONE) -> GenerationRequest:
    _check_messages(body)
    bounds = call.bounds
    max_tokens = body.max_completion_tokens
    n = choice_count(body, call)
    grammar = body.constraint(bounds)
    messages = [each.lower(f"messages[{no}]", attached) for no, each in enumerate(body.messages)]
    pictures.check(messages, call)
    return GenerationRequest(
        id=call.id,
        prompts=(
            ChatPrompt(
                messages,
                tool_use=tools.lower(
                    body.tools,
                    body.tool_choice,
                    body.parallel_tool_calls,
                    bounds,
                    formatted=grammar is not None,
                )
                if body.functions is None and body.function_call is None
                else functions.lower(
                    body.functions or (),
                    body.function_call,
                    bounds,
                    formatted=grammar is not None,
                    beside=body.tools or body.tool_choice,
                    parallel=body.parallel_tool_calls,
                ),
                effort=body.effort,
                template_kwargs=template_kwargs(
                    body.chat_template_kwargs, bounds, thinks=body.thinks
                ),
                continues=bool(body.continue_final_message),
            ),
        ),
        sampling=body.sampling(
            bounds,
            max_tokens=body.max_tokens if max_tokens is None else max_tokens,
            thinking_budget=body.budget(call.model.info),
            beam_width=beam_width(body, call, n),
        ),
        n=n,
        scoring=_scoring(body, call.bounds),
        progress=body.progress,
        whole=not body.stream,
        cache_salt=body.cache_salt or "",
        session=body.prompt_cache_key or "",
    )


def _check_messages(body: ChatBody) -> None:
    for no, message in enumerate(body.messages):
        if message.content is None and message.role != "assistant":
            raise InvalidRequest(
                f"Missing required parameter: 'messages[{no}].content'.",
                param=f"messages[{no}].content",
                code="missing_required_parameter",
            )
        if message.function_call and message.role != "assistant":
            raise InvalidRequest(
                f"Invalid value for 'messages[{no}].function_call': only the assistant calls "
                "functions.",
                param=f"messages[{no}].function_call",
            )
        if message.function_call and message.tool_calls:
            raise InvalidRequest(
                f"Invalid value for 'messages[{no}].function_call': it is the older form of "
                "'tool_calls'; send one of them.",
                param=f"messages[{no}].function_call",
            )
        if message.tool_calls and message.role != "assistant":
            raise InvalidRequest(
                f"Invalid value for 'messages[{no}].tool_calls': only the assistant calls tools.",
                param=f"messages[{no}].tool_calls",
            )
    last = body.messages[-1]
    if body.continue_final_message and (last.role != "assistant" or not last.content):
        raise InvalidRequest(
            "'continue_final_message' needs a last message of the assistant's, with content.",
            param="continue_final_message",
        )
    if body.add_generation_prompt is not None and body.add_generation_prompt is bool(
        body.continue_final_message
    ):
        raise UnsupportedParameter(
            "'add_generation_prompt' must be the opposite of 'continue_final_message'.",
            param="add_generation_prompt",
        )


def _scoring(body: ChatBody, bounds: Bounds) -> Scoring | None:
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
    top = alternative_count(body.top_logprobs, bounds, param="top_logprobs")
    return Scoring(top=top) if body.logprobs else None


class ChatPresenter(OpenAIFrames):
    """Renders one chat completion."""

    def __init__(
        self,
        *,
        id: str,
        model: str,
        fingerprint: str | None = None,
        n: int,
        include_usage: bool,
        logprobs: bool = False,
        alias: bool = False,
        calls: CallForm = TOOL_CALLS,
    ) -> None:
        """`alias`: write the thinking as `reasoning`, too. `calls`: how calls are written."""
        super().__init__(
            id=f"chatcmpl-{id}",
            object="chat.completion.chunk",
            model=model,
            fingerprint=fingerprint,
            choices=n,
            opening=b'"delta":{"content":',
            closing=b'},"logprobs":null,"finish_reason":null',
            include_usage=include_usage,
        )
        self._n = n
        self._kept = [JsonArray() for _ in range(n)] if logprobs else None
        """The whole answer's scores, by choice."""
        self._alias = alias
        self._calls = calls
        self._called = calls.finish_reason

    def feed(self, event: Event) -> bytes:
        match event:
            case TextDelta(text, index):
                if self._scored or self._usage is not None:
                    return self._chunk(index, {"delta": {"content": text}}, None)
                return b"%b%b%b" % (self._heads[index], orjson.dumps(text), self._tail)
            case ReasoningDelta(text, index):
                return self._chunk(index, {"delta": self._thinking(text)}, None)
            case ToolCallStarted():
                return self._call_chunk(event.index, self._calls.begun(event))
            case ToolCallDelta():
                return self._call_chunk(event.index, self._calls.more(event))
            case Scored(tokens, index):
                return self._note_scores(tokens, index)
            case Progress(usage):
                return self._note_usage(usage)
            case Started():
                # All roles first, in order: the SDKs list choices by their first frames.
                first = {"role": "assistant", "content": "", "refusal": None}
                return b"".join(
                    self._chunk(index, {"delta": first}, None) for index in range(self._n)
                )
            case Finished(reason, index):
                return self._chunk(
                    index, {"delta": {}}, self._called if reason == "tool_calls" else reason
                )
            case Usage():
                return self._end(event)
            case TokenIds():
                return b""
            case _:
                assert_never(event)

    def keep_scores(self, scored: Scored) -> None:
        if self._kept is not None:
            self._kept[scored.index].extend([logprob_json(token) for token in scored.tokens])

    def whole(self, result: Result) -> Json:
        return self._common | {
            "object": "chat.completion",
            "choices": [self._choice(choice) for choice in result.choices],
            "usage": usage_json(result.usage),
        }

    def _choice(self, choice: Choice) -> Json:
        message: Json = {
            "role": "assistant",
            "content": choice.text if choice.text or not choice.calls else None,
            "refusal": None,
            "annotations": [],
        }
        if choice.reasoning:
            message |= self._thinking(choice.reasoning)
        if choice.calls:
            message |= self._calls.whole(choice.calls)
        return {
            "index": choice.index,
            "message": message,
            "logprobs": self._kept_json(choice.index),
            "finish_reason": self._called
            if choice.finish_reason == "tool_calls"
            else choice.finish_reason,
        }

    def _call_chunk(self, index: int, delta: Json | None) -> bytes:
        return b"" if delta is None else self._chunk(index, {"delta": delta}, None)

    def _thinking(self, text: str) -> Json:
        return {"reasoning_content": text} | ({"reasoning": text} if self._alias else {})

    def _kept_json(self, index: int) -> Json | None:
        if self._kept is None:
            return None
        return {"content": self._kept[index], "refusal": None}

    def _logprobs_json(self, scored: Sequence[ScoredToken]) -> Json:
        return {"content": [logprob_json(token) for token in scored], "refusal": None}


CHAT = Dialect(
    path="/v1/chat/completions",
    summary="Answer a conversation",
    body=ChatBody,
    answer=answer,
    example={
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 16,
        "temperature": 0,
    },
)
