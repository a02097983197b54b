"""Answers the body of a request, whether it came over HTTP or in a RunPod job."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from app.dialects.body import read
from app.dialects.contract import Call, Dialect, Reply
from app.dialects.sealing import Seal
from app.errors import NotReady
from app.generation.model import ServedModel
from app.logs.setup import log
from app.settings.bounds import Bounds
from app.settings.catalogue import Settings
from app.stats import RequestStats


class Answering:
    """Reads bodies and begins their answers, within the settings of one server."""

    def __init__(self, settings: Settings, bounds: Bounds) -> None:
        self._bounds = bounds
        self._seal = Seal.of(settings)
        self._logs_bodies = settings.log_level == "debug"
        self._logged_bytes = settings.max_log_len
        """None: all."""

    def answer(
        self,
        dialect: Dialect[Any],
        raw: bytes,
        *,
        id: str,
        model: ServedModel | None,
        stats: RequestStats,
        log_fields: dict[str, Any],
    ) -> Awaitable[Reply]:
        """`raw`: the body. `id`: as `Call.id`. Fills in `stats` and `log_fields`.

        Raises ServeError when called or when awaited.
        """
        if model is None:
            raise NotReady("The model is not ready yet.")
        body = read(dialect.body, raw, self._bounds, dialect.path)
        if self._logs_bodies:
            log.debug("request body", body=raw[: self._logged_bytes].decode(errors="replace"))
        call = Call(
            id=id,
            model=model,
            bounds=self._bounds,
            seal=self._seal,
            stats=stats,
            log_fields=log_fields,
        )
        return dialect.answer(body, call)
