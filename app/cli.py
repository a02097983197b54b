"""The composition root: command line and environment -> Settings -> one of the program's modes.

serve_hathora.py [serve]   the server (the default)
serve_hathora.py settings  what is in force, and where each value came from
serve_hathora.py runpod    a RunPod serverless worker
serve_hathora.py check     ask a running server, print what was seen
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from app import __version__
from app.errors import StartError
from app.settings import catalogue as settings
from app.settings.catalogue import Loaded

_MODES = ("serve", "runpod", "settings", "check")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    arguments = list(sys.argv[1:] if argv is None else argv)
    mode = arguments.pop(0) if arguments[:1] and arguments[0] in _MODES else "serve"
    if mode == "check":
        from app.check.command import main as check

        sys.exit(check(arguments))
    parser = _parser(mode)
    given = vars(parser.parse_args(arguments))
    try:
        if mode == "settings":
            sys.exit(_show_settings(given))
        link_fd, process = given.pop("link_fd", None), given.pop("process", None)
        loaded = settings.load(given, supervised=link_fd is not None or process is not None)
        if process is not None:
            _serve_with_others(loaded, process)
        if mode == "serve" and link_fd is None and loaded.settings.networked:
            _supervise(loaded, arguments)
        _serve(loaded, mode, arguments, link_fd)
    except StartError as error:
        print(f"serve_hathora: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _parser(mode: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="serve_hathora.py",
        description="Serve a language model with SGLang behind OpenAI's API. "
        f"Modes: {', '.join(_MODES)} (default: serve).",
        epilog="Every flag is also an environment variable, in brackets; see docs/settings.md.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    if mode == "settings":
        parser.add_argument("--markdown", action="store_true", help="docs/settings.md")
    if mode == "serve":
        parser.add_argument("--link-fd", type=int, help=argparse.SUPPRESS)  # the supervisor's
        parser.add_argument("--process", help=argparse.SUPPRESS)  # the parent's: number:line:port
    settings.add_arguments(parser)
    return parser


def _supervise(loaded: Loaded, arguments: Sequence[str]) -> NoReturn:
    from app.hathora import supervisor

    code = supervisor.run(loaded, arguments)
    # A call to Google that does not return is nothing to wait for.
    os._exit(code)


def _serve(loaded: Loaded, mode: str, arguments: Sequence[str], link_fd: int | None) -> NoReturn:
    from app.engine import environment
    from app.logs import setup as logs

    chosen = loaded.settings
    several = chosen.tokenizer_workers > 1 and mode == "serve" and chosen.node_rank == 0
    if not several:
        chosen = chosen.model_copy(update={"tokenizer_workers": 1})
    # Of several processes the first rotates the log file: this one has little to write.
    logs.configure(chosen, rotates=not several)
    for warning in loaded.warnings:
        logs.log.warning(warning)
    if mode == "runpod" and chosen.networked:
        logs.log.warning("no network endpoint is registered: RunPod brings the jobs")
    if mode == "runpod" and loaded.settings.tokenizer_workers > 1:
        logs.log.warning("TOKENIZER_WORKERS: no effect (one process takes the jobs)")
    runtime = environment.prepare(chosen)

    async def launch(loading: Any) -> Any:
        from app.engine import backends

        return await backends.launch(chosen, runtime, loading)

    def run() -> int:
        if mode == "runpod":
            from app.runpod import worker

            return worker.run(chosen, launch, runtime.remove)
        from app.life.control import LocalControl
        from app.web import server

        if several:
            from app.workers import parent

            listeners = server.bind_several(chosen, chosen.tokenizer_workers)
            return parent.run(chosen, listeners, arguments, launch, runtime, link_fd)
        listener = server.bind(chosen)
        control = LocalControl(chosen, runtime.remove, link_fd)
        return server.run(chosen, listener, launch, runtime.remove, control)

    _to_the_end(run, runtime.remove)


def _serve_with_others(loaded: Loaded, process: str) -> NoReturn:
    """Be one of several serving processes, as the parent says; it has warned of the settings."""
    from app.engine import environment
    from app.logs import setup as logs

    no, line_fd, port_fd = map(int, process.split(":"))
    logs.configure(loaded.settings, rotates=no == 0, process=no)
    runtime = environment.join()

    def run() -> int:
        import socket

        from app.web import server
        from app.workers.child import WorkerControl

        control = WorkerControl(no, loaded.settings.tokenizer_workers, line_fd, runtime)

        async def launch(loading: Any) -> Any:
            from app.engine import backends

            await control.loading.wait()
            loading()
            return await backends.attach(loaded.settings, control.engine_up())

        listener = socket.socket(fileno=port_fd)
        listener.set_inheritable(False)  # what this process starts would take its connections
        return server.run(loaded.settings, listener, launch, control.clean_up, control)

    _to_the_end(run, lambda: None)


def _to_the_end(run: Callable[[], int], cleanup: Callable[[], None]) -> NoReturn:
    from app.logs import setup as logs

    try:
        code = run()
    except StartError as error:
        logs.log.error("cannot start", reason=str(error))
        code = error.exit_code
    try:
        cleanup()
        logs.flush()
    finally:
        # SGLang registers its own shutdown with atexit, and torch's threads may outlive main().
        os._exit(code)


def _show_settings(given: dict[str, Any]) -> int:
    if given.pop("markdown"):
        print(settings.markdown(), end="")
        return 0
    loaded = settings.load(given)
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    rows = list(settings.describe(loaded))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, origin in rows:
        print(f"{name:<{widths[0]}}  {value:<{min(widths[1], 60)}}  {origin}")
    return 0
