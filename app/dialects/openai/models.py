"""The names of the one model: the name that a request is answered under, and OpenAI's list.

Source: https://platform.openai.com/docs/api-reference/models, read 2026-11; `max_model_len` as
in SGLang and vLLM.
"""

from __future__ import annotations

import time

from app.dialects.contract import Call
from app.errors import InvalidRequest, ModelNotFound, NotReady
from app.generation.model import ServedModel
from app.lifecycle import Lifecycle, Phase
from app.settings.catalogue import GENERIC_NAMES
from app.types import Json


def served_name(requested: str | None, call: Call) -> str:
    """The name to answer under. Raises ModelNotFound if the requested one is not served."""
    if requested is None:
        return call.model.names[0]
    call.model.check_name(requested)
    if requested in call.model.names:
        return requested
    if requested in GENERIC_NAMES or not call.model.has_adapter(requested):
        return call.model.names[0]
    return requested


def generator_name(requested: str | None, call: Call) -> str:
    """The same for a request that generates text. Raises InvalidRequest if the model does not."""
    name = served_name(requested, call)
    if name not in call.model.names:
        call.adapter = name
    if call.model.info.embeds:
        raise InvalidRequest(
            "This model gives embeddings and generates no text; use /v1/embeddings.", param="model"
        )
    return name


async def check_adapter(requested: str | None, call: Call) -> None:
    """For a request that counts or translates tokens: an adapter's are the model's. Raises
    ModelNotFound."""
    if requested is not None and call.model.has_adapter(requested):
        await call.model.find_adapter(requested)


def choose_adapter(name: str, call: Call, *, param: str) -> None:
    """For a request that names the adapter beside the model. Raises ModelNotFound."""
    if not call.model.has_adapter(name):
        raise ModelNotFound(f"No adapter `{name[:100]}` is loaded here.", param=param)
    call.adapter = name


async def listed(model: ServedModel | None, lifecycle: Lifecycle) -> Json:
    """The body of `/v1/models`. Raises Unavailable."""
    return {"object": "list", "data": await cards(model, lifecycle)}


async def card(name: str, model: ServedModel | None, lifecycle: Lifecycle) -> Json:
    """The body of `/v1/models/{name}`. Raises ModelNotFound, Unavailable."""
    for each in await cards(model, lifecycle):
        # If the name is a local folder, its leading slash is lost among the slashes of the path.
        if each["id"].lstrip("/") == name.lstrip("/"):
            return each
    raise ModelNotFound(f"The model `{name[:100]}` does not exist here.", param="model")


async def cards(model: ServedModel | None, lifecycle: Lifecycle) -> list[Json]:
    """The model under each of its names, then its adapters.

    Raises Unavailable before the model is ready: routers and benchmarks take a 200 here for
    readiness."""
    refusal = lifecycle.refusal()
    if model is None or refusal or lifecycle.phase not in (Phase.READY, Phase.LEAVING):
        raise refusal or NotReady("The model is not ready yet.")
    created = int(time.time() - lifecycle.uptime_s)
    parents: dict[str, str | None] = dict.fromkeys(model.names)
    if model.adapters is not None:
        parents |= dict.fromkeys(await model.adapters.names(), model.names[0])
    return [
        {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "sglang",
            "root": model.names[0],
            "parent": parent,
            "max_model_len": model.limit,
            "context_length": model.limit,
        }
        for name, parent in parents.items()
    ]
