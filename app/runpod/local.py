"""Answers jobs by the engine of this process, with the same dialects as over HTTP."""

from __future__ import annotations

from typing import Any

import orjson

from app.dialects.answering import Answering
from app.dialects.contract import Dialect, Reply, Resource, Whole
from app.dialects.openai import models
from app.dialects.routes import DIALECTS, methods_of, resource_at, route_of
from app.dialects.vllm import batch_output
from app.errors import MethodNotAllowed, RouteNotFound
from app.files.files import Files
from app.gate import Gate, Ticket
from app.life.host import ModelHost
from app.lifecycle import Lifecycle, Phase
from app.runpod.backend import JobRequest, JobStats, OutputForm
from app.runpod.jobs import HEALTH, MODELS
from app.settings.bounds import Bounds
from app.settings.catalogue import Settings
from app.store.store import Store
from app.types import Json

_DIALECTS: dict[tuple[str, OutputForm], Dialect[Any]] = {
    **{(dialect.path, OutputForm.OPENAI): dialect for dialect in DIALECTS},
    **{(dialect.path, OutputForm.VLLM): dialect for dialect in batch_output.DIALECTS},
}


class LocalBackend:
    def __init__(
        self,
        settings: Settings,
        lifecycle: Lifecycle,
        gate: Gate,
        host: ModelHost,
        store: Store | None,
        files: Files | None,
    ) -> None:
        self._settings = settings
        self._lifecycle, self._gate, self._host = lifecycle, gate, host
        self._answering = Answering(settings, Bounds.of(settings), gate, store, files)

    def route_label(self, route: str) -> str:
        if route.startswith(MODELS + "/"):
            return MODELS + "/{model}"
        if methods_of(route):
            return route_of(route)
        known = (route, OutputForm.OPENAI) in _DIALECTS or route in (MODELS, HEALTH)
        return route if known else "unmatched"

    async def answer(self, request: JobRequest, stats: JobStats, ticket: Ticket) -> Reply:
        route, method = request.route, request.method
        if (dialect := _DIALECTS.get((route, request.form))) is not None:
            if method != "POST":
                raise MethodNotAllowed(f"{route} does not answer {method}.")
            answer = self._answering.answer(
                dialect,
                request.body,
                id=stats.id,
                owner="",  # the platform has authenticated the caller, and does not say whom
                ticket=ticket,
                model=self._host.model,
                stats=stats.request,
                log_fields=stats.log_fields,
            )
            del request  # megabytes that are not needed while the engine answers
            return await answer
        if (resource := resource_at(method, route)) is not None:
            return await self._look_up_kept(*resource, request.body)
        if methods_of(route):
            raise MethodNotAllowed(f"{route[:100]} does not answer {method}.")
        if (content := await self._look_up(route)) is None:
            raise RouteNotFound(f"There is no {method} {route[:100]} here.")
        if method != "GET":
            raise MethodNotAllowed(f"{route[:100]} does not answer {method}.")
        return Whole(orjson.dumps(content))

    async def _look_up_kept(self, resource: Resource, ids: dict[str, str], raw: bytes) -> Reply:
        """The parameters of a query are the fields of the job's body."""
        query = {} if resource.body is not None else orjson.loads(raw or b"{}")
        return await self._answering.look_up(
            resource,
            ids=ids,
            query={name: _parameter(value) for name, value in query.items() if value is not None},
            raw=raw,
            owner="",
        )

    async def _look_up(self, route: str) -> Json | None:
        if route == MODELS:
            return await models.listed(self._host.model, self._lifecycle)
        if route.startswith(MODELS + "/"):
            name = route.removeprefix(MODELS + "/")
            return await models.card(name, self._host.model, self._lifecycle)
        return self._health() if route == HEALTH else None

    def _health(self) -> Json:
        phase = self._lifecycle.phase
        return {
            "status": "ok" if phase is Phase.READY else str(phase),
            "phase": str(phase),
            "model_path": self._settings.model_path,
            "uptime_s": round(self._lifecycle.uptime_s, 1),
            "in_flight": self._gate.in_flight,
        }


def _parameter(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
