"""OpenAI's Responses API: one request, streamed or whole, and the count of its tokens.

    body ─ history ─ items ─ messages ─ model ─ events ─ presenter ─ kept ─ terminal event

Source: https://platform.openai.com/docs/api-reference/responses, read 2026-11, and what Codex, the
SDKs and other clients were seen to send and to need.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from functools import partial

import msgspec
import orjson

from app.dialects import attachments, pictures
from app.dialects.attachments import NONE, Attached, Named
from app.dialects.contract import Call, Dialect, Reply, Stream, Whole, present_in_order
from app.dialects.openai import models
from app.dialects.openai.grammars import ANY_OBJECT, schema_grammar
from app.dialects.openai.responses import conversation, kept_items
from app.dialects.openai.responses.body import InputTokensBody, PromptFields, ResponsesBody
from app.dialects.openai.responses.conversation import FoundFile
from app.dialects.openai.responses.history import (
    History,
    check,
    conversation_of,
    hold,
    load,
    needs_store,
)
from app.dialects.openai.responses.items import (
    CompactionItem,
    Item,
    MessageItem,
    ReferenceItem,
    ToolsItem,
)
from app.dialects.openai.responses.keeping import ResponseKeeper
from app.dialects.openai.responses.output_items import Channel
from app.dialects.openai.responses.presenter import ResponsePresenter
from app.dialects.openai.responses.response import ResponseObject, constant
from app.dialects.openai.responses.stored import cannot_be_followed, followed
from app.dialects.openai.responses.toolbox import Toolbox
from app.dialects.openai.sampling import alternative_count
from app.dialects.sealing import Opening
from app.dialects.template_kwargs import template_kwargs, thinking_switch
from app.engine.base import EngineInfo
from app.errors import InvalidRequest
from app.generation import limits
from app.settings.bounds import Bounds
from app.store.store import Store
from app.types import ChatPrompt, GenerationRequest, Grammar, Json, Sampling, Scoring

_PATIENCE_S = 300.0
"""For a store that is away when a response in the background ends: as long as it is remembered."""
_LOGPROBS = "message.output_text.logprobs"
_ENCRYPTED = "reasoning.encrypted_content"


def answer(body: ResponsesBody, call: Call) -> Awaitable[Reply]:
    model = models.generator_name(body.model, call)
    if not needs_store(body):
        return _begin(body, call, model, History())
    check(body, call.store)
    assert call.store is not None
    if (conversation := conversation_of(body)) is not None:
        return _answer_in(conversation, body, call, call.store, model)
    return _answer_with_history(body, call, call.store, model)


async def count(body: InputTokensBody, call: Call) -> Reply:
    """How many tokens the model would read: as `usage.input_tokens` of the same request."""
    models.generator_name(body.model, call)
    await models.check_adapter(body.model, call)
    history = History()
    if needs_store(body):
        check(body, call.store)
        assert call.store is not None
        history = await load(body, call, call.store)
    formatted = _grammar(body, call.bounds) is not None
    items, first = [*history.earlier, *_items(body, history)], len(history.earlier)
    attached = await attachments.load(_named(body, conversation.named_files(items), first), call)
    tools = Toolbox(call.bounds)
    prompt = _prompt(body, items, tools, call, formatted=formatted, first=first, attached=attached)
    (ids,) = await call.model.tokenize([prompt])
    return Whole(orjson.dumps({"object": "response.input_tokens", "input_tokens": len(ids)}))


async def _answer_with_history(body: ResponsesBody, call: Call, store: Store, model: str) -> Reply:
    history = await load(body, call, store)
    begun = _begin(body, call, model, history)
    del body, history  # megabytes that are not needed while the engine answers
    return await begun


async def _begin_with_files(
    named: Sequence[Named], body: ResponsesBody, call: Call, model: str, history: History
) -> Reply:
    begun = _begin(body, call, model, history, await attachments.load(named, call))
    del body, history  # megabytes that are not needed while the engine answers
    return await begun


async def _answer_in(
    conversation: str, body: ResponsesBody, call: Call, store: Store, model: str
) -> Reply:
    """As long as it is answered no other response has the conversation."""
    held = conversation, f"resp_{call.id}"
    in_background = bool(body.background)
    await hold(conversation, call, store)
    try:
        answering = _answer_with_history(body, call, store, model)
        del body
        reply = await answering
    except BaseException:  # a disconnect included: the conversation must not stay locked
        if not (in_background and call.background is not None and call.background.has(held[1])):
            await store.release(*held)
        raise
    if in_background:
        return reply  # it holds the conversation until it is kept
    if isinstance(reply, Stream):
        reply.frames = _releasing(reply.frames, store, held)
    else:
        await store.release(*held)
    return reply


async def _releasing(
    frames: AsyncGenerator[bytes, None], store: Store, held: tuple[str, str]
) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(frames):
            async for frame in frames:
                yield frame
    finally:
        await store.release(*held)


def _begin(
    body: ResponsesBody,
    call: Call,
    model: str,
    history: History,
    attached: Attached | None = None,
) -> Awaitable[Reply]:
    own = _items(body, history)
    items, first = [*history.earlier, *own], len(history.earlier)
    if attached is None and (found := conversation.named_files(items)):
        return _begin_with_files(_named(body, found, first), body, call, model, history)
    tools = Toolbox(call.bounds)
    sampling = _sampling(body, call.bounds, call.model.info)
    formatted = sampling.grammar is not None
    prompt = _prompt(body, items, tools, call, formatted=formatted, first=first, attached=attached)
    scoring = _scoring(body, call.bounds)
    request = GenerationRequest(
        id=call.id,
        prompts=(prompt,),
        sampling=sampling,
        scoring=scoring,
        whole=not body.stream,
        cache_salt=body.cache_salt or "",
        session=body.prompt_cache_key or "",
    )
    call.log_fields |= {
        "model": body.model,
        "items": len(history.earlier) + len(own),
        "max_tokens": request.sampling.max_tokens,
        "stream": bool(body.stream),
    }
    if tools.echo:
        call.log_fields["tools"] = len(tools.echo)
    id = call.log_fields["id"] = f"resp_{call.id}"
    stored = call.store is not None and body.store is not False
    response = ResponseObject(
        id,
        constant(
            body,
            model=model,
            tools=tools.echo,
            defaults=call.model.info.default_sampling,
            stored=stored,
            conversation=history.conversation,
        ),
    )
    # What is not kept here a client has to keep, if it wants the thinking back.
    seals = not stored or _ENCRYPTED in body.included
    presenter = ResponsePresenter(
        response,
        owners=tools.owners,
        channel=_channel(body, call.bounds),
        seal=partial(call.seal.close, owner=call.owner.encode()) if seals else None,
        keeper=_keeper(body, call, history, own),
        scores=scoring is not None,
        stream=bool(body.stream),
    )
    if body.background:
        return _in_background(call, id, request, presenter, stream=bool(body.stream))
    return present_in_order(call.generate(request), presenter, stream=bool(body.stream))


def _keeper(
    body: ResponsesBody, call: Call, history: History, own: Sequence[Item]
) -> ResponseKeeper | None:
    stored = body.store is not False
    if call.store is None or not (stored or history.conversation):
        return None
    return ResponseKeeper(
        call.store,
        call.owner,
        f"resp_{call.id}",
        # A conversation has each id once: its pages are found by them.
        items=kept_items.written(own, call.id, anew=history.conversation is not None),
        history=history,
        parent=body.previous_response_id,
        stored=stored,
        patience_s=_PATIENCE_S if body.background else 0.0,
    )


async def _in_background(
    call: Call, id: str, request: GenerationRequest, presenter: ResponsePresenter, *, stream: bool
) -> Reply:
    assert call.background is not None
    call.log_fields["background"] = True
    run = await call.background.start(call, id, request, presenter, stream=stream)
    if not stream:
        return Whole(run.first)
    return Stream(followed(call, run, id, -1), cannot_be_followed)


# -- the request -------------------------------------------------------------------------------


def _prompt(
    body: PromptFields,
    items: Sequence[Item],
    tools: Toolbox,
    call: Call,
    *,
    formatted: bool,
    first: int,
    attached: Attached | None,
) -> ChatPrompt:
    """The conversation, with the tools that are put into `tools`. `first`: of `items` that is the
    request's own. Raises ServeError."""
    tools.add(body.tools or (), "tools")
    earlier = "conversation" if body.conversation is not None else "previous_response_id"

    def field_of(no: int) -> str:
        return f"input[{no - first}]" if no >= first else f"{earlier}.items[{no}]"

    for no, item in enumerate(items):
        if isinstance(item, ToolsItem):
            tools.add_more(item.tools or (), f"{field_of(no)}.tools" if no >= first else earlier)
    reasoning = body.reasoning
    opening = Opening(call.seal, call.owner.encode())
    messages = conversation.messages(
        items,
        instructions=body.instructions,
        tools=tools,
        unseal=opening.open,
        field_of=field_of,
        sees=call.model.info.takes_pictures,
        current_turn=bool(reasoning and reasoning.context == "current_turn"),
        attached=attached or NONE,
    )
    if not messages:
        raise InvalidRequest("Invalid value for 'input': it has no message.", param="input")
    pictures.check(messages, call, param="input")
    if opening.failed:
        call.log_fields["unreadable_thoughts"] = opening.failed
    return ChatPrompt(
        messages,
        param="input",
        tool_use=tools.use(body.tool_choice, body.parallel_tool_calls, formatted=formatted),
        effort=reasoning.effort if reasoning else None,
        template_kwargs=template_kwargs(
            body.chat_template_kwargs,
            call.bounds,
            thinks=thinking_switch(reasoning, body.enable_thinking),
        ),
    )


def _named(body: PromptFields, found: Sequence[FoundFile], first: int) -> list[Named]:
    earlier = "conversation" if body.conversation is not None else "previous_response_id"
    named: list[Named] = []
    for at, no, id, is_picture in found:
        item = f"input[{at - first}]" if at >= first else f"{earlier}.items[{at}]"
        named.append(Named(id, f"{item}.content[{no}].file_id", is_picture))
    return named


def _items(body: PromptFields, history: History) -> Sequence[Item]:
    """Those of the request, with what they refer to in its place."""
    if body.input is None and history.earlier:
        return ()
    if body.input is None:
        raise InvalidRequest(
            "Missing required parameter: 'input'.", param="input", code="missing_required_parameter"
        )
    if isinstance(body.input, str):
        return (MessageItem(role="user", content=body.input),)
    if not body.input and history.earlier:
        return ()
    if not body.input:
        raise InvalidRequest(
            "Invalid value for 'input': must have at least 1 entries.",
            param="input",
            code="array_below_min_length",
        )
    items: list[Item] = []
    for no, item in enumerate(body.input):
        if isinstance(item, CompactionItem):
            raise InvalidRequest(
                f"Invalid value for 'input[{no}].encrypted_content': it was not made by this "
                "server, which cannot read it.",
                param=f"input[{no}].encrypted_content",
                code="invalid_encrypted_content",
            )
        if isinstance(item, ReferenceItem):
            items.append(history.referred[item.id])
            continue
        items.append(item)  # type: ignore[arg-type]  # an unknown one does not validate
    return items


def _grammar(body: PromptFields, bounds: Bounds) -> Grammar | None:
    format = body.text.format if body.text else None
    if format is None or format.type == "text":
        return None
    if format.type == "json_object":
        return Grammar("json_schema", ANY_OBJECT, "text.format")
    for name, value in (("name", format.name), ("schema", format.json_schema)):
        if value is None:
            raise InvalidRequest(
                f"Missing required parameter: 'text.format.{name}'.",
                param=f"text.format.{name}",
                code="missing_required_parameter",
            )
    assert format.json_schema is not None
    return schema_grammar(format.json_schema, bounds.grammar, "text.format.schema")


def _sampling(body: ResponsesBody, bounds: Bounds, info: EngineInfo) -> Sampling:
    grammar = _grammar(body, bounds)
    budget = body.reasoning.max_tokens if body.reasoning else None
    limits.check_budget(budget, info, param="reasoning.max_tokens")
    sampling = body.sampling(bounds, max_tokens=body.max_output_tokens, thinking_budget=budget)
    if grammar is None:
        return sampling
    if sampling.grammar is not None:
        param = sampling.grammar.param.partition(".")[0]
        raise InvalidRequest(f"'text.format' and '{param}' exclude each other.", param=param)
    return msgspec.structs.replace(sampling, grammar=grammar)


def _scoring(body: ResponsesBody, bounds: Bounds) -> Scoring | None:
    top = alternative_count(body.top_logprobs, bounds, param="top_logprobs")
    return Scoring(top=top, param="top_logprobs") if _LOGPROBS in body.included else None


def _channel(body: ResponsesBody, bounds: Bounds) -> Channel:
    if bounds.responses_reasoning != "auto":
        return bounds.responses_reasoning
    reasoning = body.reasoning
    return "summary" if reasoning and (reasoning.summary or reasoning.generate_summary) else "text"


_EXAMPLE: Json = {"model": "default", "input": "What is the capital of France?"}
RESPONSES = Dialect(
    path="/v1/responses",
    summary="Answer a conversation, as agents ask",
    body=ResponsesBody,
    answer=answer,
    example=_EXAMPLE | {"max_output_tokens": 16, "temperature": 0},
)
INPUT_TOKENS = Dialect(
    path="/v1/responses/input_tokens",
    summary="How many tokens a request of /v1/responses has",
    body=InputTokensBody,
    answer=count,
    example=_EXAMPLE,
)
