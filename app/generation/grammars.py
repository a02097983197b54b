"""Grammars from clients: bounded, then compiled on trial, before the engine sees them.

The engine compiles a grammar beside its batch, can neither be told to stop nor forget it, and a
kilobyte of schema can take a minute. So a new one is compiled first in a process of its own
(`grammar_worker`), one at a time. It may take so much processor time and no more: by the clock, a
busy machine would refuse what an idle one takes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import signal
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.errors import InvalidRequest, Overloaded, Unavailable
from app.logs.setup import log
from app.settings.bounds import GrammarBounds
from app.types import Grammar

_REMEMBERED = 10_000
_WAITING = 32
"""New grammars that wait for their trial."""
_START_TIMEOUT_S = 120.0
_PATIENCE = 6
"""By the clock a grammar may take so many times its processor time."""


def check_schema(schema: dict[str, Any], bounds: GrammarBounds, *, param: str) -> None:
    """Raises InvalidRequest that names the bound. Iterative: depth costs no stack."""
    for nodes, (value, depth) in enumerate(_walk(schema), start=1):
        if depth > bounds.max_schema_depth:
            raise _too(f"is nested deeper than {bounds.max_schema_depth} levels", param)
        if nodes > bounds.max_schema_nodes:
            raise _too(f"has more than {bounds.max_schema_nodes} values", param)
        if isinstance(value, dict):
            if isinstance(value.get("enum"), list) and len(value["enum"]) > bounds.max_schema_enum:
                raise _too(f"has an enum of more than {bounds.max_schema_enum} values", param)
            if isinstance(value.get("pattern"), str):
                check_regex(value["pattern"], bounds, param=param)
    if (
        len(json.dumps(schema, ensure_ascii=False).encode(errors="replace"))
        > bounds.max_schema_bytes
    ):
        raise _too(f"is larger than {bounds.max_schema_bytes} bytes", param)


def check_regex(pattern: str, bounds: GrammarBounds, *, param: str) -> None:
    if "\0" in pattern:
        raise _too("holds a NUL character", param)
    if len(pattern) > bounds.max_regex_chars:
        raise _too(f"has a pattern of more than {bounds.max_regex_chars} characters", param)
    for repeat in re.findall(r"\{([\d\s,]+)", pattern):
        for number in re.findall(r"\d+", repeat):
            if len(number) > 6 or int(number) > bounds.max_regex_repeat:
                raise _too(f"repeats something more than {bounds.max_regex_repeat} times", param)


def check_text(text: str, bounds: GrammarBounds, *, param: str) -> None:
    """A grammar that is text: EBNF."""
    if "\0" in text:
        raise _too("holds a NUL character", param)
    if len(text) > bounds.max_schema_bytes:
        raise _too(f"is larger than {bounds.max_schema_bytes} characters", param)


def _too(what: str, param: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{param}': it {what}.", param=param)


def _walk(schema: Any) -> Iterator[tuple[Any, int]]:
    stack = [(schema, 1)]
    while stack:
        value, depth = stack.pop()
        yield value, depth
        if isinstance(value, dict):
            stack += [(each, depth + 1) for each in value.values()]
        elif isinstance(value, list):
            stack += [(each, depth + 1) for each in value]


class GrammarCheck:
    """Compiles new grammars on trial; remembers those that passed."""

    def __init__(self, vocabulary: str | None, *, timeout_s: float) -> None:
        """`vocabulary`: of the engine's tokenizer, for xgrammar; None: nothing can be tried.

        `timeout_s`: of processor time, for one grammar.
        """
        self._vocabulary = vocabulary
        self._timeout_s = timeout_s
        self._passed: OrderedDict[bytes, None] = OrderedDict()
        self._trials: dict[bytes, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._starting: asyncio.Task[None] | None = None
        self.compiled = 0
        """How many different grammars the engine was given."""

    def warm_up(self) -> None:
        """Start the process, which takes a few seconds, before it is needed."""
        if self._vocabulary is not None:
            self._starting = asyncio.create_task(self._start())
            self._starting.add_done_callback(_noted)

    async def check(self, grammar: Grammar) -> None:
        """Raises InvalidRequest if it cannot be compiled, or takes too long; Overloaded or
        Unavailable if it could not be tried."""
        key = hashlib.sha256(f"{grammar.kind}\0{grammar.text}".encode(errors="replace")).digest()
        if key in self._passed:
            self._passed.move_to_end(key)
            return
        if self._vocabulary is None:
            self._remember(key)
            return
        if (trial := self._trials.get(key)) is None:
            if len(self._trials) >= _WAITING:
                raise Overloaded("Too many new schemas wait to be compiled; please try again.")
            # A task of its own: a client that leaves must not spoil it for the others.
            trial = self._trials[key] = asyncio.create_task(self._try(grammar, key))
            trial.add_done_callback(_noted)
            trial.add_done_callback(lambda _: self._trials.pop(key))
        await asyncio.shield(trial)

    async def close(self) -> None:
        tasks = [*self._trials.values(), *filter(None, [self._starting])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._kill()

    async def _try(self, grammar: Grammar, key: bytes) -> None:
        async with self._turn:
            try:
                process = await self._running()
            except (OSError, TimeoutError) as error:
                log.warning("grammars cannot be tried", error=repr(error))
                raise Unavailable("Schemas cannot be compiled now; please try again.") from error
            try:
                async with asyncio.timeout(self._timeout_s * _PATIENCE):
                    error_text = await self._ask(process, grammar)
            except TimeoutError:
                raise self._too_slow(grammar) from None
        if error_text is not None:
            raise InvalidRequest(
                f"Invalid value for '{grammar.param}': it cannot be compiled: {_plain(error_text)}",
                param=grammar.param,
            )
        self._remember(key)

    def _remember(self, key: bytes) -> None:
        self.compiled += 1
        self._passed[key] = None
        if len(self._passed) > _REMEMBERED:
            self._passed.popitem(last=False)

    def _too_slow(self, grammar: Grammar) -> InvalidRequest:
        log.warning("a grammar took too long", kind=grammar.kind, chars=len(grammar.text))
        return InvalidRequest(
            f"Invalid value for '{grammar.param}': it could not be compiled in "
            f"{self._timeout_s:g} s (GRAMMAR_TIMEOUT); please make it simpler.",
            param=grammar.param,
            code="grammar_timeout",
        )

    async def _ask(self, process: asyncio.subprocess.Process, grammar: Grammar) -> str | None:
        """Why it cannot be compiled; TimeoutError if it takes too long."""
        assert process.stdin is not None
        assert process.stdout is not None
        answered = False
        try:
            asked = json.dumps({"kind": grammar.kind, "text": grammar.text})
            process.stdin.write(asked.encode() + b"\n")
            await process.stdin.drain()
            line = await process.stdout.readline()
            answered = True
        except OSError:
            line, answered = b"", True  # it has ended
        finally:
            if not answered:
                self._process = None
                with suppress(ProcessLookupError):
                    process.kill()
                self.warm_up()
        if not line:
            self._process = None
            code = await process.wait()
            self.warm_up()
            if code == -signal.SIGXCPU:
                raise TimeoutError
            return "the compiler failed on it"
        error = json.loads(line)["error"]
        return None if error is None else str(error)

    async def _running(self) -> asyncio.subprocess.Process:
        if self._starting is None or (self._starting.done() and not self._up):
            self.warm_up()
        assert self._starting is not None
        await asyncio.shield(self._starting)
        if self._process is None:
            raise OSError("the grammar process is not there")
        return self._process

    @property
    def _up(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def _start(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app.generation.grammar_worker", str(self._timeout_s),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL, cwd=Path(__file__).parents[2], limit=2**20,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                process.stdin.write((self._vocabulary or "").encode() + b"\n")
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


def _noted(task: asyncio.Task[None]) -> None:
    """Nobody may be left to hear how it ended."""
    if not task.cancelled() and isinstance(error := task.exception(), OSError | TimeoutError):
        log.warning("the grammar process could not be started", error=repr(error))


_WHERE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")


def _plain(error: str) -> str:
    """xgrammar's message without the time and the source file before it."""
    return _WHERE.sub("", error.strip())[:300]
