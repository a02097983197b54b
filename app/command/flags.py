"""The modes, and the command line's parser with the flags that a mode has beside the settings."""

from __future__ import annotations

import argparse

from app.settings.command_line import Parser, add_arguments

PROGRAM = "serve-hathora"
"""The console script of an installed package; from a checkout it is `python serve_hathora.py`."""
MODES: dict[str, str] = {
    "serve": "serve the model (the default)",
    "runpod": "take jobs as a RunPod serverless worker",
    "check": "ask a running server what its clients ask of it",
    "bench": "measure how fast a running server answers",
    "settings": "print what is in force, and where each value came from",
    "openapi": "print the description of the API, as JSON",
    "completion": "print the tab completion of a shell: bash or zsh",
    "version": "print the release, the commit and SGLang's release",
    "help": "print this; `help all`, or the name of a section, mode or setting",
}
WITH_VERDICT = ("check", "bench")
"""Their exit code says how a running server did, whether or not somebody reads what they print."""
OWN_FLAGS: dict[str, tuple[tuple[str, str], ...]] = {
    "settings": (
        ("--set", "only what is not the default"),
        ("--json", "as JSON"),
        ("--markdown", "docs/settings.md: every setting, as Markdown"),
    ),
}
"""Of a mode, beside those of the settings."""


def parser_of(mode: str | None = None, parser: Parser | None = None) -> Parser:
    """The settings' flags; with a mode, its own ones are added."""
    if parser is None:
        parser = Parser(prog=PROGRAM, add_help=False)
        add_arguments(parser)
        parser.add_argument("-h", "--help", action="store_true", help="show the first screen")
        parser.add_argument("--version", action="store_true", help="release and commit")
    add = parser.add_argument
    for flag, text in OWN_FLAGS.get(mode or "", ()):
        add(flag, action="store_true", help=text)
    if mode == "serve":
        add("--link-fd", type=int, help=argparse.SUPPRESS)  # the supervisor's
        add("--process", help=argparse.SUPPRESS)  # the parent's: number:channel:port
    return parser
