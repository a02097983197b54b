"""Health check that generates one token."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Callable
from contextlib import aclosing

from app.errors import Asleep, NotReady, ServeError, Unavailable
from app.generation.model import ServedModel
from app.life.host import ModelHost
from app.lifecycle import Lifecycle
from app.logs.setup import log
from app.types import GenerationRequest, Sampling, TokenPrompt

_PROMPT = TokenPrompt([0], "input_ids")
_SAMPLING = Sampling(max_tokens=1, temperature=0.0, ignore_eos=True)
_POLL_S = 1.0


class Probe:
    """One generation at a time: a check that begins during another's shares its outcome."""

    def __init__(
        self,
        host: ModelHost,
        lifecycle: Lifecycle,
        *,
        shortest_silence_s: Callable[[], float] = lambda: math.inf,
        timeout_s: float = 20.0,
    ) -> None:
        """`shortest_silence_s`: as in `Gauges`, of the whole server."""
        self._host = host
        self._lifecycle = lifecycle
        self._shortest_silence_s = shortest_silence_s
        self._timeout_s = timeout_s
        self._running: asyncio.Task[None] | None = None
        self._waiting = 0

    async def check(self) -> None:
        """Return if the model generates, or the engine is busy with other requests.

        Raises Unavailable.
        """
        if (refusal := self._lifecycle.refusal()) is not None:
            raise refusal
        if self._lifecycle.closed:
            raise Asleep("The engine sleeps until /wake_up.")
        if self._host.model is None:
            raise NotReady("The model is not ready yet.")
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run(self._host.model), name="probe")
        running = self._running
        self._waiting += 1
        try:
            await asyncio.shield(running)
        except Exception as error:  # whatever it is, the model does not answer
            reason = error.message if isinstance(error, ServeError) else type(error).__name__
            log.warning("the model does not answer", error=repr(error)[:400])
            raise Unavailable(f"The model does not answer: {reason}") from error
        finally:
            self._waiting -= 1
            if not self._waiting:
                running.cancel()
                self._running = None

    async def _run(self, model: ServedModel) -> None:
        began = time.monotonic()
        answering = asyncio.create_task(_generate(model))
        try:
            while not answering.done():
                await asyncio.wait({answering}, timeout=_POLL_S)
                waited_s = time.monotonic() - began
                if not answering.done() and self._engine_answered(waited_s):
                    return
                if not answering.done() and waited_s > self._timeout_s:
                    raise Unavailable(f"no token within {self._timeout_s:g} s.")
            answering.result()
        finally:
            answering.cancel()
            await asyncio.wait({answering})

    def _engine_answered(self, within_s: float) -> bool:
        """The engine has answered some request since the probe began: it is busy, not stuck."""
        return min(self._host.silent_s(), self._shortest_silence_s()) < within_s - _POLL_S / 2


async def _generate(model: ServedModel) -> None:
    id = uuid.uuid4().hex
    if model.info.embeds:
        await model.embed([_PROMPT], id=id)
        return
    request = GenerationRequest(id=id, prompts=(_PROMPT,), sampling=_SAMPLING)
    async with aclosing(model.generate(request)) as events:
        async for _ in events:
            pass
