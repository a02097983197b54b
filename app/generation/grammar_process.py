"""The process that compiles grammars on trial: this server's end. grammar_worker.py is the other.

It is started before it is needed, killed when a compilation takes too long by the clock, and
started again after each end.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import suppress
from pathlib import Path

from app.errors import Unavailable
from app.logs.setup import log
from app.settings.load import without_secrets
from app.types import Grammar

_START_TIMEOUT_S = 120.0
_CLOCK_PER_CPU = 6
"""Wall-clock limit of one grammar, as a multiple of its limit of processor time."""


class GrammarProcess:
    """Compiles one grammar at a time."""

    def __init__(self, vocabulary: str, *, timeout_s: float) -> None:
        """`vocabulary`: as xgrammar serialises it. `timeout_s`: of processor time, per grammar."""
        self._vocabulary = vocabulary
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._starting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to start the process, which takes a few seconds."""
        self._starting = asyncio.create_task(self._start())
        self._starting.add_done_callback(_log_failed_start)

    async def compile(self, grammar: Grammar) -> str | None:
        """Why the grammar cannot be compiled; None: it can.

        Raises TimeoutError if it takes too long, Unavailable if no process can be started.
        """
        async with self._turn:
            try:
                process = await self._running()
            except (OSError, TimeoutError) as error:
                log.warning("grammars cannot be tried", error=repr(error))
                raise Unavailable("Schemas cannot be compiled now; please try again.") from error
            async with asyncio.timeout(self._timeout_s * _CLOCK_PER_CPU):
                return await self._ask(process, grammar)

    async def close(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        await self._kill()

    async def _ask(self, process: asyncio.subprocess.Process, grammar: Grammar) -> str | None:
        assert process.stdin is not None
        assert process.stdout is not None
        answered = False
        try:
            question = json.dumps({"kind": grammar.kind, "text": grammar.text})
            process.stdin.write(question.encode() + b"\n")
            await process.stdin.drain()
            line = await process.stdout.readline()
            answered = True
        except OSError:
            line, answered = b"", True  # it has ended
        finally:
            if not answered:  # cancelled in the middle: the next answer would be of this grammar
                self._process = None
                with suppress(ProcessLookupError):
                    process.kill()
                self.start()
        if not line:
            self._process = None
            code = await process.wait()
            self.start()
            if code == -signal.SIGXCPU:
                raise TimeoutError
            return "the compiler failed on it"
        error = json.loads(line)["error"]
        return None if error is None else str(error)

    async def _running(self) -> asyncio.subprocess.Process:
        """The process, once it is up. Raises OSError or TimeoutError if it cannot be started."""
        if self._starting is None or (self._starting.done() and not self._up):
            self.start()
        assert self._starting is not None
        await asyncio.shield(self._starting)
        if self._process is None:
            raise OSError("the grammar process is not running")
        return self._process

    @property
    def _up(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def _start(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "app.generation.grammar_worker",
            str(self._timeout_s),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
            env=without_secrets(),  # it compiles what clients send
            limit=2**20,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                process.stdin.write(self._vocabulary.encode() + b"\n")
                if not await process.stdout.readline():
                    raise OSError("the grammar process ended at its start")
        except BaseException:
            if process.returncode is None:
                process.kill()
            raise
        self._process = process

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()


def _log_failed_start(starting: asyncio.Task[None]) -> None:
    """No request may be waiting for it, so its error would be lost."""
    if not starting.cancelled() and isinstance(
        error := starting.exception(), OSError | TimeoutError
    ):
        log.warning("the grammar process could not be started", error=repr(error))
