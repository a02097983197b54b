"""The process that compiles grammars on trial: this server's end. worker.py is the other.

It is started before it is needed, and again after each end.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from app.errors import Unavailable
from app.grammars.compiler import Unusable, Vocabulary
from app.grammars.worker import Trial, Verdict
from app.logs.setup import log
from app.settings.load import without_secrets
from app.types import Grammar

_START_TIMEOUT_S = 120.0
_HANGS_S = 60.0
"""Of the clock, for one trial: the processor time that is its limit may be long in coming."""
_LINE_BYTES = 16 * 2**20


class GrammarProcess:
    """Compiles one grammar at a time."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._process: asyncio.subprocess.Process | None = None
        self._starting: asyncio.Task[None] | None = None
        self._unusable: Unusable | None = None

    def start(self) -> None:
        """Begin to start the process, which takes about a second."""
        self._starting = asyncio.create_task(self._start())
        self._starting.add_done_callback(_log_failed_start)

    async def compile(self, grammar: Grammar, *, cpu_s: float) -> Verdict:
        """Try a grammar, with a limit of processor time.

        Raises Unusable, for good, if the tokenizer is, and Unavailable if no process can be
        started. Not to be called again before it returns.
        """
        try:
            process = await self._running()
        except (OSError, TimeoutError) as error:
            log.warning("grammars cannot be tried", error=repr(error))
            raise Unavailable("Schemas cannot be compiled now; please try again.") from error
        answered = False
        text = grammar.text.encode(errors="replace").decode()  # half a surrogate pair is no text
        try:
            async with asyncio.timeout(_HANGS_S):
                verdict = await self._ask(process, Trial(grammar.kind, text, cpu_s))
            answered = True
        except (OSError, TimeoutError, ValueError) as error:
            log.warning("the grammar process has failed", error=repr(error))
            raise Unavailable("Schemas cannot be compiled now; please try again.") from error
        finally:
            if not answered:  # its next answer would be of this grammar
                self._process = None
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
                self.start()
        return verdict

    async def close(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def _ask(self, process: asyncio.subprocess.Process, trial: Trial) -> Verdict:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(trial) + b"\n")
        await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            raise OSError("it has ended")
        return msgspec.json.decode(line, type=Verdict)

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
            raise OSError("the grammar process is not running")
        return self._process

    @property
    def _up(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def _start(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "app.grammars.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
            env=without_secrets(),  # it compiles what clients send
            limit=_LINE_BYTES,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                process.stdin.write(msgspec.json.encode(self._vocabulary) + b"\n")
                if not (line := await process.stdout.readline()):
                    raise OSError("the grammar process ended at its start")
                if (reason := msgspec.json.decode(line, type=Verdict).refused) is not None:
                    self._unusable = Unusable(reason)
                    raise self._unusable
        except BaseException:
            if process.returncode is None:
                process.kill()
            await process.wait()
            raise
        self._process = process


def _log_failed_start(starting: asyncio.Task[None]) -> None:
    """No request may be waiting for it, so its error would be lost."""
    error = None if starting.cancelled() else starting.exception()
    if isinstance(error, Unusable):
        log.warning("no grammars: the tokenizer cannot be used for them", reason=str(error))
    elif isinstance(error, OSError | TimeoutError):
        log.warning("the grammar process could not be started", error=repr(error))
