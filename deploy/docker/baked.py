"""Print, as lines for a shell, the environment that serves the model baked into the image.

    eval "$(python3 -m deploy.docker.baked /models/baked.json "$@")"

The settings decide, under any of their names and from any source: if they name another model, or
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

from app.errors import ConfigError
from app.settings.catalogue import DECLARATIONS, Settings
from app.settings.command_line import add_arguments
from app.settings.load import load

_BUILD_ARGUMENTS = {
    "model_path": "MODEL_NAME",
    "revision": "MODEL_REVISION",
    "tokenizer_path": "TOKENIZER_NAME",
    "tokenizer_revision": "TOKENIZER_REVISION",
}
"""Field -> the build argument that it repeats if it has the same value."""


def main() -> None:
    baked = json.loads(Path(sys.argv[1]).read_text())
    try:
        for line in lines(baked, sys.argv[2:], os.environ):
            print(line)
    except ConfigError:
        return  # the server reports it itself


def lines(
    baked: Mapping[str, Mapping[str, str]], argv: Sequence[str], environ: Mapping[str, str]
) -> list[str]:
    """`unset` and `export` lines. Raises ConfigError."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    add_arguments(parser)
    flags, _ = parser.parse_known_args(list(argv))
    loaded = load(vars(flags), environ)
    arguments, baked_settings = baked["asked"], dict(baked["settings"])
    if loaded.settings.demo:
        return []
    repeated = set()
    for field, argument in _BUILD_ARGUMENTS.items():
        origin, value = loaded.origins.get(field), getattr(loaded.settings, field)
        if origin is None:
            continue
        # A flag would win over the environment that is printed here.
        if not origin.startswith("--") and _same(value, arguments[argument]):
            repeated.add(field)
        elif field in ("model_path", "revision"):
            _report(f"{origin} differs; the model in the image is not used")
            return []
    for name in list(baked_settings):
        if _field(name) in loaded.origins.keys() - repeated:
            del baked_settings[name]
    if not _needs_the_hub(loaded.settings, baked_settings):
        baked_settings |= {
            name: "1" for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if name not in environ
        }
    _report(f"serving {arguments['MODEL_NAME']} from {baked_settings['MODEL_PATH']}")
    repeating = {name for field in repeated for name in DECLARATIONS[field].accepted_names}
    return [f"unset {name}" for name in sorted(repeating & {*environ})] + [
        f"export {name}={shlex.quote(value)}" for name, value in baked_settings.items()
    ]


def _same(value: str | None, argument: str) -> bool:
    """Also if both are left out: then both mean the branch `main`."""
    return (value or "main") == (argument or "main")


def _needs_the_hub(settings: Settings, baked: Mapping[str, str]) -> bool:
    """Another part of the model is loaded by its name on the hub."""
    others = [settings.speculative_model]
    if "TOKENIZER_PATH" not in baked:
        others.append(settings.tokenizer_path)
    return any(other and not Path(other).exists() for other in others)


def _field(name: str) -> str:
    return next(each.field for each in DECLARATIONS.values() if name in each.accepted_names)


def _report(text: str) -> None:
    print(f"baked: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
