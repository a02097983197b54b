"""OpenAI embeddings: texts or token ids -> vectors, as floats or base64.

Source: https://platform.openai.com/docs/api-reference/embeddings, read 2026-11. The SDKs ask for
base64 (little-endian float32) unless told otherwise.
"""

from __future__ import annotations

import base64
from array import array
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import Field, PlainValidator, WithJsonSchema

from app.dialects.body import Body
from app.dialects.contract import Call, Dialect, Reply, Whole
from app.dialects.openai import sampling as fields
from app.dialects.prompts import PROMPTS_SCHEMA, read_prompts
from app.engine.base import Embedding
from app.errors import InvalidRequest, UnsupportedParameter
from app.settings.bounds import Bounds
from app.types import Json, Prompt, TextPrompt

Inputs = Annotated[
    Any, PlainValidator(lambda value: read_prompts(value, "input")), WithJsonSchema(PROMPTS_SCHEMA)
]


class EmbeddingBody(Body):
    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {
        "truncate_prompt_tokens": (), "messages": (), "lora_path": (), "embed_overrides": (),
        "normalize": (True,), "embed_dtype": ("float32",), "add_special_tokens": (True,),
    }  # fmt: skip

    input: Inputs
    model: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    user: str | None = None

    @classmethod
    def lengths(cls, bounds: Bounds) -> dict[str, int]:
        return {"input": bounds.max_inputs}


async def answer(body: EmbeddingBody, call: Call) -> Reply:
    info = call.model.info
    model = fields.served_name(body.model, call)
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
    found = await call.model.embed(inputs, id=call.id, dimensions=dimensions)
    tokens = sum(each.prompt_tokens for each in found)
    call.stats.prompt_tokens = tokens
    return Whole(
        orjson.dumps(
            {
                "object": "list",
                "data": [_datum(no, each, body) for no, each in enumerate(found)],
                "model": model,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )
    )


def _dimensions(wanted: int | None, call: Call) -> int | None:
    """What the engine is to be told; None for the vectors' full length."""
    info = call.model.info
    if wanted is None or wanted == info.embedding_size:
        return None
    if info.dimensions is None:
        raise UnsupportedParameter(
            f"This model's vectors have {info.embedding_size} dimensions; it was not trained to "
            "give shorter ones.",
            param="dimensions",
        )
    if wanted > (info.embedding_size or 0) or (info.dimensions and wanted not in info.dimensions):
        listed = ", ".join(map(str, info.dimensions)) or f"1 to {info.embedding_size}"
        raise InvalidRequest(
            f"Invalid value for 'dimensions': this model has {listed}.", param="dimensions"
        )
    return wanted


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
