"""Print, as lines for a shell, the environment that serves the model baked into the image.

    eval "$(python3 -m deploy.docker.baked /models/baked.json "$@")"

The settings decide, by whatever name and from wherever they come: if they name another model, or
another revision of it, nothing is printed. If the environment names the baked one, as worker-vllm's
users do (MODEL_NAME is a build argument and a variable there), its folder takes the name's place.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from app.errors import ConfigError
from app.settings import catalogue as settings

# Field -> the build argument that it would repeat.
_REPEATS = {
    "model_path": "MODEL_NAME",
    "revision": "MODEL_REVISION",
    "tokenizer_path": "TOKENIZER_NAME",
    "tokenizer_revision": "TOKENIZER_REVISION",
}


def main() -> None:
    baked = json.loads(Path(sys.argv[1]).read_text())
    try:
        for line in lines(baked, sys.argv[2:], os.environ):
            print(line)
    except ConfigError:
        return  # the server says it itself


def lines(
    baked: Mapping[str, Mapping[str, str]], argv: Sequence[str], environ: Mapping[str, str]
) -> list[str]:
    """`unset` and `export` lines. Raises ConfigError."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    settings.add_arguments(parser)
    given, _ = parser.parse_known_args(list(argv))
    loaded = settings.load(vars(given), environ)
    asked, baked_settings = baked["asked"], dict(baked["settings"])
    if loaded.settings.demo:
        return []
    repeated = set()
    for field, argument in _REPEATS.items():
        origin, value = loaded.origins.get(field), getattr(loaded.settings, field)
        if origin is None:
            continue
        # A flag would win over the environment that is printed here.
        if not origin.startswith("--") and _same(value, asked[argument]):
            repeated.add(field)
        elif field in ("model_path", "revision"):
            _say(f"{origin} says otherwise; the model in the image is not used")
            return []
    for name in list(baked_settings):
        if _field(name) in loaded.origins.keys() - repeated:
            del baked_settings[name]
    if not _needs_the_hub(loaded.settings, baked_settings):
        baked_settings |= {
            name: "1" for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if name not in environ
        }
    _say(f"serving {asked['MODEL_NAME']} from {baked_settings['MODEL_PATH']}")
    gone = sorted({name for field in repeated for name in _names(field)} & {*environ})
    return [f"unset {name}" for name in gone] + [
        f"export {name}={shlex.quote(value)}" for name, value in baked_settings.items()
    ]


def _same(value: str | None, asked: str) -> bool:
    return (value or "main") == (asked or "main")


def _needs_the_hub(chosen: settings.Settings, baked: Mapping[str, str]) -> bool:
    """Something else is loaded by its name on the hub."""
    others = [chosen.speculative_model]
    if "TOKENIZER_PATH" not in baked:
        others.append(chosen.tokenizer_path)
    return any(other and not Path(other).exists() for other in others)


def _field(name: str) -> str:
    return next(field for field in settings.Settings.model_fields if name in _names(field))


def _names(field: str) -> list[str]:
    about = settings.Settings.model_fields[field].json_schema_extra
    assert isinstance(about, dict)
    return [*cast("list[str]", about["names"]), field.upper()]


def _say(text: str) -> None:
    print(f"baked: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
