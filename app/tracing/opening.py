"""Whether there are traces."""

from __future__ import annotations

from app.errors import ConfigError
from app.logs.setup import log
from app.settings.catalogue import Settings
from app.tracing.spans import Tracing


def tracing_of(settings: Settings) -> Tracing | None:
    """None: off. A package that is missing is told, and the server serves without traces: they are
    switched on by variables that platforms set for all that runs there. Raises ConfigError for a
    value that OpenTelemetry refuses."""
    if settings.traces_endpoint is None:
        if settings.collector is not None:
            log.info("there are no traces", reason=f"{settings.traces_switched_off_by} says so")
        return None
    try:
        from app.tracing.otlp import OtlpTracing
    except ImportError as error:
        log.warning("there are no traces: a package is missing", package=error.name)
        return None
    try:
        return OtlpTracing(settings)
    except ValueError as error:  # of its own variables: OTEL_BSP_..., OTEL_SPAN_..., and more
        raise ConfigError(f"OpenTelemetry: {error}") from None
