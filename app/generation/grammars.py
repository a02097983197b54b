"""Grammars from clients: bounded, then compiled on trial, before the engine sees them.

The engine compiles a grammar beside its batch, can neither stop nor forget it, and a kilobyte of
schema can take a minute. So a new one is compiled first in a process of its own
(grammar_process.py), one at a time, with a limit of processor time: a limit by the clock would
refuse on a busy machine what an idle one accepts.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from app.errors import InvalidRequest, Overloaded
from app.generation.grammar_process import GrammarProcess
from app.logs.setup import log
from app.settings.bounds import GrammarBounds
from app.types import Grammar

_REMEMBERED = 10_000
_WAITING = 32
"""New grammars that wait for their trial."""


def check_schema(schema: dict[str, Any], bounds: GrammarBounds, *, param: str) -> None:
    """Raises InvalidRequest that names the bound. Iterative: depth costs no stack."""
    for nodes, (value, depth) in enumerate(_walk(schema), start=1):
        if depth > bounds.max_schema_depth:
            raise _beyond(f"is nested deeper than {bounds.max_schema_depth} levels", param)
        if nodes > bounds.max_schema_nodes:
            raise _beyond(f"has more than {bounds.max_schema_nodes} values", param)
        if isinstance(value, dict):
            if isinstance(value.get("enum"), list) and len(value["enum"]) > bounds.max_schema_enum:
                raise _beyond(f"has an enum of more than {bounds.max_schema_enum} values", param)
            if isinstance(value.get("pattern"), str):
                check_regex(value["pattern"], bounds, param=param)
    size = len(json.dumps(schema, ensure_ascii=False).encode(errors="replace"))
    if size > bounds.max_schema_bytes:
        raise _beyond(f"is larger than {bounds.max_schema_bytes} bytes", param)


def check_regex(pattern: str, bounds: GrammarBounds, *, param: str) -> None:
    if "\0" in pattern:
        raise _beyond("holds a NUL character", param)
    if len(pattern) > bounds.max_regex_chars:
        raise _beyond(f"has a pattern of more than {bounds.max_regex_chars} characters", param)
    for repeat in re.findall(r"\{([\d\s,]+)", pattern):
        for number in re.findall(r"\d+", repeat):
            if len(number) > 6 or int(number) > bounds.max_regex_repeat:
                raise _beyond(f"repeats something more than {bounds.max_regex_repeat} times", param)


def check_text(text: str, bounds: GrammarBounds, *, param: str) -> None:
    """A grammar that is text: EBNF."""
    if "\0" in text:
        raise _beyond("holds a NUL character", param)
    if len(text) > bounds.max_schema_bytes:
        raise _beyond(f"is larger than {bounds.max_schema_bytes} characters", param)


def _beyond(bound: str, param: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{param}': it {bound}.", param=param)


def _walk(schema: Any) -> Iterator[tuple[Any, int]]:
    """Every value of the schema with its depth, the schema's own being 1."""
    stack = [(schema, 1)]
    while stack:
        value, depth = stack.pop()
        yield value, depth
        if isinstance(value, dict):
            stack += [(child, depth + 1) for child in value.values()]
        elif isinstance(value, list):
            stack += [(child, depth + 1) for child in value]


class GrammarCheck:
    """Compiles new grammars on trial; remembers those that passed."""

    def __init__(self, vocabulary: str | None, *, timeout_s: float) -> None:
        """`vocabulary`: the engine's, as xgrammar serialises it; None: nothing can be tried.

        `timeout_s`: of processor time, for one grammar.
        """
        self._process = (
            None if vocabulary is None else GrammarProcess(vocabulary, timeout_s=timeout_s)
        )
        self._timeout_s = timeout_s
        self._passed: OrderedDict[bytes, None] = OrderedDict()
        self._trials: dict[bytes, asyncio.Task[None]] = {}
        self.compiled = 0
        """How many different grammars have passed on to the engine."""

    def warm_up(self) -> None:
        """Start the process, which takes a few seconds, before it is needed."""
        if self._process is not None:
            self._process.start()

    async def check(self, grammar: Grammar) -> None:
        """Raises InvalidRequest if the grammar cannot be compiled or takes too long, Overloaded or
        Unavailable if it could not be tried."""
        key = hashlib.sha256(f"{grammar.kind}\0{grammar.text}".encode(errors="replace")).digest()
        if key in self._passed:
            self._passed.move_to_end(key)
            return
        if self._process is None:
            self._remember(key)
            return
        if (trial := self._trials.get(key)) is None:
            if len(self._trials) >= _WAITING:
                raise Overloaded("Too many new schemas wait to be compiled; please try again.")
            # A task of its own: other requests may wait for the same grammar, and must not fail
            # when the client that brought it disconnects.
            trial = self._trials[key] = asyncio.create_task(self._try(self._process, grammar, key))
            trial.add_done_callback(_retrieve_error)
            trial.add_done_callback(lambda _: self._trials.pop(key))
        await asyncio.shield(trial)

    async def close(self) -> None:
        trials = list(self._trials.values())
        for trial in trials:
            trial.cancel()
        await asyncio.gather(*trials, return_exceptions=True)
        if self._process is not None:
            await self._process.close()

    async def _try(self, process: GrammarProcess, grammar: Grammar, key: bytes) -> None:
        try:
            error_text = await process.compile(grammar)
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


def _retrieve_error(trial: asyncio.Task[None]) -> None:
    """All its requests may have been cancelled; asyncio logs an error that is never retrieved."""
    if not trial.cancelled():
        trial.exception()


_WHERE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")


def _plain(error: str) -> str:
    """xgrammar's message without the time and the source file before it."""
    return _WHERE.sub("", error.strip())[:300]
