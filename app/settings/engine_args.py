"""ENGINE_ARGS without what is not the engine's: options of SGLang's own HTTP layer."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from app.errors import ConfigError
from app.settings import sglang_options, sources
from app.settings.declare import decoded
from app.settings.explain import contradiction


def take_http_options(values: dict[str, Any], origins: dict[str, str]) -> list[str]:
    """Take the options of SGLang's own HTTP layer out of ENGINE_ARGS; returns warnings of those
    without effect. What is a setting here becomes that setting. Raises ConfigError."""
    origin = origins.get("engine_args", "")
    if origin.startswith("--"):
        origin = "--engine-arg"
    if not origin or values.get("engine") == "scripted":
        return []
    try:
        options = decoded(values["engine_args"])
    except ValueError:
        return []  # the validation says it
    if not isinstance(options, dict):
        return []
    sglang_options.check(options, origin, _installed())
    for name, value in options.items():
        if (variable := sglang_options.SETTINGS.get(name)) is None:
            continue
        field = sources.names()[variable].field
        written = f"{origin} {name}"
        if str(values.get(field, value)).lower() != str(value).lower():
            raise ConfigError(contradiction(origins[field], written))
        values[field] = value
        origins.setdefault(field, written)
    values["engine_args"] = sglang_options.of_engine(options)
    if not values["engine_args"]:
        del values["engine_args"], origins["engine_args"]
    return list(sglang_options.warnings(options, origin))


def _installed() -> str | None:
    """None: not installed."""
    try:
        return metadata.version("sglang")
    except metadata.PackageNotFoundError:
        return None
