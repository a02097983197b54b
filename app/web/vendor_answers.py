"""JSON Schemas of the answers of OpenAI's and Anthropic's APIs.

Answers are written by presenters, not from classes; tests/web/test_openapi.py holds real answers
against these. Objects may have more fields than are described: those are optional.

Source: the vendors' references, as of the dialects.
"""

from __future__ import annotations

from app.types import Json
from app.web.schema_parts import (
    array,
    count,
    described_ref,
    flag,
    json_object,
    kind,
    nullable,
    number,
    one_of,
    ref,
    text,
)

_EVENT = "One event of the stream."
_SECONDS = "in seconds since 1970."
_CREATED = count(f"When the answer was begun, {_SECONDS}")
_MODEL = text("The name that the request has been answered under.")
_FINISH = nullable(
    one_of(
        "Why the answer ended: `stop` by itself, `length` at the limit of tokens, `tool_calls` or "
        "`function_call` with a call. Null until it has ended.",
        "stop",
        "length",
        "tool_calls",
        "content_filter",
        "function_call",
    )
)
_LOGPROBS = nullable(json_object("Log-probabilities of the tokens, if the request asked for them."))
_INDEX = count("Number of the choice, from 0. With several prompts: those of the first one first.")
_THINKING = nullable(text("The model's thinking, or the next piece of it."))
_CALL = json_object(
    "A call of a tool.",
    id=text("Id of the call, which the message with its result repeats."),
    type=one_of("Kind of the tool.", "function"),
    function=json_object(
        "What is called.",
        name=text("Name of the tool."),
        arguments=text("JSON, as the model wrote it. It may be cut off at the limit of tokens."),
    ),
)
_MESSAGE = json_object(
    "The answer.",
    role=one_of("Author of the message.", "assistant"),
    content=nullable(text("The text of the answer; null if there are calls only.")),
    optional={
        "refusal": nullable(text("Always null: this server has no refusals.")),
        "reasoning_content": _THINKING,
        "tool_calls": array("The calls of tools, in order.", _CALL),
    },
)
_PIECE_OF_CALL = json_object(
    index=count("Number of the call in this choice, from 0."),
    optional={
        "id": text("Id of the call; with its first piece only."),
        "type": text("Kind of the tool; with its first piece only."),
        "function": json_object("`name` with the first piece, then pieces of `arguments`."),
    },
)
_DELTA = json_object(
    "What is new.",
    optional={
        "role": one_of("Author of the message; in the first event of a choice only.", "assistant"),
        "content": nullable(text("The next piece of the answer's text.")),
        "reasoning_content": _THINKING,
        "tool_calls": array("The next pieces of calls.", _PIECE_OF_CALL),
    },
)
_OPENAI_HEAD = {"id": text("Id of the answer."), "created": _CREATED, "model": _MODEL}
_PROMPT_TOKENS = count("Tokens of the prompt, those of the prefix cache included.")
_OUTPUT_TOKENS = count("Tokens of the answer, thinking included.")
_STREAMS_USAGE = nullable(
    described_ref(
        "Tokens that were counted, with `stream_options.include_usage`; null before.", "Usage"
    )
)

OPENAI: Json = {
    "Error": json_object(
        error=json_object(
            "What went wrong.",
            message=text("For people to read."),
            type=text("Class of the error, such as `invalid_request_error`."),
            param=nullable(text("Field of the request that is at fault, such as `messages[0]`.")),
            code=nullable(text("For programs to read, such as `context_length_exceeded`.")),
        )
    ),
    "Usage": json_object(
        prompt_tokens=_PROMPT_TOKENS,
        completion_tokens=_OUTPUT_TOKENS,
        total_tokens=count("Both together."),
        optional={
            "prompt_tokens_details": json_object(
                "Parts of `prompt_tokens`.",
                optional={"cached_tokens": count("Tokens that the prefix cache had.")},
            ),
            "completion_tokens_details": json_object(
                "Parts of `completion_tokens`.",
                optional={"reasoning_tokens": count("Tokens of the thinking.")},
            ),
        },
    ),
    "ChatCompletion": json_object(
        object=kind("chat.completion"),
        **_OPENAI_HEAD,
        choices=array(
            "The answers, `n` of them.",
            json_object(
                index=_INDEX,
                message=_MESSAGE,
                finish_reason=_FINISH,
                optional={"logprobs": _LOGPROBS},
            ),
        ),
        usage=described_ref("Tokens that were counted.", "Usage"),
    ),
    "ChatCompletionChunk": json_object(
        "One event of the stream; the last is `[DONE]`.",
        object=kind("chat.completion.chunk"),
        **_OPENAI_HEAD,
        choices=array(
            "What is new of one of the answers; empty in the event with the usage.",
            json_object(
                index=_INDEX, delta=_DELTA, finish_reason=_FINISH, optional={"logprobs": _LOGPROBS}
            ),
        ),
        optional={"usage": _STREAMS_USAGE},
    ),
    "Completion": json_object(
        "Whole, or one event of the stream.",
        object=kind("text_completion"),
        **_OPENAI_HEAD,
        choices=array(
            "The answers, `n` for each prompt; in a stream what is new of one of them.",
            json_object(
                index=_INDEX,
                text=text("The text, with `echo` the prompt's before it."),
                finish_reason=_FINISH,
                optional={"logprobs": _LOGPROBS},
            ),
        ),
        optional={"usage": _STREAMS_USAGE},
    ),
    "EmbeddingList": json_object(
        object=kind("list"),
        model=_MODEL,
        data=array(
            "One vector for each input, in order.",
            json_object(
                object=kind("embedding"),
                index=count("Number of the input, from 0."),
                embedding={
                    "anyOf": [
                        {"type": "array", "items": {"type": "number"}},
                        {"type": "string", "format": "byte"},
                    ],
                    "description": "The vector, normalised: numbers, or with "
                    "`encoding_format: base64` little-endian 32-bit floats.",
                },
            ),
        ),
        usage=json_object(
            "Tokens that were counted.",
            prompt_tokens=count("Tokens of all inputs."),
            total_tokens=count("The same."),
        ),
    ),
    "ModelCard": json_object(
        id=text("The name that requests ask for as `model`."),
        object=kind("model"),
        created=count(f"When this server was started, {_SECONDS}"),
        owned_by=text("Always `sglang`."),
        optional={
            "max_model_len": count("Most tokens of a prompt and its answer together."),
            "parent": nullable(text("Of an adapter: the name of the model; else null.")),
        },
    ),
    "ModelList": json_object(
        object=kind("list"),
        data=array("The model by each of its names, then its adapters.", ref("ModelCard")),
    ),
    "File": json_object(
        id=text("Id of the file."),
        object=kind("file"),
        bytes=count("Size of the file."),
        created_at=count(f"When it was uploaded, {_SECONDS}"),
        filename=text("Name of the file, without folders."),
        purpose=text("What the client has said that it is for; nothing follows from it here."),
    ),
    "FileList": json_object(
        object=kind("list"),
        data=array("The files of one page.", ref("File")),
        has_more=flag("There is another page: ask for it with `after`."),
    ),
}
RESPONSES: Json = {
    "Response": json_object(
        id=text("Id of the response."),
        object=kind("response"),
        created_at=number(f"When the response was begun, {_SECONDS}"),
        status=one_of(
            "`completed`, `incomplete` (cut off at the limit of tokens), `failed`, `cancelled`, "
            "or how far it is.",
            "completed",
            "failed",
            "in_progress",
            "cancelled",
            "queued",
            "incomplete",
        ),
        model=_MODEL,
        output=array(
            "The items of the answer, in order.",
            json_object(
                "A message, a call of a tool, or thinking.", type=text("Kind of the item.")
            ),
        ),
        optional={
            "usage": nullable(
                json_object(
                    "Tokens that were counted; null until the response has ended.",
                    input_tokens=_PROMPT_TOKENS,
                    output_tokens=_OUTPUT_TOKENS,
                )
            )
        },
    ),
    "ResponseEvent": json_object(
        _EVENT,
        type=text("Kind of the event, such as `response.output_text.delta`."),
        sequence_number=count("Number of the event in this stream, from 0."),
    ),
    "InputTokens": json_object(
        object=kind("response.input_tokens"),
        input_tokens=count("Tokens that the model would read."),
    ),
    "Conversation": json_object(
        id=text("Id of the conversation."),
        object=kind("conversation"),
        created_at=number(f"When the conversation was begun, {_SECONDS}"),
    ),
    "Item": json_object(
        "A message, a call of a tool, its result, or thinking.", type=text("Kind of the item.")
    ),
    "ItemList": json_object(
        object=kind("list"),
        data=array("The items of one page.", ref("Item")),
        has_more=flag("There is another page: ask for it with `after`."),
        optional={
            "first_id": nullable(text("Id of the first item of the page; null if it is empty.")),
            "last_id": nullable(text("Id of the last item of the page; null if it is empty.")),
        },
    ),
    "Deleted": json_object(
        id=text("Id of what was deleted."),
        object=text("Kind of what was deleted."),
        deleted=flag("Always true: else the answer is an error."),
    ),
}
ANTHROPIC: Json = {
    "AnthropicError": json_object(
        type=kind("error"),
        error=json_object(
            "What went wrong.",
            type=text("Class of the error, such as `invalid_request_error`."),
            message=text("For people to read; it begins with the field that is at fault."),
        ),
    ),
    "Message": json_object(
        id=text("Id of the message."),
        type=kind("message"),
        role=one_of("Author of the message.", "assistant"),
        model=_MODEL,
        content=array(
            "The blocks of the answer, in order.",
            json_object("Text, thinking or a call of a tool.", type=text("Kind of the block.")),
        ),
        stop_reason=nullable(
            one_of(
                "Why the message ended. Null in the first event of a stream.",
                "end_turn",
                "max_tokens",
                "stop_sequence",
                "tool_use",
                "refusal",
                "pause_turn",
                "model_context_window_exceeded",
            )
        ),
        stop_sequence=nullable(text("The text of `stop_sequences` that ended the message.")),
        usage=json_object(
            "Tokens that were counted.",
            input_tokens=count("Tokens of the prompt, without those of the prefix cache."),
            output_tokens=_OUTPUT_TOKENS,
        ),
    ),
    "MessageEvent": json_object(
        _EVENT, type=text("Kind of the event, such as `content_block_delta`.")
    ),
    "MessageTokens": json_object(input_tokens=count("Tokens that the model would read.")),
}
