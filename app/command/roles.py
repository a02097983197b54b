"""The roles that a process has, and what each does before and after its work.

`serve` is one process or several. Which of these roles a process has, its parent says by a hidden
flag:

    supervisor ── server                         with a network endpoint          --link-fd
                    └ serving process, N times   with TOKENIZER_WORKERS above 1   --process
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from app import signals
from app.errors import StartError
from app.settings.catalogue import Settings
from app.settings.checks import is_open
from app.settings.load import Loaded, take_keys, with_keys

if TYPE_CHECKING:
    import socket

    from app.engine.base import Launched, Starting
    from app.engine.environment import RuntimeDir


def supervisor(loaded: Loaded, arguments: Sequence[str]) -> NoReturn:
    """The parent of the server, and the owner of its network endpoint."""
    from app.hathora import supervisor

    code = supervisor.run(loaded, arguments)
    # Do not wait for a Google API call that may never return.
    os._exit(code)


def server(loaded: Loaded, arguments: Sequence[str], link_fd: int | None) -> NoReturn:
    """The server, or the parent of several serving processes."""
    several = loaded.settings.tokenizer_workers > 1 and loaded.settings.node_rank == 0
    keys = take_keys()
    chosen, runtime = _prepared(loaded, several=several)
    _warn_if_open(chosen)

    def run() -> int:
        from app.hathora.link import ServerLink
        from app.web import listening, server

        link = ServerLink(link_fd) if link_fd is not None else None
        launch = _launcher(chosen, runtime)
        if several:
            from app import processes
            from app.workers import parent

            def start(*role: str, pass_fds: Sequence[int]) -> subprocess.Popen[bytes]:
                env = with_keys(keys)
                return processes.start(arguments, *role, pass_fds=pass_fds, env=env)

            with signals.blocked():
                listeners = listening.bind_several(chosen, chosen.tokenizer_workers)
                _leave_nothing(listeners[0], runtime)
            return parent.run(chosen, listeners, start, launch, runtime, link)
        from app.life.control import LocalControl

        with signals.blocked():
            listener = listening.bind(chosen)
            _leave_nothing(listener, runtime)
        control = LocalControl(chosen, runtime.remove, link)
        return server.run(chosen, listener, launch, runtime.remove, control)

    _to_the_end(run, runtime.remove)


def serving_process(loaded: Loaded, process: str) -> NoReturn:
    """One of several serving processes. The parent has logged the settings' warnings."""
    from app.engine import environment
    from app.logs import setup as logs

    take_keys()
    no, channel_fd, port_fd = map(int, process.split(":"))
    chosen = loaded.settings
    logs.configure(chosen, rotates=no == 0, process=no, captures=True)
    runtime = environment.join()

    def run() -> int:
        from app.engine import backends
        from app.processes import inherited_socket
        from app.web import server
        from app.workers.child import WorkerControl

        control = WorkerControl(no, chosen.tokenizer_workers, channel_fd, runtime)

        async def launch(starting: Starting) -> Launched:
            await control.loading.wait()
            starting.loading()
            return await backends.attach(chosen, control.engine_up())

        # Its own children, inheriting the port, would be given some of its connections.
        listener = inherited_socket(port_fd)
        return server.run(chosen, listener, launch, control.clean_up, control)

    _to_the_end(run, lambda: None)


def runpod(loaded: Loaded) -> NoReturn:
    """A RunPod serverless worker."""
    take_keys()
    chosen, runtime = _prepared(loaded, several=False)
    from app.logs.setup import log

    if chosen.networked:
        log.warning("no network endpoint is registered: RunPod brings the jobs")
    if loaded.settings.tokenizer_workers > 1:
        log.warning("TOKENIZER_WORKERS: no effect (one process takes the jobs)")

    def run() -> int:
        from app.runpod import worker

        return worker.run(chosen, _launcher(chosen, runtime), runtime.remove)

    _to_the_end(run, runtime.remove)


# -- steps ---------------------------------------------------------------------------------------


def _prepared(loaded: Loaded, *, several: bool) -> tuple[Settings, RuntimeDir]:
    """Logging and the environment of a process that starts an engine."""
    from app.engine import environment
    from app.life.ending import exit_now
    from app.logs import setup as logs

    chosen = loaded.settings
    if not several:
        chosen = chosen.model_copy(update={"tokenizer_workers": 1})
    with signals.blocked():  # in its threads for good: there a signal would break the block below
        # Of several processes the first rotates the log file: the parent has little to write.
        logs.configure(chosen, rotates=not several, captures=True)
    for warning in loaded.warnings:
        logs.log.warning(warning)
    if chosen.engine == "scripted":
        logs.log.warning("no model is served: ENGINE=scripted answers by a script")
    try:
        with signals.blocked():
            runtime = environment.prepare(chosen)
            signals.end_at_once(lambda: exit_now(0, runtime.remove))
        _check_engine(chosen, runtime)
    except StartError:
        logs.flush()  # as with wrong settings, the reason is a line on stderr
        raise
    return chosen, runtime


def _leave_nothing(listener: socket.socket, runtime: RuntimeDir) -> None:
    """A signal that comes before the event loop takes them ends this process at once."""
    from app import unix_sockets
    from app.life.ending import exit_now

    remove = unix_sockets.remover(listener)

    def clean_up() -> None:
        remove()
        runtime.remove()

    signals.end_at_once(lambda: exit_now(0, clean_up))


def _check_engine(chosen: Settings, runtime: RuntimeDir) -> None:
    """Raises ConfigError if it is not installed, and then nothing is left behind."""
    from app.engine import backends

    if chosen.upstream_url is not None:
        return
    try:
        backends.check_installed(chosen)
    except StartError:
        runtime.remove()
        raise


def _warn_if_open(chosen: Settings) -> None:
    from app.logs.setup import log

    # Nodes other than 0 serve nothing.
    if is_open(chosen) and chosen.node_rank == 0:
        log.warning(
            "API_KEY is not set: the API is open to every machine that reaches this port",
            host=chosen.host,
            port=chosen.port,
        )


def _launcher(chosen: Settings, runtime: RuntimeDir) -> Callable[[Starting], Any]:
    """Brings the engine up."""

    async def launch(starting: Starting) -> Launched:
        from app.engine import backends

        return await backends.launch(chosen, runtime, starting)

    return launch


def _to_the_end(run: Callable[[], int], cleanup: Callable[[], None]) -> NoReturn:
    """Run a role; exit with its code, without the interpreter's own way out."""
    from app.logs import setup as logs

    try:
        code = run()
    except StartError as error:
        logs.catch_up()
        logs.log.error("cannot start", reason=str(error))
        code = error.exit_code
    try:
        cleanup()
        logs.flush()
    finally:
        # SGLang registers its own shutdown with atexit, and torch's threads may outlive main().
        os._exit(code)
