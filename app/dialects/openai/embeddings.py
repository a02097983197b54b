"""OpenAI embeddings: texts or token ids -> vectors, as floats or base64.

Source: https://platform.openai.com/docs/api-reference/embeddings, read 2026-11. The SDKs ask for
base64 (little-endian float32) unless their caller chooses floats.
"""

from __future__ import annotations

import base64
from array import array
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import Field, PlainValidator, WithJsonSchema

from app.dialects.body import Body, Unsupported
from app.dialects.contract import Call, Dialect, Reply, Whole
from app.dialects.openai import models
from app.dialects.prompts import PROMPTS_SCHEMA, read_prompts
from app.engine.base import Embedding
from app.errors import InvalidRequest, UnsupportedParameter
from app.settings.bounds import Bounds
from app.types import Json, Prompt, TextPrompt

Inputs = Annotated[
    Any, PlainValidator(lambda value: read_prompts(value, "input")), WithJsonSchema(PROMPTS_SCHEMA)
]


class EmbeddingBody(Body):
    unsupported: ClassVar[Unsupported] = {
        "add_special_tokens": (True,),
        "embed_dtype": ("float32",),
        "embed_overrides": (),
        "lora_path": (),
        "messages": (),
        "normalize": (True,),
        "truncate_prompt_tokens": (),
    }

    input: Inputs
    """What to embed: a text, texts, the token ids of one, or lists of those; at most `MAX_INPUTS`.
    One that is longer than the model takes is refused, not cut."""
    model: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """A name from `/v1/models`, `default` or `sglang`. Others are 404, unless the operator takes
    any name. Default: the served model."""
    encoding_format: Literal["float", "base64"] | None = None
    """`float`: arrays of numbers; `base64`: the bytes of little-endian 32-bit floats. Default:
    `float`."""
    dimensions: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Length of the vectors. Another than the full length only for models that were trained for it.
    Default: the full length."""
    user: Annotated[str, Field(max_length=512)] | None = None
    """The client's id of its user. Without effect."""

    @classmethod
    def lengths(cls, bounds: Bounds) -> dict[str, int]:
        return {"input": bounds.max_inputs}


async def answer(body: EmbeddingBody, call: Call) -> Reply:
    info = call.model.info
    model = models.served_name(body.model, call)
    if not info.embeds:
        raise InvalidRequest(
            "This model generates text and gives no embeddings; use /v1/chat/completions.",
            param="model",
        )
    inputs: tuple[Prompt, ...] = body.input
    for each in inputs:
        if isinstance(each, TextPrompt) and not each.text:
            raise InvalidRequest(
                f"Invalid value for '{each.param}': must not be empty.", param=each.param
            )
    dimensions = _dimensions(body.dimensions, call)
    call.log_fields |= {"model": body.model, "inputs": len(inputs)}
    embeddings = await call.model.embed(inputs, id=call.id, dimensions=dimensions)
    tokens = sum(each.prompt_tokens for each in embeddings)
    call.stats.prompt_tokens = tokens
    return Whole(
        orjson.dumps(
            {
                "object": "list",
                "data": [_datum(no, each, body) for no, each in enumerate(embeddings)],
                "model": model,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )
    )


def _dimensions(requested: int | None, call: Call) -> int | None:
    """The length to ask the engine for; None for the vectors' full length."""
    info = call.model.info
    if requested is None or requested == info.embedding_size:
        return None
    if info.dimensions is None:
        raise UnsupportedParameter(
            f"This model's vectors have {info.embedding_size} dimensions; it was not trained to "
            "give shorter ones.",
            param="dimensions",
        )
    too_long = requested > (info.embedding_size or 0)
    if too_long or (info.dimensions and requested not in info.dimensions):
        listed = ", ".join(map(str, info.dimensions)) or f"1 to {info.embedding_size}"
        raise InvalidRequest(
            f"Invalid value for 'dimensions': this model has {listed}.", param="dimensions"
        )
    return requested


def _datum(no: int, embedding: Embedding, body: EmbeddingBody) -> Json:
    vector: list[float] | str = embedding.vector
    if body.encoding_format == "base64":
        vector = base64.b64encode(array("f", embedding.vector).tobytes()).decode()
    return {"object": "embedding", "index": no, "embedding": vector}


EMBEDDINGS = Dialect(
    path="/v1/embeddings",
    summary="Turn texts into vectors",
    body=EmbeddingBody,
    answer=answer,
    example={"input": ["hello world", "hi earth"]},
)
