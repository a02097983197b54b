"""Anthropic's Messages API: one message, streamed or whole, and the count of its tokens.

Source: https://docs.anthropic.com/en/api/messages, read 2026-11, and what Claude Code 2.1 and the
SDKs were seen to send and to need.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

import orjson

from app.dialects import pictures, tool_use
from app.dialects.anthropic import conversation
from app.dialects.anthropic.blocks import (
    ResultBlock,
    ServerResultBlock,
    ThinkingBlock,
    UseBlock,
)
from app.dialects.anthropic.body import CountBody, CustomTool, MessagesBody, PromptFields, Turn
from app.dialects.anthropic.presenter import MessagePresenter
from app.dialects.contract import Call, Dialect, Reply, Whole, present_in_order
from app.dialects.openai import models
from app.dialects.openai.grammars import schema_grammar
from app.dialects.openai.sampling import check_counts
from app.dialects.template_kwargs import template_kwargs
from app.errors import InvalidRequest
from app.settings.bounds import Bounds
from app.types import (
    ChatPrompt,
    GenerationRequest,
    Grammar,
    Json,
    Message,
    Picture,
    Sampling,
    Text,
    ToolUse,
    texts,
)

_LEAST_BUDGET = 1024
_ASSISTANTS = (ThinkingBlock, UseBlock, ServerResultBlock)


def answer(body: MessagesBody, call: Call) -> Awaitable[Reply]:
    models.generator_name(body.model, call)
    _check_budget(body)
    grammar = _grammar(body, call.bounds)
    request = GenerationRequest(
        id=call.id,
        prompts=(_prompt(body, call, grammar),),
        sampling=_sampling(body, grammar, call),
        clamps=True,
        whole=not body.stream,
        cache_salt=body.cache_salt or "",
        session=body.prompt_cache_key or "",
    )
    call.log_fields |= {
        "id": f"msg_{call.id}",
        "model": body.model,
        "messages": len(body.messages),
        "max_tokens": body.max_tokens,
        "stream": bool(body.stream),
    }
    if body.tools:
        call.log_fields["tools"] = len(body.tools)
    thinking = body.thinking
    presenter = MessagePresenter(
        id=call.id,
        model=body.model,
        max_tokens=body.max_tokens,
        stops=body.stop_sequences or (),
        sign=call.seal.sign,
        hides_thinking=thinking is not None and thinking.display == "omitted",
        stream=bool(body.stream),
    )
    return present_in_order(call.generate(request), presenter, stream=bool(body.stream))


async def count(body: CountBody, call: Call) -> Reply:
    """As many as `usage` of the same request has as input, cached or not."""
    models.generator_name(body.model, call)
    await models.check_adapter(body.model, call)
    (ids,) = await call.model.tokenize([_prompt(body, call, _grammar(body, call.bounds))])
    return Whole(orjson.dumps({"input_tokens": len(ids)}))


# -- the request -------------------------------------------------------------------------------


def _check_budget(body: MessagesBody) -> None:
    thinking = body.thinking
    if thinking is None or thinking.type != "enabled":
        return
    if thinking.budget_tokens is None:
        raise InvalidRequest("Field required", param="thinking.enabled.budget_tokens")
    if thinking.budget_tokens < _LEAST_BUDGET:
        raise InvalidRequest(
            f"Input should be greater than or equal to {_LEAST_BUDGET}",
            param="thinking.enabled.budget_tokens",
        )
    if thinking.budget_tokens >= body.max_tokens:
        raise InvalidRequest(
            "`max_tokens` must be greater than `thinking.budget_tokens`.", param="max_tokens"
        )


def _prompt(body: PromptFields, call: Call, grammar: Grammar | None) -> ChatPrompt:
    if not body.messages:
        raise InvalidRequest("messages: at least one message is required", param="messages")
    _check_places(body.messages)
    messages = conversation.messages(body.system, body.messages)
    _check_pictures(messages, call)
    continues = bool(messages) and messages[-1].role == "assistant"
    if continues:
        messages, continues = _begun(messages, len(body.messages) - 1)
    if continues and grammar is not None:
        raise InvalidRequest(
            "messages: a last message of the assistant cannot begin an answer that follows a "
            "schema",
            param=f"messages[{len(body.messages) - 1}]",
        )
    if not messages:
        raise InvalidRequest("messages: all of them are empty", param="messages")
    config = body.output_config
    return ChatPrompt(
        messages,
        tool_use=_tool_use(body, call.bounds, formatted=grammar is not None),
        effort=config.effort if config else None,
        template_kwargs=template_kwargs(
            body.chat_template_kwargs, call.bounds, thinks=_thinks(body, call.bounds, continues)
        ),
        continues=continues,
    )


def _check_pictures(messages: Sequence[Message], call: Call) -> None:
    """Claude Code goes on without a picture that is refused by its path."""
    if not call.model.info.takes_pictures:
        for message in messages:
            for part in message.parts:
                if isinstance(part, Picture):
                    raise InvalidRequest("this model takes text only", param=part.param)
    pictures.check(messages, call)


def _check_places(turns: Sequence[Turn]) -> None:
    """Raises InvalidRequest for a block that cannot be said by who says it."""
    for no, turn in enumerate(turns):
        if isinstance(turn.content, str):
            continue
        wrong = _ASSISTANTS if turn.role != "assistant" else (ResultBlock,)
        for place, block in enumerate(turn.content):
            if isinstance(block, wrong):
                raise InvalidRequest(
                    f"it cannot be in a message of role '{turn.role}'",
                    param=f"messages[{no}].content[{place}].{block.type[:64]}",
                )


def _begun(messages: list[Message], no: int) -> tuple[list[Message], bool]:
    """The conversation whose last message, the assistant's, begins the answer; False: it has no
    text, and begins nothing. `no`: of that message in the request."""
    last = messages[-1]
    if last.calls:
        raise InvalidRequest(
            f"`tool_use` ids were found without `tool_result` blocks immediately after: "
            f"{last.calls[-1].id[:64]}",
            param=f"messages[{no}]",
        )
    text = "".join(texts(last.parts)).rstrip()
    if not text:
        return messages[:-1], False
    return [*messages[:-1], Message(role="assistant", parts=(Text(text),))], True


def _thinks(body: PromptFields, bounds: Bounds, continues: bool) -> bool | None:
    """None: as the template would. Sample code reads the first block as the text, so that thinking
    that the request does not ask for is off."""
    if continues:
        return False
    if body.thinking is None:
        return None if bounds.messages_thinking == "template" else False
    return body.thinking.type != "disabled"


def _tool_use(body: PromptFields, bounds: Bounds, *, formatted: bool) -> ToolUse | None:
    choice = body.tool_choice
    kind = choice.type if choice else "auto"
    required = kind in ("any", "tool")
    tools = [
        tool_use.function(
            tool.name,
            description=tool.description,
            parameters={"type": "object"} | tool.input_schema,
            strict=tool.strict,
            param=f"tools[{no}].custom.input_schema",
            bounds=bounds,
            compiled=formatted or required,
        )
        for no, tool in enumerate(body.tools or ())
        if isinstance(tool, CustomTool)  # also one that loads late: no search runs here
    ]
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise InvalidRequest("tools: Tool names must be unique.", param="tools")
    if required and not tools:
        raise InvalidRequest(
            "tool_choice: a tool must be called, but 'tools' has none that can be called here",
            param="tool_choice",
        )
    if kind == "none" or not tools:
        return None
    allowed = names
    if choice is not None and kind == "tool":
        if choice.name not in names:
            name = ascii(choice.name or "")[1:-1][:64]
            raise InvalidRequest(
                f"tool_choice.name: Tool '{name}' not found in provided tools",
                param="tool_choice.name",
            )
        allowed = [choice.name]
    return tool_use.use(
        tools,
        allowed=allowed,
        required=required,
        named=kind == "tool",
        parallel=None if choice is None else not choice.disable_parallel_tool_use,
    )


def _grammar(body: PromptFields, bounds: Bounds) -> Grammar | None:
    format = body.output_config.format if body.output_config else None
    if format is not None and body.output_format is not None:
        raise InvalidRequest(
            "output_format: it excludes `output_config.format`", param="output_format"
        )
    if format is not None:
        return schema_grammar(format.json_schema, bounds.grammar, "output_config.format.schema")
    if body.output_format is not None:
        return schema_grammar(
            body.output_format.json_schema, bounds.grammar, "output_format.schema"
        )
    return None


def _sampling(body: MessagesBody, grammar: Grammar | None, call: Call) -> Sampling:
    stops = tuple(body.stop_sequences or ())
    if "" in stops:
        raise InvalidRequest(
            "stop_sequences: each stop sequence must be non-empty", param="stop_sequences"
        )
    top_k = body.top_k
    sampling = Sampling(
        max_tokens=max(1, body.max_tokens),
        temperature=body.temperature,
        top_p=max(body.top_p, 1e-6) if body.top_p is not None else None,
        top_k=-1 if top_k == 0 or (top_k or 0) > call.model.info.vocab_size else top_k,
        stop=stops,
        grammar=grammar,
        # A target to Anthropic's models, too, and sent by clients to every model.
        thinking_budget=(
            body.thinking.budget_tokens
            if body.thinking and call.model.info.bounds_thinking
            else None
        ),
    )
    check_counts(sampling, call.bounds, stops="stop_sequences")
    return sampling


_EXAMPLE: Json = {
    "model": "default",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
}
MESSAGES = Dialect(
    path="/v1/messages",
    summary="Answer a conversation in Anthropic's form",
    body=MessagesBody,
    answer=answer,
    example=_EXAMPLE | {"max_tokens": 16},
)
COUNT_TOKENS = Dialect(
    path="/v1/messages/count_tokens",
    summary="How many tokens a request of /v1/messages has",
    body=CountBody,
    answer=count,
    example=_EXAMPLE,
)
