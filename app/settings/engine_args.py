"""ENGINE_ARGS without what is not the engine's: options of SGLang's own HTTP layer."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

from pydantic import TypeAdapter, ValidationError

from app.errors import ConfigError
from app.settings import sglang_options, sources
from app.settings.catalogue import Settings
from app.settings.declare import decoded
from app.settings.explain import contradiction


def with_settings(layer: Mapping[str, tuple[Any, str]]) -> dict[str, tuple[Any, str]]:
    """A layer in which options of its ENGINE_ARGS that are a setting here are that setting.

    Raises ConfigError if the layer has the setting with another value, too.
    """
    value, origin = layer.get("engine_args", (None, ""))
    try:
        options = decoded(value)
    except ValueError:
        return dict(layer)  # the validation says it
    if not isinstance(options, dict):
        return dict(layer)
    with_them = dict(layer)
    for name in options.keys() & sglang_options.SETTINGS.keys():
        field = sources.names()[sglang_options.SETTINGS[name]].field
        if (option := options[name]) in (None, ""):
            continue
        written = f"{_written(origin)} {name}"
        if field in layer and not _means_the_same(field, layer[field][0], option):
            raise ConfigError(contradiction(layer[field][1], written))
        with_them.setdefault(field, (option, written))
    left = {k: v for k, v in options.items() if k not in sglang_options.SETTINGS}
    with_them["engine_args"] = (left, origin)
    if not left:
        del with_them["engine_args"]
    return with_them


def _means_the_same(field: str, one: object, other: object) -> bool:
    """As the setting reads them: `1` is `true`."""
    reader = TypeAdapter[object](Settings.model_fields[field].rebuild_annotation())
    try:
        return reader.validate_python(one) == reader.validate_python(other)
    except ValidationError:
        return str(one) == str(other)


def check(values: dict[str, Any], origins: dict[str, str]) -> list[str]:
    """Leave in ENGINE_ARGS what the engine reads; returns warnings of options without effect.

    Raises ConfigError for one that SGLang does not have, or that cannot be honoured.
    """
    origin = _written(origins.get("engine_args", ""))
    if not origin or values.get("engine") == "scripted":
        return []
    try:
        options = decoded(values["engine_args"])
    except ValueError:
        return []  # the validation says it
    if not isinstance(options, dict):
        return []
    sglang_options.check(options, origin, _installed())
    values["engine_args"] = sglang_options.of_engine(options)
    if not values["engine_args"]:
        del values["engine_args"], origins["engine_args"]
    return list(sglang_options.warnings(options, origin))


def _written(origin: str) -> str:
    return "--engine-arg" if origin.startswith("--") else origin


def _installed() -> str | None:
    """None: not installed."""
    try:
        return metadata.version("sglang")
    except metadata.PackageNotFoundError:
        return None
