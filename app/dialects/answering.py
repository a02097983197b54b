"""Answers the body of a request, whether it came over HTTP or in a RunPod job."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Mapping
from typing import Any

from app.dialects.background import Backgrounds
from app.dialects.body import read
from app.dialects.contract import Ask, Call, Dialect, Reply, Resource
from app.dialects.narration import Narration
from app.dialects.sealing import Seal
from app.errors import NotReady
from app.files.files import Files
from app.gate import Gate, Ticket
from app.generation.model import ServedModel
from app.logs.setup import log
from app.settings.bounds import Bounds
from app.settings.catalogue import Settings
from app.stats import RequestStats
from app.store.store import Store

_LONG_BYTES = 200_000
"""To read such a body takes ten milliseconds and more, and what follows as long again."""
_LARGE_BYTES = 2**20
"""Such a body has pictures, and takes up to a tenth of a second: it is read in a thread."""
_LONG_WORD = re.compile(rb"[A-Za-z0-9+/_=-]{1000,}")
"""As pictures are written: not for the log."""


class Answering:
    """Reads bodies and begins their answers, within the settings of one server."""

    def __init__(
        self,
        settings: Settings,
        bounds: Bounds,
        gate: Gate,
        store: Store | None,
        files: Files | None,
    ) -> None:
        self._bounds = bounds
        self._store = store
        self._files = files
        self._background = Backgrounds(gate, store, most=settings.max_background)
        self._seal = Seal.of(settings)
        self._narration = Narration.of(settings)
        self._logs_bodies = settings.log_level == "debug"
        self._logged_bytes = settings.max_log_len
        """None: all."""

    def answer(
        self,
        dialect: Dialect[Any],
        raw: bytes,
        *,
        id: str,
        owner: str,
        model: ServedModel | None,
        ticket: Ticket,
        stats: RequestStats,
        log_fields: dict[str, Any],
    ) -> Awaitable[Reply]:
        """`raw`: the body. `id`, `owner`, `ticket`: as of `Call`. Fills in `stats`, `log_fields`.

        Raises ServeError when called or when awaited.
        """
        if model is None:
            raise NotReady("The model is not ready yet.")
        if self._logs_bodies:
            shown = _LONG_WORD.sub(b"...", raw)[: self._logged_bytes]
            log.debug("request body", body=shown.decode(errors="replace"))
        stats.owner = owner
        call = Call(
            id=id,
            model=model,
            bounds=self._bounds,
            seal=self._seal,
            owner=owner,
            store=self._store,
            files=self._files,
            background=self._background,
            ticket=ticket,
            stats=stats,
            log_fields=log_fields,
            path=dialect.path,
            narration=self._narration,
        )
        if len(raw) >= _LARGE_BYTES:
            return _apart(dialect, raw, call)
        body = read(dialect.body, raw, self._bounds, dialect.path)
        return dialect.answer(body, call) if len(raw) < _LONG_BYTES else _later(dialect, body, call)

    async def look_up(
        self,
        resource: Resource,
        *,
        ids: Mapping[str, str],
        query: Mapping[str, str],
        raw: bytes,
        owner: str,
    ) -> Reply:
        """`ids`, `query`: as of `Ask`. `raw`: the body, b"" if there is none. Raises ServeError."""
        body = None
        if resource.body is not None:
            body = read(resource.body, raw or b"{}", self._bounds, resource.path)
        return await resource.answer(
            Ask(
                ids=ids,
                query=query,
                body=body,
                owner=owner,
                store=self._store,
                files=self._files,
                background=self._background,
            )
        )


async def _apart(dialect: Dialect[Any], raw: bytes, call: Call) -> Reply:
    """Reads the body in a thread, where other requests have their turn in between."""
    body = await asyncio.to_thread(read, dialect.body, raw, call.bounds, dialect.path)
    answer = dialect.answer(body, call)
    del raw, body, call  # as in `Dialect.answer`
    return await answer


async def _later(dialect: Dialect[Any], body: Any, call: Call) -> Reply:
    """Other requests have their turn before."""
    await asyncio.sleep(0)
    answer = dialect.answer(body, call)
    del body, call  # as in `Dialect.answer`
    return await answer
