"""OpenAI's list of models: one card for each name of the one model.

Source: https://platform.openai.com/docs/api-reference/models, read 2026-11; `max_model_len` as
SGLang and vLLM have it.
"""

from __future__ import annotations

import time

from app.errors import ModelNotFound, NotReady
from app.generation.model import ServedModel
from app.lifecycle import Lifecycle, Phase
from app.types import Json


def listed(model: ServedModel | None, lifecycle: Lifecycle) -> Json:
    """The body of `/v1/models`. Raises Unavailable."""
    return {"object": "list", "data": cards(model, lifecycle)}


def card(name: str, model: ServedModel | None, lifecycle: Lifecycle) -> Json:
    """The body of `/v1/models/{name}`. Raises ModelNotFound, Unavailable."""
    for each in cards(model, lifecycle):
        # A local folder as a name: its leading slash is lost among those of the path.
        if each["id"].lstrip("/") == name.lstrip("/"):
            return each
    raise ModelNotFound(f"The model `{name[:100]}` does not exist here.", param="model")


def cards(model: ServedModel | None, lifecycle: Lifecycle) -> list[Json]:
    """Not before the model is ready: routers and benchmarks take a 200 here for readiness."""
    if model is None or lifecycle.phase not in (Phase.READY, Phase.LEAVING):
        raise lifecycle.refusal() or NotReady("The model is not ready yet.")
    created = int(time.time() - lifecycle.uptime_s)
    return [
        {
            "id": name, "object": "model", "created": created, "owned_by": "sglang",
            "root": model.names[0], "parent": None, "max_model_len": model.limit,
        }
        for name in model.names
    ]  # fmt: skip
