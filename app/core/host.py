"""Brings the model up, keeps watch over it, takes it down; the lifecycle's phases are its doing."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias

from app.core.model import ServedModel
from app.core.process import settle_memory
from app.engine.base import Engine, EngineLost
from app.engine.follower import Follower
from app.engine.shared import SharedEngine
from app.errors import ServeError, StartError
from app.lifecycle import Gate, Lifecycle, Phase
from app.logs import log
from app.settings import Settings
from app.types import GenerationRequest, Sampling, TextPrompt, fold

Launch: TypeAlias = Callable[[Callable[[], None]], Awaitable[Engine | Follower | SharedEngine]]
"""Starts an engine; the argument is called when its processes begin to load the model."""
AllWarm: TypeAlias = Callable[[], Awaitable[None]]
"""Returns once all of a server's processes are ready."""

_PROGRESS_S = 5.0


class ModelHost:
    """Owns the engine. `start` returns at once; `lifecycle` tells how far it is."""

    def __init__(
        self,
        settings: Settings,
        lifecycle: Lifecycle,
        gate: Gate,
        launch: Launch,
        all_warm: AllWarm | None = None,
        *,
        quiet: bool = False,
    ) -> None:
        """`quiet`: another process says how far the start is."""
        self._settings = settings
        self._lifecycle = lifecycle
        self._gate = gate
        self._launch = launch
        self._all_warm = all_warm
        self._quiet = quiet
        self._task: asyncio.Task[None] | None = None
        self.engine: Engine | None = None
        self.model: ServedModel | None = None
        self._unasked: Follower | SharedEngine | None = None
        """An engine of which nothing is asked here."""
        self.start_error: StartError | None = None

    @property
    def loaded(self) -> bool:
        return self.engine is not None or self._unasked is not None

    def silent_s(self) -> float:
        """For how long the engine has said nothing while it has work."""
        return self.engine.silent_s() if self.engine is not None else 0.0

    def start(self) -> None:
        self._task = asyncio.create_task(self._live(), name="model-host")

    async def close(self) -> None:
        """End the engine. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self.model is not None:
            await self.model.close()
        for running in (self.engine, self._unasked):
            if running is not None:
                await running.close()

    async def _live(self) -> None:
        progress = asyncio.create_task(self._report_progress())
        try:
            launched = await self._launch(lambda: self._enter(Phase.LOADING))
            if isinstance(launched, Follower | SharedEngine):
                self._unasked = launched
            else:
                self.engine = launched
            if isinstance(launched, Follower):
                self._enter(Phase.FOLLOWING)
            else:
                self._enter(Phase.WARMING)
                await _unless_lost(launched, self._make_ready(launched))
                settle_memory()
                self._enter(Phase.READY)
            progress.cancel()
            raise EngineLost(await launched.lost)
        except EngineLost as lost:
            self._lifecycle.enter(Phase.DEAD, f"the engine is gone: {lost}")
        except StartError as error:
            self.start_error = error
            self._lifecycle.enter(Phase.FAILED, str(error))
        except Exception as error:  # nobody awaits this task: what it meets, the server must learn
            log.exception("the start failed unexpectedly")
            self.start_error = StartError(f"{type(error).__name__}: {error}".splitlines()[0][:400])
            self._lifecycle.enter(Phase.FAILED, str(self.start_error))
        finally:
            progress.cancel()

    async def _make_ready(self, launched: Engine | SharedEngine) -> None:
        if not isinstance(launched, SharedEngine):
            await self._warm(launched)
        if self._all_warm is not None:
            await self._all_warm()
        if isinstance(launched, SharedEngine):
            launched.all_attached()

    async def _warm(self, engine: Engine) -> None:
        await engine.warm_up()
        self.model = ServedModel(
            engine,
            self._gate,
            names=self._settings.names,
            max_total_tokens=self._settings.max_total_tokens,
            max_prompt_chars=self._settings.max_prompt_chars,
            max_prompt_scores=self._settings.max_prompt_scores,
            grammar_timeout_s=self._settings.grammar_timeout_s,
        )
        self.model.grammars.warm_up()
        if self._settings.warmup_on_start:
            await self._answer_warmup(self.model)

    async def _answer_warmup(self, model: ServedModel) -> None:
        """The operator's own prompt, once; a refusal is logged and no reason not to serve."""
        prompt = TextPrompt(self._settings.warmup_prompt, "WARMUP_PROMPT")
        sampling = Sampling(max_tokens=self._settings.warmup_max_tokens)
        began = time.monotonic()
        try:
            if model.info.embeds:
                await model.embed([prompt], id=uuid.uuid4().hex)
            else:
                request = GenerationRequest(
                    id=uuid.uuid4().hex, prompts=(prompt,), sampling=sampling
                )
                await fold(model.generate(request))
        except ServeError as error:
            log.warning("warm-up failed", reason=error.message)
            return
        log.info("warmed up", seconds=round(time.monotonic() - began, 2))

    def _enter(self, phase: Phase) -> None:
        if self._lifecycle.enter(phase):
            log.info("phase", phase=str(phase), elapsed_s=round(self._lifecycle.uptime_s, 1))

    async def _report_progress(self) -> None:
        what = {
            Phase.STARTING: "importing SGLang",
            Phase.LOADING: "loading the model",
            Phase.WARMING: "generating the first token",
        }
        while not self._quiet:
            await asyncio.sleep(_PROGRESS_S)
            if (doing := what.get(self._lifecycle.phase)) is None:
                return
            log.info(
                f"still {doing}",
                phase=str(self._lifecycle.phase),
                elapsed_s=round(self._lifecycle.uptime_s),
            )


async def _unless_lost(engine: Engine | SharedEngine, work: Coroutine[Any, Any, None]) -> None:
    working = asyncio.create_task(work)
    either: set[asyncio.Future[Any]] = {working, engine.lost}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise EngineLost(engine.lost.result())
        working.result()
    finally:
        working.cancel()


def exit_code(lifecycle: Lifecycle, host: ModelHost) -> int:
    """0 clean, 70 the engine was lost, 71 the start failed, 78 a setting is wrong."""
    if lifecycle.phase is Phase.DEAD:
        return 70
    if lifecycle.phase is Phase.FAILED:
        return host.start_error.exit_code if host.start_error else StartError.exit_code
    return 0
