"""Tab completion of a shell, made from the flags by shtab.

eval "$(serve-hathora completion bash)"         now
serve-hathora completion zsh > "${fpath[1]}/_serve-hathora"
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from app.command.flags import MODES, PROGRAM
from app.errors import ConfigError
from app.settings.command_line import SHORT, add_arguments

_SHELLS = ("bash", "zsh")


def show(words: Sequence[str]) -> int:
    if len(words) != 1 or words[0] not in _SHELLS:
        raise ConfigError(f"completion needs a shell: {' or '.join(_SHELLS)}")
    import shtab

    print(shtab.complete(_described(), shell=words[0]))
    return 0


def _described() -> argparse.ArgumentParser:
    """What can be completed: modes, flags, and the words and files that values may be."""
    import shtab

    parser = argparse.ArgumentParser(prog=PROGRAM, allow_abbrev=False)
    add_arguments(parser)
    for short, flag in SHORT.items():
        parser.add_argument(short, dest=short, help=f"as {flag}", metavar="VALUE")
    parser.add_argument("mode", nargs="?", choices=list(MODES))
    for action in parser._actions:
        words = action.option_strings
        if any(word.endswith(("-path", "-file", "-dir", "-folder", "--config")) for word in words):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return parser
