"""JSON Schemas of the answers, for the description of the API.

Answers are written by presenters, not from classes; tests/web/test_openapi.py holds real answers
against these. Objects may have more fields than are described: those are optional.

Source: the vendors' references, as of the dialects.
"""

from __future__ import annotations

from app.types import Json

STORE_FAILS = "The store is not available."


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def error_answers(fault: str, path: str = "") -> Json:
    """`fault`: what a 5xx means."""
    form = "AnthropicError" if path.startswith("/v1/messages") else "Error"
    content = {"application/json": {"schema": ref(form)}}
    return {
        "4XX": {"description": "The request is at fault.", "content": content},
        "5XX": {"description": fault, "content": content},
    }


def of(route: str) -> str | None:
    """The schema's name of a route such as `GET /health`."""
    return _ANSWERS.get(route)


def _object(description: str = "", /, *, optional: Json | None = None, **required: Json) -> Json:
    described: Json = {"type": "object", "properties": {**required, **(optional or {})}}
    if required:
        described["required"] = list(required)
    if description:
        described["description"] = description
    return described


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _maybe(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _one_of(*values: str) -> Json:
    return {"type": "string", "enum": list(values)}


_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_NUMBER: Json = {"type": "number"}
_FLAG: Json = {"type": "boolean"}
_ANY: Json = {}
_FINISH = _maybe(_one_of("stop", "length", "tool_calls", "content_filter", "function_call"))
_LOGPROBS = _maybe(_object("Log-probabilities, if they were asked for."))
_CALL = _object(
    "A call of a tool.",
    id=_TEXT,
    type=_one_of("function"),
    function=_object(
        name=_TEXT, arguments={"type": "string", "description": "JSON, as the model wrote it."}
    ),
)
_MESSAGE = _object(
    role=_one_of("assistant"),
    content=_maybe(_TEXT),
    optional={
        "refusal": _maybe(_TEXT),
        "reasoning_content": {**_maybe(_TEXT), "description": "The model's thinking."},
        "tool_calls": _list(_CALL),
    },
)
_DELTA = _object(
    optional={
        "role": _one_of("assistant"),
        "content": _maybe(_TEXT),
        "reasoning_content": _maybe(_TEXT),
        "tool_calls": _list(
            _object(index=_COUNT, optional={"id": _TEXT, "type": _TEXT, "function": _object()})
        ),
    }
)
_HEAD = {"id": _TEXT, "created": _COUNT, "model": _TEXT}

SCHEMAS: Json = {
    "Error": _object(
        error=_object(message=_TEXT, type=_TEXT, param=_maybe(_TEXT), code=_maybe(_TEXT))
    ),
    "AnthropicError": _object(type=_one_of("error"), error=_object(type=_TEXT, message=_TEXT)),
    "Usage": _object(
        prompt_tokens=_COUNT,
        completion_tokens=_COUNT,
        total_tokens=_COUNT,
        optional={
            "prompt_tokens_details": _object(optional={"cached_tokens": _COUNT}),
            "completion_tokens_details": _object(optional={"reasoning_tokens": _COUNT}),
        },
    ),
    "ChatCompletion": _object(
        object=_one_of("chat.completion"),
        **_HEAD,
        choices=_list(
            _object(
                index=_COUNT,
                message=_MESSAGE,
                finish_reason=_FINISH,
                optional={"logprobs": _LOGPROBS},
            )
        ),
        usage=ref("Usage"),
    ),
    "ChatCompletionChunk": _object(
        "One event of the stream; the last is `[DONE]`.",
        object=_one_of("chat.completion.chunk"),
        **_HEAD,
        choices=_list(
            _object(
                index=_COUNT, delta=_DELTA, finish_reason=_FINISH, optional={"logprobs": _LOGPROBS}
            )
        ),
        optional={"usage": _maybe(ref("Usage"))},
    ),
    "Completion": _object(
        "Whole, or one event of the stream.",
        object=_one_of("text_completion"),
        **_HEAD,
        choices=_list(
            _object(
                index=_COUNT, text=_TEXT, finish_reason=_FINISH, optional={"logprobs": _LOGPROBS}
            )
        ),
        optional={"usage": _maybe(ref("Usage"))},
    ),
    "Response": _object(
        id=_TEXT,
        object=_one_of("response"),
        created_at=_NUMBER,
        status=_one_of("completed", "failed", "in_progress", "cancelled", "queued", "incomplete"),
        model=_TEXT,
        output=_list(_object("A message, a call of a tool, or thinking.", type=_TEXT)),
        optional={"usage": _maybe(_object(input_tokens=_COUNT, output_tokens=_COUNT))},
    ),
    "ResponseEvent": _object("One event of the stream.", type=_TEXT, sequence_number=_COUNT),
    "InputTokens": _object(object=_one_of("response.input_tokens"), input_tokens=_COUNT),
    "Message": _object(
        id=_TEXT,
        type=_one_of("message"),
        role=_one_of("assistant"),
        model=_TEXT,
        content=_list(_object("text, thinking or tool_use.", type=_TEXT)),
        stop_reason=_maybe(
            _one_of("end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal", "pause_turn")
        ),
        stop_sequence=_maybe(_TEXT),
        usage=_object(input_tokens=_COUNT, output_tokens=_COUNT),
    ),
    "MessageEvent": _object("One event of the stream.", type=_TEXT),
    "MessageTokens": _object(input_tokens=_COUNT),
    "EmbeddingList": _object(
        object=_one_of("list"),
        model=_TEXT,
        data=_list(
            _object(
                object=_one_of("embedding"),
                index=_COUNT,
                embedding={"anyOf": [_list(_NUMBER), {"type": "string", "format": "byte"}]},
            )
        ),
        usage=_object(prompt_tokens=_COUNT, total_tokens=_COUNT),
    ),
    "Tokens": _object(
        "Lists of lists if the prompt is a list.",
        tokens=_list({"anyOf": [_COUNT, _list(_COUNT)]}),
        count={"anyOf": [_COUNT, _list(_COUNT)]},
        max_model_len=_COUNT,
    ),
    "Detokenized": _object(text=_TEXT, prompt=_TEXT),
    "TokenCount": _object(prompt_tokens=_COUNT),
    "Generated": _object(
        text=_TEXT, meta_info=_object(id=_TEXT, finish_reason=_ANY, prompt_tokens=_COUNT)
    ),
    "GeneratedList": {
        "anyOf": [ref("Generated"), _list(ref("Generated"))],
        "description": "A list for several prompts or choices.",
    },
    "ModelCard": _object(
        id=_TEXT,
        object=_one_of("model"),
        created=_COUNT,
        owned_by=_TEXT,
        optional={"max_model_len": _COUNT, "parent": _maybe(_TEXT)},
    ),
    "ModelList": _object(object=_one_of("list"), data=_list(ref("ModelCard"))),
    "Server": _object(
        service=_TEXT,
        version=_TEXT,
        commit=_maybe(_TEXT),
        sglang=_maybe(_TEXT),
        engine=_TEXT,
        model=_TEXT,
        hathora_region=_TEXT,
        phase=_TEXT,
        endpoints=_list(_TEXT),
    ),
    "Health": _object(
        status=_TEXT,
        engine_status=_TEXT,
        model_path=_TEXT,
        phase=_TEXT,
        uptime_s=_NUMBER,
        in_flight=_COUNT,
        optional={
            "downloaded_bytes": _COUNT,
            "download_bytes": _COUNT,
            "reason": _TEXT,
            "asleep": _FLAG,
            "engine_silent_s": _maybe(_NUMBER),
        },
    ),
    "Probe": _object(status=_TEXT, optional={"phase": _TEXT, "latency_ms": _NUMBER}),
    "ModelInfo": _object(
        model_path=_TEXT,
        tokenizer_path=_TEXT,
        served_model_name=_TEXT,
        is_generation=_FLAG,
        context_length=_COUNT,
        has_image_understanding=_FLAG,
    ),
    "ServerInfo": _object(
        "The engine's options, and these.",
        model_path=_TEXT,
        served_model_name=_TEXT,
        max_total_num_tokens=_COUNT,
        version=_TEXT,
        internal_states=_list(_object()),
    ),
    "Loads": _object(timestamp=_TEXT, in_flight=_COUNT, loads=_list(_object(dp_rank=_COUNT))),
    "LoadList": _list(
        _object(dp_rank=_COUNT, num_reqs=_COUNT, num_waiting_reqs=_COUNT, num_tokens=_COUNT)
    ),
    "Done": _object(success=_FLAG, message=_TEXT),
    "Aborted": _object(aborted=_COUNT),
    "Sleeping": _object(is_sleeping=_FLAG),
    "Conversation": _object(id=_TEXT, object=_one_of("conversation"), created_at=_NUMBER),
    "Item": _object("A message, a call of a tool, its result, or thinking.", type=_TEXT),
    "ItemList": _object(
        object=_one_of("list"),
        data=_list(ref("Item")),
        has_more=_FLAG,
        optional={"first_id": _maybe(_TEXT), "last_id": _maybe(_TEXT)},
    ),
    "Deleted": _object(id=_TEXT, object=_TEXT, deleted=_FLAG),
    "File": _object(
        id=_TEXT,
        object=_one_of("file"),
        bytes=_COUNT,
        created_at=_COUNT,
        filename=_TEXT,
        purpose=_TEXT,
    ),
    "FileList": _object(object=_one_of("list"), data=_list(ref("File")), has_more=_FLAG),
}

_ANSWERS = {
    "GET /": "Server",
    "GET /health": "Health",
    "GET /livez": "Probe",
    "GET /readyz": "Probe",
    "GET /ping": "Probe",
    "GET /health_generate": "Probe",
    "GET /v1/models": "ModelList",
    "GET /v1/models/{model}": "ModelCard",
    "GET /model_info": "ModelInfo",
    "GET /server_info": "ServerInfo",
    "GET /v1/loads": "Loads",
    "GET /get_load": "LoadList",
    "POST /v1/chat/completions": "ChatCompletion",
    "POST /v1/completions": "Completion",
    "POST /v1/responses": "Response",
    "POST /v1/responses/input_tokens": "InputTokens",
    "GET /v1/responses/{response_id}": "Response",
    "DELETE /v1/responses/{response_id}": "Deleted",
    "POST /v1/responses/{response_id}/cancel": "Response",
    "GET /v1/responses/{response_id}/input_items": "ItemList",
    "POST /v1/conversations": "Conversation",
    "GET /v1/conversations/{conversation_id}": "Conversation",
    "POST /v1/conversations/{conversation_id}": "Conversation",
    "DELETE /v1/conversations/{conversation_id}": "Deleted",
    "GET /v1/conversations/{conversation_id}/items": "ItemList",
    "POST /v1/conversations/{conversation_id}/items": "ItemList",
    "GET /v1/conversations/{conversation_id}/items/{item_id}": "Item",
    "DELETE /v1/conversations/{conversation_id}/items/{item_id}": "Conversation",
    "POST /v1/messages": "Message",
    "POST /v1/messages/count_tokens": "MessageTokens",
    "POST /v1/embeddings": "EmbeddingList",
    "POST /tokenize": "Tokens",
    "POST /v1/tokenize": "Tokens",
    "POST /detokenize": "Detokenized",
    "POST /v1/detokenize": "Detokenized",
    "POST /v1/tokens": "TokenCount",
    "POST /generate": "GeneratedList",
    "GET /v1/files": "FileList",
    "POST /v1/files": "File",
    "GET /v1/files/{file_id}": "File",
    "DELETE /v1/files/{file_id}": "Deleted",
    "POST /flush_cache": "Done",
    "POST /abort_request": "Aborted",
    "POST /start_profile": "Done",
    "POST /stop_profile": "Done",
    "POST /v1/load_lora_adapter": "Done",
    "POST /v1/unload_lora_adapter": "Done",
    "POST /sleep": "Done",
    "POST /wake_up": "Done",
    "GET /is_sleeping": "Sleeping",
}
FRAMES = {
    "POST /v1/chat/completions": "ChatCompletionChunk",
    "POST /v1/completions": "Completion",
    "POST /v1/responses": "ResponseEvent",
    "GET /v1/responses/{response_id}": "ResponseEvent",
    "POST /v1/messages": "MessageEvent",
    "POST /generate": "Generated",
}
"""The schema of one event's data, of routes that stream."""
MAY_BE_503 = frozenset({"GET /health", "GET /livez", "GET /readyz", "GET /ping"})
"""With the same body."""
