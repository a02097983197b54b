"""A process that tries untrusted input: this server's end. worker.py is the other.

It is started before it is needed, and again after each end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from app.errors import Unavailable
from app.logs.setup import log
from app.settings.load import without_secrets
from app.trials.worker import Outcome, Task, Unusable

_START_TIMEOUT_S = 120.0
_HANGS_S = 60.0
"""Of the clock, for one task: the processor time that is its limit may be long in coming."""
_LINE_BYTES = 16 * 2**20


class TrialProcess:
    """Does one task at a time."""

    def __init__(
        self,
        module: str,
        setup: bytes,
        *,
        tries: str,
        pass_fds: Sequence[int] = (),
        restarts: bool = True,
    ) -> None:
        """`module`: whose main function is worker.py's `serve`. `setup`: one line. `tries`: what,
        in the plural, for the log and for clients. `pass_fds`: what it inherits. `restarts`: at
        once, when it had to be killed."""
        self._restarts = restarts
        self._module, self._setup = module, setup
        self._tries = tries
        self._pass_fds = pass_fds
        self._process: asyncio.subprocess.Process | None = None
        self._starting: asyncio.Task[None] | None = None
        self._unusable: Unusable | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Begin to start the process, which takes up to a second."""
        self._starting = asyncio.create_task(self._start())
        self._starting.add_done_callback(self._log_failed_start)

    async def run(self, input: bytes, *, cpu_s: float) -> Outcome:
        """Do a task, with a limit of processor time. `input`: JSON, without line breaks.

        Raises Unusable, for good, if the process is, and Unavailable if it cannot be started or has
        failed. Not to be called again before it returns.
        """
        try:
            process = await self._running()
        except (OSError, TimeoutError) as error:
            raise self._unavailable("cannot be tried", error) from error
        answered = False
        try:
            async with asyncio.timeout(_HANGS_S):
                outcome = await self._ask(process, Task(cpu_s, msgspec.Raw(input)))
            answered = True
        except (OSError, TimeoutError, ValueError) as error:
            raise self._unavailable(
                "could not be tried: their process has failed", error
            ) from error
        finally:
            if not answered:  # its next answer would be of this task
                self._process = None
                await _kill(process)
                if self._restarts:
                    self.start()
        return outcome

    async def close(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        process, self._process = self._process, None
        if process is not None:
            await _kill(process)

    async def _ask(self, process: asyncio.subprocess.Process, task: Task) -> Outcome:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(task) + b"\n")
        await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            raise OSError("it has ended")
        return msgspec.json.decode(line, type=Outcome)

    async def _running(self) -> asyncio.subprocess.Process:
        """The process, once it is up.

        Raises Unusable, or OSError or TimeoutError if it cannot be started.
        """
        if self._unusable is not None:
            raise self._unusable
        if self._starting is None or (self._starting.done() and not self._up):
            self.start()
        assert self._starting is not None
        await asyncio.shield(self._starting)
        if self._process is None:
            raise OSError("the process is not running")
        return self._process

    @property
    def _up(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def _start(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
            env=without_secrets(),  # it reads what clients send
            limit=_LINE_BYTES,
            pass_fds=self._pass_fds,
            start_new_session=True,  # so that it can be killed with its child
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                process.stdin.write(self._setup + b"\n")
                if not (line := await process.stdout.readline()):
                    raise OSError("the process ended at its start")
                if (reason := msgspec.json.decode(line, type=Outcome).unusable) is not None:
                    self._unusable = Unusable(reason)
                    raise self._unusable
        except BaseException:
            await _kill(process)
            raise
        self._process = process

    def _unavailable(self, what: str, error: Exception) -> Unavailable:
        log.warning(f"{self._tries} {what}", error=repr(error))
        return Unavailable(f"{self._tries.capitalize()} cannot be read now; please try again.")

    def _log_failed_start(self, starting: asyncio.Task[None]) -> None:
        """No request may be waiting for it, so its error would be lost."""
        error = None if starting.cancelled() else starting.exception()
        if isinstance(error, Unusable):
            log.warning(f"{self._tries} are refused", reason=str(error))
        elif isinstance(error, OSError | TimeoutError):
            log.warning(f"{self._tries} cannot be tried", error=repr(error))


async def _kill(process: asyncio.subprocess.Process) -> None:
    """With the child that does its task."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
    await process.wait()
