"""A command line or a file of `vllm serve`, as settings of this server.

`VLLM_EXTRA_ARGS` wins over what is set where it is, such as the environment, as worker-vllm appends
it last; the environment wins over `VLLM_CONFIG_FILE`, as in vLLM.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Mapping
from typing import Any

from app.errors import ConfigError
from app.settings import files, json_text, vllm
from app.settings.declare import flag_of
from app.settings.spelling import hint
from app.settings.translations import GONE, asks_for_nothing

_SHORT = {
    "-tp": "tensor-parallel-size",
    "-pp": "pipeline-parallel-size",
    "-dp": "data-parallel-size",
    "-q": "quantization",
    "-sc": "speculative-config",
    "-cc": "compilation-config",
    "-ac": "attention-config",
    "-O": "optimization-level",
    "-n": "nnodes",
    "-r": "node-rank",
    "-asc": "api-server-count",
    "-dpb": "data-parallel-backend",
    "-ep": "enable-expert-parallel",
}
_NAMES = {
    "spec-method": "speculative-method",
    "spec-model": "speculative-model",
    "spec-tokens": "num-speculative-tokens",
    "shutdown-timeout": "drain-timeout",
}
"""Flags that mean the same as a setting, and that worker-vllm has no variable for."""
_NUMBER = re.compile(r"-\d")
_TRUTH = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false",
          "false": "false"}  # fmt: skip
"""What a YAML file has for a switch."""


def command_line(text: str, origin: str) -> dict[str, Any]:
    """`--max-model-len 8192 --no-enable-prefix-caching` -> {"max-model-len": "8192", ...}.

    Of a flag that is there twice the last one counts, as for vLLM. Raises ConfigError.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{origin}: {error}") from None
    flags: list[tuple[str, list[str]]] = []
    for word in words:
        name, has_value, value = word.partition("=")
        if (long := _SHORT.get(name)) is not None:
            flags.append((long, [value] if has_value else []))
        elif word.startswith("--"):
            flags.append((name[2:].replace("_", "-"), [value] if has_value else []))
        elif word.startswith("-") and not _NUMBER.match(word):
            raise ConfigError(f"{origin}: {word[:40]!r} is no flag of vllm serve")
        elif not flags:
            raise ConfigError(f"{origin}: {word[:40]!r} stands before the first flag")
        else:
            flags[-1][1].append(word)
    options: dict[str, Any] = {}
    for name, values in flags:
        _add(options, name, values if len(values) > 1 else values[0] if values else "true")
    return options


def _add(options: dict[str, Any], name: str, value: Any) -> None:
    if name.startswith("no-"):
        name, value = name[3:], "false"
    name, *keys = name.split(".")
    name = _NAMES.get(name, name)
    if name == "language-model-only":
        name, value = "images", "false" if value == "true" else "true"
    if not keys:
        options[name] = value
        return
    # `--speculative-config.method ngram` is a part of the flag's JSON.
    whole = inner = _object(options.get(name))
    for key in keys[:-1]:
        inner = inner.setdefault(key.replace("-", "_"), {})
    inner[keys[-1].replace("-", "_")] = _parsed(value)
    options[name] = json.dumps(whole)


def _object(value: Any) -> dict[str, Any]:
    parsed = _parsed(value)
    return parsed if isinstance(parsed, dict) else {}


def _parsed(value: Any) -> Any:
    try:
        return json_text.parsed(value)
    except (TypeError, ValueError):
        return value


def config_file(path: str, origin: str) -> dict[str, Any]:
    """The flags of a YAML file, as `command_line` has them. Raises ConfigError."""
    options: dict[str, Any] = {}
    for key, value in files.read_mapping(files.path_of(path, origin), origin).items():
        switch = _TRUTH.get(value.lower(), value) if isinstance(value, str) else value
        _add(options, key.replace("_", "-"), switch)
    return options


def leftover(options: Mapping[str, Any], ours: Collection[str], origin: str) -> dict[str, str]:
    """Of the flags that are no settings here, `ours`: those without effect, and why.

    Raises ConfigError for one that is refused, or that vLLM does not have.
    """
    idle: dict[str, str] = {}
    for flag, value in options.items():
        if flag in ours:
            continue
        name = flag.upper().replace("-", "_")
        why = vllm.REFUSED.get(name) or vllm.REFUSED_FLAGS.get(flag)
        if why is not None:
            if not asks_for_nothing(name, value):
                raise ConfigError(f"{origin} --{flag} cannot be honoured: {why}; remove it")
        elif (why := GONE.get(name) or vllm.FLAGS_WITHOUT_EFFECT.get(flag)) is not None:
            if not asks_for_nothing(name, value):
                idle[f"--{flag}"] = why
        else:
            raise ConfigError(f"{origin}: vLLM has no flag --{flag[:60]}{_hint(flag, ours)}")
    return idle


def _hint(flag: str, ours: Collection[str]) -> str:
    known = [*ours, *map(flag_of, (*GONE, *vllm.REFUSED)), *vllm.FLAGS_WITHOUT_EFFECT]
    return hint(flag, known, "--{}")
