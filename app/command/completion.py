"""Tab completion of a shell, made from the flags by shtab.

eval "$(serve-hathora completion bash)"         now
serve-hathora completion zsh > "${fpath[1]}/_serve-hathora"
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Literal, get_args, get_origin

from app.command.flags import MODES, OWN_FLAGS, PROGRAM, WITH_VERDICT
from app.errors import ConfigError
from app.settings.catalogue import Settings
from app.settings.command_line import SHORT, add_arguments
from app.settings.declare import flag_of
from app.settings.sources import names

_SHELLS = ("bash", "zsh")


def show(words: Sequence[str]) -> int:
    if len(words) != 1 or words[0] not in _SHELLS:
        raise ConfigError(f"completion needs a shell: {' or '.join(_SHELLS)}")
    import shtab

    print(shtab.complete(_described(), shell=words[0]))
    return 0


def _described() -> argparse.ArgumentParser:
    """What can be completed: modes, flags, and the words and files that values may be."""
    parser = argparse.ArgumentParser(prog=PROGRAM, allow_abbrev=False)
    _add_settings(parser)
    modes = parser.add_subparsers(dest="mode")
    for mode, text in MODES.items():
        _add_flags(modes.add_parser(mode, help=text, add_help=False, allow_abbrev=False), mode)
    return parser


def _add_flags(parser: argparse.ArgumentParser, mode: str) -> None:
    """What may follow a mode."""
    if mode == "completion":
        parser.add_argument("shell", choices=_SHELLS)
    elif mode == "help":
        parser.add_argument("topic", nargs="?", choices=("all", *MODES))
    elif mode in WITH_VERDICT:
        from app.check import command, load

        for action in (command if mode == "check" else load).parser_of()._actions:
            parser._add_action(action)
    elif mode != "version":
        for flag, text in OWN_FLAGS.get(mode, ()):
            parser.add_argument(flag, action="store_true", help=text)
        _add_settings(parser)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    import shtab

    add_arguments(parser)
    for short, flag in SHORT.items():
        parser.add_argument(short, dest=short, help=f"as {flag}", metavar="VALUE")
    known = {flag_of(name): declared for name, declared in names().items()}
    for action in parser._actions:
        declared = known.get(action.dest)
        if declared is not None and action.help == argparse.SUPPRESS:
            action.help = f"as --{flag_of(declared.names[0])}"
        if declared is not None and (words := _words(declared.field)):
            action.choices = words
        elif action.dest.endswith(("-path", "-file", "-dir", "-folder", "config")):
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def _words(field: str) -> list[str]:
    """The values that a setting takes, if they are few."""
    annotation = Settings.model_fields[field].annotation
    parts = (annotation, *get_args(annotation))
    return [str(word) for part in parts if get_origin(part) is Literal for word in get_args(part)]
