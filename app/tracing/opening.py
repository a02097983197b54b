"""Whether there are traces."""

from __future__ import annotations

from app.logs.setup import log
from app.settings.catalogue import Settings
from app.tracing.spans import Tracing


def tracing_of(settings: Settings) -> Tracing | None:
    """None: off. A package that is missing is told, and the server serves without traces: they are
    switched on by variables that platforms set for all that runs there."""
    if settings.traces_endpoint is None:
        return None
    try:
        from app.tracing.otlp import OtlpTracing
    except ImportError as error:
        log.warning("there are no traces: a package is missing", package=error.name)
        return None
    return OtlpTracing(settings)
