"""Where the values of the settings come from: layers merged, each value's origin kept.

    command line > environment and *_FILE > DEPLOYMENT_CONFIG_JSON > .env > /run/secrets > --config
        > VLLM_CONFIG_FILE > options of a replaced sglang.launch_server > default

VLLM_EXTRA_ARGS wins over the place where it is set, but not over the command line.

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
from app.settings import (
    checks,
    engine_args,
    json_text,
    rules,
    slips,
    sources,
    translations,
    vllm,
    vllm_options,
)
from app.settings.catalogue import DECLARATIONS, Settings
from app.settings.declare import decoded, flag_of, number
from app.settings.explain import contradiction, explained
from app.settings.secrets import holds_credentials, holds_secret, is_secret

DEPLOYMENT_CONFIG = "DEPLOYMENT_CONFIG_JSON"
DEMO_MODEL = "SmolLM2-135M-Instruct"

_LAUNCH_FIELDS = ("sglang_server_cmd", "sglang_extra_args")
"""What a replaced `sglang.launch_server` was started with."""
_KEYS = {*sources.SECRETS, *_LAUNCH_FIELDS, "vllm_extra_args", "engine_args"}
"""Keys are these, or may stand in them."""

_Layer: TypeAlias = dict[str, tuple[Any, str]]
"""Field -> (value as it was written, origin)."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings and how they came about."""

    settings: Settings
    origins: Mapping[str, str]
    """Field name -> `--flag`, an environment variable, `DEPLOYMENT_CONFIG_JSON key`, or a file and
    the name in it."""
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
    without = {"gcp_key"} if supervised else set[str]()
    files = _files(argv or {}, environ, without)
    layers = [
        *map(_layer_of, files),
        _read_layer(config, "{}", lower=True, where=DEPLOYMENT_CONFIG + " "),
        _with_secret_files(_read_layer(environ, "{}", lower=False), environ, without),
        _read_layer(argv or {}, "--{}", lower=True),
    ]
    file, extra = (_vllm_layer(field, layers) for field in ("vllm_config_file", "vllm_extra_args"))
    set_in = [no for no, layer in enumerate(layers, 1) if "vllm_extra_args" in layer]
    above = min(max(set_in, default=0), len(layers) - 1)
    values, origins = _merged(file.settings, *layers[:above], extra.settings, *layers[above:])
    if supervised:
        values.pop("gcp_key", None)
        origins.pop("gcp_key", None)
    _refuse_places(origins, argv or {}, environ)
    warnings = [each for source in files for each in source.warnings]
    warnings += engine_args.check(values, origins)
    try:
        settings = Settings(**_numbers(values))
    except ValidationError as error:
        raise ConfigError(explained(error, origins)) from None
    checks.refuse(settings, origins, supervised=supervised)
    settings = _with_dependent_defaults(settings, origins)
    changes, more = rules.modernise(dict(settings), origins)
    for field, value in changes.items():
        if value != getattr(settings, field):
            origins.setdefault(field, "another server's setting")
    warnings += more
    warnings += translations.warn_of_gone(environment, sources.names())
    warnings += [f"{each}: no effect ({why})" for part in (file, extra) for each, why in part.idle]
    warnings += _warn_of_shown_keys(values, origins)
    warnings += slips.in_config(config, DEPLOYMENT_CONFIG)
    warnings += slips.in_environment(environ)
    warnings += [line for source in files for line in slips.in_env_file(source)]
    return Loaded(settings.model_copy(update=changes), origins, warnings)


# -- keys --------------------------------------------------------------------------------------


def without_key(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for the serving process: no service account key in it."""
    return _without(("gcp_key",), os.environ if environ is None else environ)


def take_keys(environ: MutableMapping[str, str] | None = None) -> dict[str, str]:
    """Take the keys out of this process's environment, which the engine's processes inherit.

    Returns the variables that held them, as they were. A model's own code may run in the engine;
    HF_TOKEN stays, because the engine fetches models with it, and so do variables of others, such
    as a proxy's.
    """
    environ = os.environ if environ is None else environ
    kept = _without((_KEYS | _with_credentials(environ)) - {"hf_token"}, environ)
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
    kept = _without(_KEYS | _with_credentials(environ), environ)
    return {
        name: value
        for name, value in kept.items()
        if not is_secret(name) and not holds_secret(value)
    }


def _with_credentials(environ: Mapping[str, str]) -> set[str]:
    """Settings whose value has credentials in it, such as the address of a collector."""
    known, config = sources.names(), _deployment_config(environ)
    values = [*environ.items(), *((name.upper(), str(value)) for name, value in config.items())]
    return {known[name].field for name, text in values if name in known and holds_credentials(text)}


def _without(fields: Collection[str], environ: Mapping[str, str]) -> dict[str, str]:
    names = {name for field in fields for name in DECLARATIONS[field].accepted_names}
    if "gcp_key" in fields and len(fields) == 1:
        names |= sources.names_of_files(fields)
    environment = {name: value for name, value in environ.items() if name not in names}
    config = _deployment_config(environment)
    kept = {name: value for name, value in config.items() if name.upper() not in names}
    if kept != config:
        environment[DEPLOYMENT_CONFIG] = json.dumps(kept)
    return environment


def _warn_of_shown_keys(values: Mapping[str, Any], origins: Mapping[str, str]) -> Iterator[str]:
    for field, origin in origins.items():
        declared, text = DECLARATIONS[field], str(values.get(field, ""))
        is_key = declared.is_secret or (field in sources.SECRETS and holds_secret(text))
        if (is_key or holds_credentials(text)) and origin.startswith("--"):
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
        config = json_text.parsed(text)
    except json_text.TooDeep as error:
        raise ConfigError(f"{DEPLOYMENT_CONFIG} {error}") from None
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


def _files(
    argv: Mapping[str, Any], environ: Mapping[str, str], without: Collection[str]
) -> tuple[sources.Source, ...]:
    """What the files of settings set, the weakest first. `without`: fields that are not read."""
    return (
        sources.settings_file(*sources.place("settings_file", argv, environ)),
        sources.secrets(*sources.place("secrets_dir", argv, environ), without),
        sources.env_file(*sources.place("env_file", argv, environ)),
    )


def _refuse_places(
    origins: Mapping[str, str], argv: Mapping[str, Any], environ: Mapping[str, str]
) -> None:
    """Raises ConfigError for one that is set where it is not looked at."""
    for field in sources.PLACES:
        origin = origins.get(field)
        if origin is not None and origin != sources.place(field, argv, environ)[1]:
            raise ConfigError(
                f"{origin} says where settings are read from; set it on the command line or in the "
                "environment"
            )


def _layer_of(source: sources.Source) -> _Layer:
    layer = _read_layer(source.values, "{}", lower=False)
    return {
        field: (value, source.shape.format(source.spelled.get(name, name)))
        for field, (value, name) in layer.items()
    }


def _with_secret_files(
    layer: _Layer, environ: Mapping[str, str], without: Collection[str]
) -> _Layer:
    source = sources.secret_files(environ, without)
    for field, (value, origin) in _layer_of(source).items():
        if field in layer and str(layer[field][0]) != value:
            raise ConfigError(contradiction(layer[field][1], origin))
        layer.setdefault(field, (value, origin))
    return layer


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
                    raise ConfigError(contradiction(layer[field][1], origin))
                layer.setdefault(field, (value, origin))
    return layer


def _merged(*layers: _Layer) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and their origins by field; later layers win."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    layers = (*_launch_layers(layers), *layers)
    engines = [layer["engine"][0] for layer in layers if "engine" in layer]
    if engines[-1:] != ["scripted"]:  # whose options are its own
        layers = tuple(map(engine_args.with_settings, layers))
    for layer in layers:
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
        options_left = {
            name.replace("-", "_"): _number_or_switch(value)
            for name, value in options.items()
            if name not in ours
        }
        if options_left:
            layer["engine_args"] = (options_left, origin)
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
    ours = {flag_of(name) for name in sources.names()} - vllm.FLAGS_WITHOUT_EFFECT.keys()
    idle = vllm_options.leftover(options, ours, origin)
    settings = {flag: value for flag, value in options.items() if flag in ours}
    layer = _read_layer(settings, "--{}", lower=True, where=origin + " ")
    return _VllmFlags(layer, [(f"{origin} {flag}", why) for flag, why in idle.items()])


def _number_or_switch(value: Any) -> Any:
    """A number or a switch if it reads as one. JSON objects stay text: SGLang's options for them
    are text."""
    if isinstance(value, list):
        return [_number_or_switch(each) for each in value]
    try:
        parsed = json_text.parsed(value)
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


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """With `32k` as 32000, where a number is expected."""
    return {
        field: number(value, of_bytes="bytes" in field) if DECLARATIONS[field].is_number else value
        for field, value in values.items()
    }


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
