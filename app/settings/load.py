"""Where the values of the settings come from: layers merged, each value's origin kept.

    command line > VLLM_EXTRA_ARGS > environment > DEPLOYMENT_CONFIG_JSON > VLLM_CONFIG_FILE
        > options of a replaced sglang.launch_server > default

All names of a setting work in all places: `TP_SIZE=2`, `--tp-size 2`, `{"tp_size": 2}`. An empty
value means "not set", unless the declaration says otherwise. Two names of one setting with
different values in one layer stop the start. This is the only place that reads the environment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import ValidationError

from app.errors import ConfigError
from app.settings import checks, rules, translations, vllm, vllm_options
from app.settings.catalogue import DECLARATIONS, Settings
from app.settings.declare import Declaration, decoded, flag_of
from app.settings.secrets import is_secret

DEPLOYMENT_CONFIG = "DEPLOYMENT_CONFIG_JSON"
DEMO_MODEL = "SmolLM2-135M-Instruct"

_LAUNCH_FIELDS = ("sglang_server_cmd", "sglang_extra_args")
"""What a replaced `sglang.launch_server` was started with."""
_COMMAND_LINES = (*_LAUNCH_FIELDS, "vllm_extra_args")
"""Keys may stand in them."""

_Layer: TypeAlias = dict[str, tuple[Any, str]]
"""Field -> (value as it was written, origin)."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings and how they came about."""

    settings: Settings
    origins: Mapping[str, str]
    """Field name -> `--flag`, an environment variable, or `DEPLOYMENT_CONFIG_JSON key`."""
    warnings: Sequence[str]


def load(
    argv: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    supervised: bool = False,
) -> Loaded:
    """Merge the layers and validate.

    `argv`: what `add_arguments` parsed; `environ`: os.environ by default; `supervised`: the
    supervisor has checked the network's settings and keeps the key. Raises ConfigError with one
    line that names the setting, its origin and what is accepted.
    """
    environ = os.environ if environ is None else environ
    config = _deployment_config(environ)
    environment = {**{name.upper(): value for name, value in config.items()}, **environ}
    translations.refuse_gone(environment)
    layers = (
        _read_layer(config, "{}", lower=True, where=DEPLOYMENT_CONFIG + " "),
        _read_layer(environ, "{}", lower=False),
        _read_layer(argv or {}, "--{}", lower=True),
    )
    file, extra = (_vllm_layer(field, layers) for field in ("vllm_config_file", "vllm_extra_args"))
    values, origins = _merged(file.settings, *layers[:-1], extra.settings, layers[-1])
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigError(_explained(error, origins)) from None
    checks.refuse(settings, origins, supervised=supervised)
    settings = _with_dependent_defaults(settings, origins)
    changes, warnings = rules.modernise(dict(settings), origins)
    for field, value in changes.items():
        if value != getattr(settings, field):
            origins.setdefault(field, "another server's setting")
    warnings += translations.warn_of_gone(environment, _names())
    warnings += [f"{each}: no effect ({why})" for part in (file, extra) for each, why in part.idle]
    warnings += _warn_of_shown_keys(origins)
    if unknown := _unknown(config):
        warnings.append(f"{DEPLOYMENT_CONFIG}: nothing here is called {', '.join(unknown)}")
    return Loaded(settings.model_copy(update=changes), origins, warnings)


# -- keys --------------------------------------------------------------------------------------


def without_key(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for the serving process: no service account key in it."""
    return _without(("gcp_key",), os.environ if environ is None else environ)


def take_keys(environ: MutableMapping[str, str] | None = None) -> dict[str, str]:
    """Take the keys out of this process's environment, which the engine's processes inherit.

    Returns the variables that held them, as they were. A model's own code may run in the engine;
    HF_TOKEN stays, because the engine fetches models with it.
    """
    environ = os.environ if environ is None else environ
    fields = {each.field for each in DECLARATIONS.values() if each.is_secret} - {"hf_token"}
    kept = _without(fields | {*_COMMAND_LINES}, environ)
    taken = {name: value for name, value in environ.items() if kept.get(name) != value}
    for name in taken:
        del environ[name]
        if name in kept:
            environ[name] = kept[name]
    return taken


def with_keys(taken: Mapping[str, str], environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a process that reads the settings again: what `take_keys` took is back
    in it."""
    return {**(os.environ if environ is None else environ), **taken}


def without_secrets(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a process that needs no secret."""
    environ = os.environ if environ is None else environ
    return {name: value for name, value in environ.items() if not is_secret(name)}


def _without(fields: Collection[str], environ: Mapping[str, str]) -> dict[str, str]:
    names = {name for field in fields for name in DECLARATIONS[field].accepted_names}
    environment = {name: value for name, value in environ.items() if name not in names}
    config = _deployment_config(environment)
    kept = {name: value for name, value in config.items() if name.upper() not in names}
    if kept != config:
        environment[DEPLOYMENT_CONFIG] = json.dumps(kept)
    return environment


def _warn_of_shown_keys(origins: Mapping[str, str]) -> Iterator[str]:
    for field, origin in origins.items():
        declared = DECLARATIONS[field]
        if declared.is_secret and origin.startswith("--"):
            yield (
                f"{origin}: every user of this machine can read it (ps); set the variable "
                f"{declared.names[0]} instead"
            )


# -- layers ------------------------------------------------------------------------------------


def _deployment_config(environ: Mapping[str, str]) -> dict[str, Any]:
    text = environ.get(DEPLOYMENT_CONFIG, "").strip()
    if not text:
        return {}
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{DEPLOYMENT_CONFIG} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{DEPLOYMENT_CONFIG} must be a JSON object")
    values: dict[str, Any] = {}
    for key, value in config.items():
        # `TP_SIZE`, `tp_size` and `tp-size` are the same name.
        name = key.lower().replace("-", "_")
        if name in values:
            raise ConfigError(f"{DEPLOYMENT_CONFIG} has {name} twice; keep one")
        if value is not None:
            values[name] = value
    return values


def _read_layer(source: Mapping[str, Any], shape: str, *, lower: bool, where: str = "") -> _Layer:
    """The fields that the source sets under any of their names.

    `shape` and `where` make an origin of a name; `lower`: names are written in lower case, with
    `_` or `-`.
    """
    layer: _Layer = {}
    for field, declared in DECLARATIONS.items():
        for name in declared.accepted_names:
            spellings = (name.lower(), flag_of(name)) if lower else (name,)
            for key in dict.fromkeys(spellings):
                value = source.get(key)
                if value is None or (value == "" and not declared.empty_is_a_value):
                    continue
                origin = where + shape.format(key)
                if field in layer and str(layer[field][0]) != str(value):
                    raise ConfigError(
                        f"{layer[field][1]} and {origin} are the same setting with different "
                        "values; keep one"
                    )
                layer.setdefault(field, (value, origin))
    return layer


def _merged(*layers: _Layer) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and their origins by field; later layers win."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in (*_launch_layers(layers), *layers):
        for field, (value, origin) in layer.items():
            if field == "engine_args" and field in values:
                value = _merged_options(values[field], value)
            values[field], origins[field] = value, origin
    return values, origins


def _launch_layers(layers: Sequence[_Layer]) -> list[_Layer]:
    """What a replaced `sglang.launch_server` was started with; every other layer wins over it."""
    launch_layers = []
    for field in _LAUNCH_FIELDS:
        settings = [layer[field] for layer in layers if field in layer]
        if not settings:
            continue
        text, origin = settings[-1]
        options = translations.launch_options(str(text), origin)
        layer = _read_layer(options, "--{}", lower=True, where=origin + " ")
        ours = {flag_of(name) for field in layer for name in DECLARATIONS[field].accepted_names}
        engine_args = {
            name.replace("-", "_"): _number_or_switch(value)
            for name, value in options.items()
            if name not in ours
        }
        if engine_args:
            layer["engine_args"] = (engine_args, origin)
        launch_layers.append(layer)
    return launch_layers


@dataclass(frozen=True, slots=True)
class _VllmFlags:
    """A command line or a file of `vllm serve`."""

    settings: _Layer
    idle: Sequence[tuple[str, str]] = ()
    """(flags without effect, why)"""


def _vllm_layer(field: str, layers: Sequence[_Layer]) -> _VllmFlags:
    set_in = [layer[field] for layer in layers if field in layer]
    if not set_in:
        return _VllmFlags({})
    text, origin = set_in[-1]
    read = vllm_options.config_file if field == "vllm_config_file" else vllm_options.command_line
    options = read(str(text), origin)
    ours = {flag_of(name) for name in _names()} - vllm.FLAGS_WITHOUT_EFFECT.keys()
    idle = vllm_options.leftover(options, ours, origin)
    settings = {flag: value for flag, value in options.items() if flag in ours}
    layer = _read_layer(settings, "--{}", lower=True, where=origin + " ")
    return _VllmFlags(layer, [(f"{origin} {flag}", why) for flag, why in idle.items()])


def _names() -> dict[str, Declaration]:
    return {name: each for each in DECLARATIONS.values() for name in each.accepted_names}


def _number_or_switch(value: Any) -> Any:
    """A number or a switch if it reads as one. JSON objects stay text: SGLang's options for them
    are text."""
    if isinstance(value, list):
        return [_number_or_switch(each) for each in value]
    try:
        parsed = json.loads(value)
    except ValueError:
        return value
    return value if isinstance(parsed, dict | list) else parsed


def _merged_options(below: object, above: object) -> object:
    try:
        merged = [decoded(options) for options in (below, above)]
    except ValueError as error:
        raise ConfigError(f"ENGINE_ARGS: {error}") from None
    return {k: v for options in merged if isinstance(options, dict) for k, v in options.items()}


# -- after the merge ---------------------------------------------------------------------------


def _with_dependent_defaults(settings: Settings, origins: dict[str, str]) -> Settings:
    """The defaults that depend on other settings."""
    if settings.demo:
        settings = settings.model_copy(update={"model_path": DEMO_MODEL})
    if settings.engine == "scripted" and "model_path" not in origins:
        settings = settings.model_copy(update={"model_path": "scripted"})
    if settings.hathora_default_port is not None and "port" not in origins:
        settings = settings.model_copy(update={"port": settings.hathora_default_port})
        origins["port"] = origins["hathora_default_port"]
    return settings


def _explained(error: ValidationError, origins: Mapping[str, str]) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    field = str(first["loc"][0])
    return f"{origins.get(field, field)}: {message[0].lower()}{message[1:]}"


def _unknown(config: Mapping[str, Any]) -> list[str]:
    known = {*_names(), *translations.GONE, *vllm.REFUSED}
    return sorted(key for key in config if key.upper().replace("-", "_") not in known)
