"""The composition root: command line and environment -> Settings -> one role of this process.

    main ─> which mode ─> serve, runpod           roles.py: a process that serves
                        ├ settings, openapi, ...  prints something, and ends
                        └ check, bench            asks a running server

What is wrong with the command line or a setting is one line on stderr, and exit code 78.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from app import signals
from app.command import roles
from app.command.flags import MODES, WITH_VERDICT, parser_of
from app.errors import StartError
from app.settings.command_line import Parser, mode_of, read
from app.settings.load import load

_HELP = {"-h", "--help"}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        sys.exit(_run(words))
    except StartError as error:
        print(f"serve_hathora: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _run(words: Sequence[str]) -> int:
    """Returns the exit code of a mode that ends by itself; those that serve do not return."""
    parser = parser_of()
    line = mode_of(words, MODES, parser)
    mode, rest = line.mode or "serve", line.rest
    code = None
    try:
        code = _printed(mode, rest, parser)
        if code is not None:
            print(end="", flush=True)
    except BrokenPipeError:
        from app.check.output import to_nobody

        to_nobody()
        if code is None:  # `settings | head`: its reader has what it wanted, but of no verdict
            code = int(mode in WITH_VERDICT)
    if code is not None:
        return code
    return _serve(mode, rest, read(rest, parser_of(mode, parser), MODES))


def _printed(mode: str, rest: list[str], parser: Parser) -> int | None:
    """The exit code of a mode that prints something and ends; None for one that serves."""
    if mode in WITH_VERDICT:
        return _verdict(mode, rest)
    if mode == "help" or _asks_for_help(rest):
        from app.command import help as pages

        if mode == "help":
            topics = [word for word in rest if word not in _HELP]
            return pages.show(topics or [mode])
        # Words before it are a command line's, of a model that may be called as a setting is.
        topics = rest[min(map(rest.index, _HELP.intersection(rest))) + 1 :]
        return pages.show(topics if topics and pages.is_topic(topics) else [mode])
    if mode == "completion" or "--print-completion" in rest:
        from app.command import completion

        return completion.show([word for word in rest if word != "--print-completion"])
    if mode == "version" or "--version" in rest:
        from app.version import version

        print(version())
        return 0
    if mode in ("settings", "openapi"):
        from app.command import show

        parser_of(mode, parser)
        flags = read(rest, parser, MODES)
        return show.settings(flags) if mode == "settings" else show.openapi(flags)
    return None


def _verdict(mode: str, rest: list[str]) -> int:
    if mode == "check":
        from app.check.command import main as ask
    else:
        from app.check.load import main as ask
    try:
        return ask(rest)
    except SystemExit as ended:  # argparse has printed its help; the pipe may be broken here, too
        return int(ended.code or 0)


def _asks_for_help(words: Sequence[str]) -> bool:
    return not _HELP.isdisjoint(words)


def _serve(mode: str, words: Sequence[str], flags: dict[str, object]) -> NoReturn:
    """`words`: without the mode, for the processes that this one starts."""
    link_fd, process = flags.pop("link_fd", None), flags.pop("process", None)
    is_child = link_fd is not None or process is not None
    if process is None:
        signals.end_at_once(lambda: os._exit(0))
    loaded = load(flags, supervised=is_child)
    if mode == "runpod":
        roles.runpod(loaded)
    if process is not None:
        roles.serving_process(loaded, str(process))
    if loaded.settings.networked and not is_child:
        roles.supervisor(loaded, words)
    roles.server(loaded, words, link_fd if isinstance(link_fd, int) else None)
