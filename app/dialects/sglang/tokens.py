"""Token ids of texts and conversations, and texts of token ids.

Sources: `/tokenize` and `/detokenize` of SGLang and vLLM, `/v1/tokens` of the Hathora server (it
only counts); read 2026-11.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
import orjson
from pydantic import Field, PlainValidator, WithJsonSchema

from app.dialects import pictures
from app.dialects.body import Body, Unsupported
from app.dialects.contract import Call, Dialect, Reply, Whole
from app.dialects.openai import models
from app.dialects.openai.messages import ChatMessage
from app.errors import InvalidRequest
from app.settings.bounds import Bounds
from app.types import ChatPrompt, Json, TextPrompt

_Model = Annotated[str, Field(min_length=1, max_length=512)]


class TokenizeBody(Body):
    unsupported: ClassVar[Unsupported] = {
        "chat_template": (),
        "chat_template_kwargs": ({},),
        "continue_final_message": (False,),
        "tools": ([],),
    }

    model: _Model | None = None
    """A name from `/v1/models`, `default` or `sglang`. Others are 404, unless the operator takes
    any name. Default: the served model."""
    prompt: str | list[str] | None = None
    """The text or texts to tokenise, at most `MAX_PROMPTS`. Either this or `messages`."""
    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)] | None = None
    """The conversation to tokenise as the model's chat template renders it, at most
    `MAX_MESSAGES`."""
    return_token_strs: bool | None = None
    """Return the text of each token, too, as `token_strs`; at most as many tokens as the context.
    Default: false."""
    add_special_tokens: bool | None = None
    """Add the special tokens that the tokenizer puts around a text. Without effect on `messages`.
    Default: true."""
    add_generation_prompt: bool | None = None
    """End `messages` with what an answer of the assistant begins with. Default: true."""

    @classmethod
    def lengths(cls, bounds: Bounds) -> dict[str, int]:
        return {"prompt": bounds.max_prompts, "messages": bounds.max_messages}


async def tokenize(body: TokenizeBody, call: Call) -> Reply:
    models.served_name(body.model, call)
    await models.check_adapter(body.model, call)
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest(
            "Exactly one of 'prompt' and 'messages' must be given.", param="prompt"
        )
    many = isinstance(body.prompt, list)
    special = body.add_special_tokens is not False
    if body.messages is not None:
        begins = body.add_generation_prompt is not False
        turns = [each.lower(f"messages[{no}]") for no, each in enumerate(body.messages)]
        pictures.check(turns, call)
        prompts: list[Any] = [ChatPrompt(turns, begins_answer=begins)]
    elif isinstance(body.prompt, list):
        prompts = [
            TextPrompt(text, f"prompt[{no}]", special) for no, text in enumerate(body.prompt)
        ]
    else:
        prompts = [TextPrompt(body.prompt or "", "prompt", special)]
    ids = await call.model.tokenize(prompts)
    counts = [len(each) for each in ids]
    answer: Json = {
        "tokens": ids if many else ids[0],
        "count": counts if many else counts[0],
        "max_model_len": call.model.limit,
    }
    if body.return_token_strs:
        _check_count(sum(counts), call, "prompt")
        texts = [[call.model.token_text(id) for id in each] for each in ids]
        answer["token_strs"] = texts if many else texts[0]
    return Whole(orjson.dumps(answer))


class DetokenizeBody(Body):
    model: _Model | None = None
    """A name from `/v1/models`, `default` or `sglang`. Others are 404, unless the operator takes
    any name. Default: the served model."""
    tokens: Annotated[
        Any,
        PlainValidator(lambda value: _ids(value)),
        WithJsonSchema({"type": "array", "items": {"type": "integer", "minimum": 0}}),
    ]
    """The token ids, at most as many as the context."""
    skip_special_tokens: bool | None = None
    """Leave special tokens out of the text. Default: false."""


def _ids(value: Any) -> list[int]:
    if isinstance(value, list) and all(type(each) is int for each in value):
        return value
    raise ValueError("must be an array of token ids.")


async def detokenize(body: DetokenizeBody, call: Call) -> Reply:
    models.served_name(body.model, call)
    await models.check_adapter(body.model, call)
    _check_count(len(body.tokens), call, "tokens")
    text = call.model.detokenize(body.tokens, special=not body.skip_special_tokens, param="tokens")
    # vLLM calls it `prompt`, SGLang `text`.
    return Whole(orjson.dumps({"text": text, "prompt": text}))


class TextCountBody(Body):
    input: str
    """The text whose tokens to count, with the special tokens that the tokenizer adds."""


async def count(body: TextCountBody, call: Call) -> Reply:
    (ids,) = await call.model.tokenize([TextPrompt(body.input, "input")])
    return Whole(orjson.dumps({"prompt_tokens": len(ids)}))


def _check_count(tokens: int, call: Call, param: str) -> None:
    """Each token is decoded by itself on the event loop, so their number is bounded."""
    if tokens > call.model.limit:
        raise InvalidRequest(
            f"Invalid value for '{param}': at most {call.model.limit} tokens are decoded at once.",
            param=param,
        )


def _also_at(dialect: Dialect[Any], path: str) -> Dialect[Any]:
    return msgspec.structs.replace(dialect, path=path)


TOKENIZE = Dialect(
    path="/tokenize",
    summary="Token ids of a text or a conversation",
    body=TokenizeBody,
    answer=tokenize,
    example={"prompt": "hello world"},
)
DETOKENIZE = Dialect(
    path="/detokenize",
    summary="The text of token ids",
    body=DetokenizeBody,
    answer=detokenize,
    example={"tokens": [1, 2, 3]},
)
COUNT = Dialect(
    path="/v1/tokens",
    summary="How many tokens a text has",
    body=TextCountBody,
    answer=count,
    example={"input": "hello world"},
)
V1_TOKENIZE = _also_at(TOKENIZE, "/v1/tokenize")
V1_DETOKENIZE = _also_at(DETOKENIZE, "/v1/detokenize")
"""SGLang has them at both paths."""
