"""Grammars of requests: compiled on trial before the engine gets them, in the form it gets.

A new grammar is tried in a process of its own (worker.py), one at a time, with a limit of
processor time: a limit by the clock would refuse on a busy machine what an idle one accepts. Nearly
all take a few milliseconds. One that does not is put behind the others and begun again with four
times the limit, up to the whole: clients whose schemas are slow wait for each other.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
from collections import OrderedDict

import msgspec

from app.errors import InvalidRequest, Overloaded
from app.grammars.compiler import BYTES, Vocabulary
from app.grammars.lark import RULES
from app.grammars.worker import Trial, Verdict
from app.logs.setup import log
from app.trials.process import TrialProcess
from app.trials.worker import Unusable
from app.types import Grammar

_FIRST_CPU_S = 0.01
_MORE = 4
_REMEMBERED_BYTES = 32 * 2**20
_REMEMBERED = 4096
_WAITING = 256
"""New grammars that wait for their trial."""
_WAITING_SLOW = 16
"""Of them, those that have failed twice."""


class _Waiting(msgspec.Struct, order=True):
    """A grammar that waits: the least tried ones first, then in order of arrival."""

    tries: int
    no: int
    key: bytes
    grammar: Grammar
    verdict: asyncio.Future[str]
    """The grammar as the engine compiles it, or the error of all requests that wait for it."""
    waiting: int = 0
    """Requests."""


class GrammarCheck:
    """Makes grammars ready for the engine; remembers them, and those that it refused."""

    def __init__(self, vocabulary: Vocabulary | None, *, timeout_s: float) -> None:
        """`vocabulary`: None if the model's tokenizer has no form that grammars can use.

        `timeout_s`: of processor time, for one grammar.
        """
        self._vocabulary = vocabulary
        self._process = None
        if vocabulary is not None:
            setup = msgspec.json.encode(vocabulary)
            self._process = TrialProcess("app.grammars.worker", setup, tries="schemas")
        self._timeout_s = timeout_s
        self._results: OrderedDict[bytes, str | InvalidRequest] = OrderedDict()
        self._bytes = 0
        self._trials: dict[bytes, _Waiting] = {}
        self._queue: list[_Waiting] = []
        self._numbers = itertools.count()
        self._working: asyncio.Task[None] | None = None

    def warm_up(self) -> None:
        """Start the process, which takes about a second, before it is needed."""
        if self._process is not None and self._vocabulary != BYTES:
            self._process.start()

    async def check(self, grammar: Grammar) -> Grammar:
        """The grammar as the engine compiles it, in `compiled`.

        Raises InvalidRequest that names the keyword and the request's field if it cannot be
        enforced or takes too long, Overloaded or Unavailable if it could not be tried.
        """
        try:
            return msgspec.structs.replace(grammar, compiled=await self._result(grammar))
        except InvalidRequest:
            for param, schema in grammar.parts:  # which one is it
                await self._result(_of_part(schema, param))
            raise

    async def close(self) -> None:
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
        for trial in self._trials.values():
            trial.verdict.cancel()
        if self._process is not None:
            await self._process.close()

    async def _result(self, grammar: Grammar) -> str:
        if self._process is None:
            raise _unusable(grammar)
        key = hashlib.sha256(f"{grammar.kind}\0{grammar.text}".encode(errors="replace")).digest()
        if (known := self._results.get(key)) is not None:
            self._results.move_to_end(key)
            if isinstance(known, InvalidRequest):
                raise _of_field(known, grammar.param)
            return known
        trial = self._trials.get(key) or self._queued(key, grammar)
        trial.waiting += 1
        try:
            # Other requests may wait for the same grammar, and must not fail with this one.
            return await asyncio.shield(trial.verdict)
        except InvalidRequest as error:
            raise _of_field(error, grammar.param) from None
        finally:
            trial.waiting -= 1

    def _queued(self, key: bytes, grammar: Grammar) -> _Waiting:
        if len(self._trials) >= _WAITING:
            raise Overloaded("Too many new schemas wait to be compiled; please try again.")
        verdict = asyncio.get_running_loop().create_future()
        trial = self._trials[key] = _Waiting(0, next(self._numbers), key, grammar, verdict)
        heapq.heappush(self._queue, trial)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return trial

    async def _work(self) -> None:
        while self._queue:
            trial = heapq.heappop(self._queue)
            if trial.waiting or trial.verdict.done():
                await self._try(trial)
            else:  # its clients have gone
                self._forget(trial)
                trial.verdict.cancel()

    async def _try(self, trial: _Waiting) -> None:
        assert self._process is not None
        grammar = trial.grammar
        cpu_s = min(_FIRST_CPU_S * _MORE**trial.tries, self._timeout_s)
        try:
            text = grammar.text.encode(
                errors="replace"
            ).decode()  # half a surrogate pair is no text
            task = msgspec.json.encode(Trial(grammar.kind, text))
            outcome = await self._process.run(task, cpu_s=cpu_s)
        except Unusable:
            self._fail(trial, _unusable(grammar))
            return
        except Exception as error:  # Unavailable; whatever else, a request waits for its answer
            self._fail(trial, error)
            return
        verdict = Verdict()
        if outcome.output:
            verdict = msgspec.json.decode(outcome.output, type=Verdict)
        if verdict.grammar is not None:
            self._forget(trial)
            self._remember(trial.key, verdict.grammar)
            if not trial.verdict.done():
                trial.verdict.set_result(verdict.grammar)
        elif outcome.too_slow and cpu_s < self._timeout_s:
            self._put_behind(trial)
        else:
            refusal = self._error(grammar, verdict.refused, outcome.too_slow)
            self._remember(trial.key, refusal)
            self._fail(trial, refusal)

    def _put_behind(self, trial: _Waiting) -> None:
        trial.tries += 1
        if trial.tries > 1 and sum(each.tries > 1 for each in self._queue) >= _WAITING_SLOW:
            self._fail(
                trial, Overloaded("Too many slow schemas wait to be compiled; please try again.")
            )
        else:
            heapq.heappush(self._queue, trial)

    def _error(self, grammar: Grammar, refused: str | None, too_slow: bool) -> InvalidRequest:
        if refused is not None:
            return InvalidRequest(
                f"Invalid value for '{grammar.param}': it {refused}.", param=grammar.param
            )
        log.warning("a grammar took too long", kind=grammar.kind, chars=len(grammar.text))
        if not too_slow:
            return InvalidRequest(
                f"Invalid value for '{grammar.param}': it is too complex.", param=grammar.param
            )
        return InvalidRequest(
            f"Invalid value for '{grammar.param}': it could not be compiled in "
            f"{self._timeout_s:g} s (GRAMMAR_TIMEOUT); please make it simpler.",
            param=grammar.param,
            code="grammar_timeout",
        )

    def _forget(self, trial: _Waiting) -> None:
        """Before its verdict is known: who asks from now on must not get what others are told."""
        self._trials.pop(trial.key, None)

    def _fail(self, trial: _Waiting, error: Exception) -> None:
        self._forget(trial)
        if not trial.verdict.done():
            trial.verdict.set_exception(error)
            trial.verdict.exception()  # all its requests may have been cancelled

    def _remember(self, key: bytes, result: str | InvalidRequest) -> None:
        self._results[key] = result
        self._bytes += _size(result)
        while self._bytes > _REMEMBERED_BYTES or len(self._results) > _REMEMBERED:
            _, oldest = self._results.popitem(last=False)
            self._bytes -= _size(oldest)


def _unusable(grammar: Grammar) -> InvalidRequest:
    return InvalidRequest(
        f"'{grammar.param}' cannot be enforced: this model's tokenizer has no form that grammars "
        "can use.",
        param=grammar.param,
    )


def _of_part(schema: str, param: str) -> Grammar:
    if f'"{RULES}"' not in schema:
        return Grammar("json_schema", schema, param)
    format = f'{{"format":{{"type":"json_schema","json_schema":{schema}}}}}'
    return Grammar("structural_tag", format, param)


def _size(result: str | InvalidRequest) -> int:
    return len(result) if isinstance(result, str) else 512


def _of_field(error: InvalidRequest, param: str) -> InvalidRequest:
    """The same schema may be refused in one field of a request and then in another."""
    message = error.message.replace(f"'{error.param}'", f"'{param}'", 1)
    return InvalidRequest(message, param=param, code=error.code)
