"""Starts the engine, watches it and ends it, and moves the lifecycle along."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias

from app.adapters.registry import Adapters
from app.engine.base import Engine, EngineLost, Launched, Load, Starting
from app.errors import ConfigError, InvalidRequest, ServeError, StartError
from app.events import fold
from app.gate import Gate
from app.generation.model import ServedModel
from app.life.heap import freeze_heap
from app.life.load_reading import LoadReading
from app.life.progress import ACTIVITIES, progress_of
from app.life.stall import stalled
from app.life.waiting import first_of
from app.lifecycle import Lifecycle, Phase
from app.logs import setup as logs
from app.logs.setup import log
from app.media.pictures import Pictures
from app.settings.catalogue import GENERIC_NAMES, Settings
from app.types import GenerationRequest, Sampling, TextPrompt

Launch: TypeAlias = Callable[[Starting], Awaitable[Launched]]
"""Starts an engine."""
AllWarm: TypeAlias = Callable[[int | None], Awaitable[int | None]]
"""Returns once all serving processes have generated a token. Takes, and returns, how many tokens
the model takes; None: this process does not know."""

_PROGRESS_S = 5.0

_SHARE = 4
"""One request has at most the fourth part of what the engine runs."""
_CPU_SHARE = 2
"""Sequences of one request in an engine on a CPU, where each makes a step longer for all: beside
128 of another client a request for two tokens took 75 times as long, beside 8 seven times, beside 2
three times (demo model, two cores); by twos the 128 take a sixth longer."""


class ModelHost:
    """Owns the engine. `start` returns at once; `lifecycle` has the phase."""

    def __init__(
        self,
        settings: Settings,
        lifecycle: Lifecycle,
        gate: Gate,
        launch: Launch,
        all_warm: AllWarm | None = None,
        *,
        beside_loading: Callable[[], Coroutine[Any, Any, None]] | None = None,
        quiet: bool = False,
    ) -> None:
        """`beside_loading`: what else has to end before this process serves; never raises. Begun
        when this process waits for those of the engine.
        `quiet`: do not log the progress of the start; another process does."""
        self._settings = settings
        self._lifecycle = lifecycle
        self._gate = gate
        self._launch = launch
        self._all_warm = all_warm
        self._beside_loading = beside_loading
        self._beside: asyncio.Task[None] | None = None
        self._quiet = quiet
        self._task: asyncio.Task[None] | None = None
        self.shortest_silence_s: Callable[[], float] = lambda: math.inf
        """As in `Gauges`, of the whole server: where another process is answered, the engine does
        not hang, though a request of this one may wait for its turn."""
        self.engine: Engine | None = None
        self._load_reading = LoadReading(self._read_loads)
        self.model: ServedModel | None = None
        self.context_length: int | None = None
        """Tokens that the model takes, in whichever process; known once it is ready."""
        self._launched: Launched | None = None
        self.start_error: StartError | None = None

    @property
    def loaded(self) -> bool:
        return self._launched is not None

    def silent_s(self) -> float:
        """Seconds since the engine last answered, while it has work."""
        return self.engine.silent_s() if self.engine is not None else 0.0

    async def loads(self) -> list[Load]:
        """The load of each replica. Raises Unavailable, after two seconds at the latest."""
        return await self._load_reading.loads()

    async def _read_loads(self) -> list[Load]:
        return await self.engine.loads() if self.engine is not None else []

    def start(self) -> None:
        if not self._quiet:
            logs.show_progress(lambda: progress_of(self._lifecycle))
        self._task = asyncio.create_task(self._live(), name="model-host")

    async def close(self) -> None:
        """End the engine. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self.model is not None:
            await self.model.close()
        if self._launched is not None:
            await self._launched.close()

    def loading(self) -> None:
        self._enter(Phase.LOADING)
        # One of several processes that serve imports SGLang only now.
        if not self._quiet and self._lifecycle.phase is Phase.LOADING:
            self._begin_beside()

    def _begin_beside(self) -> None:
        if self._beside is None and self._beside_loading is not None:
            self._beside = asyncio.create_task(self._beside_loading())

    def doing(self, what: str | None) -> None:
        self._lifecycle.doing = what

    def fetched(self, done: int, total: int) -> None:
        self._lifecycle.fetched = done, total

    def read(self, done: int, total: int) -> None:
        self._lifecycle.read = done, total

    async def _live(self) -> None:
        progress = asyncio.create_task(self._report_progress())
        try:
            launched = await self._in_time(self._bring_up())
            progress.cancel()
            bound_s = self._settings.engine_stall_timeout_s
            silences = (self.silent_s, lambda: self.shortest_silence_s())
            silent_s: Callable[[], float] = lambda: min(each() for each in silences)  # noqa: E731
            await first_of(launched.lost, stalled(silent_s, bound_s))
            if not launched.lost.done():
                reason = f"the engine hangs: it has requests, and is silent for {bound_s:g} s"
                self._lifecycle.enter(Phase.HUNG, reason)
                return
            raise EngineLost(launched.lost.result())
        except EngineLost as lost:
            self._lifecycle.enter(Phase.DEAD, f"the engine is gone: {lost}")
        except StartError as error:
            self.start_error = error
            self._lifecycle.enter(Phase.FAILED, str(error))
        except Exception as error:  # no task awaits this one: the lifecycle must carry its error
            log.exception("the start failed unexpectedly")
            self.start_error = StartError(f"{type(error).__name__}: {error}".splitlines()[0][:800])
            self._lifecycle.enter(Phase.FAILED, str(self.start_error))
        finally:
            progress.cancel()
            if self._beside is not None:
                self._beside.cancel()

    async def _bring_up(self) -> Launched:
        launched = await self._launch(self)
        self._launched, self.engine = launched, launched.serves
        self._enter(launched.phase_when_up)
        if launched.phase_when_up is Phase.WARMING:
            await _unless_lost(launched, self._make_ready(launched))
            freeze_heap()
            self._enter(Phase.READY)
        return launched

    async def _in_time(self, start: Coroutine[Any, Any, Launched]) -> Launched:
        """Raises StartError if the start takes longer than START_TIMEOUT."""
        bound_s = self._settings.start_timeout_s
        try:
            async with asyncio.timeout(bound_s or None) as timer:
                return await start
        except TimeoutError:
            if not timer.expired():
                raise
            phase = self._lifecycle.phase
            raise StartError(
                f"START_TIMEOUT: the model is not ready after {bound_s:g} s (phase {phase})"
            ) from None

    async def _make_ready(self, launched: Launched) -> None:
        self._begin_beside()
        if launched.serves is not None:
            await self._warm(launched.serves)
        if self._beside is not None:
            await self._beside
        self.context_length = self.model.limit if self.model is not None else None
        if self._all_warm is not None:
            self.context_length = await self._all_warm(self.context_length)
        launched.all_warm()

    async def _warm(self, engine: Engine) -> None:
        await engine.warm_up()
        if self._settings.max_sequences_per_request is None:
            await self._bound_share(engine)
        pictures = Pictures(self._settings) if engine.info.takes_pictures else None
        if pictures is not None:
            pictures.warm_up()
        self.model = ServedModel(
            engine,
            self._gate,
            names=self._settings.names,
            takes_any_name=self._settings.takes_any_name,
            max_total_tokens=self._settings.max_total_tokens,
            max_prompt_chars=self._settings.max_prompt_chars,
            max_prompt_scores=self._settings.max_prompt_scores,
            max_answer_scores=self._settings.max_answer_scores,
            grammar_timeout_s=self._settings.grammar_timeout_s,
            pictures=pictures,
            adapters=await self._load_adapters(engine) if engine.info.serves_adapters else None,
        )
        self.model.grammars.warm_up()
        if self._settings.warmup_on_start:
            await self._answer_warmup(self.model)

    async def _load_adapters(self, engine: Engine) -> Adapters:
        """Raises ConfigError."""
        settings = self._settings
        adapters = Adapters(
            engine,
            taken=(*settings.names, *GENERIC_NAMES),
            folder=settings.lora_folder,
            most=settings.most_adapters,
            patience_s=settings.adapter_timeout_s,
        )
        for name, path in settings.adapters.items():
            try:
                await adapters.load(name, path)
            except InvalidRequest as error:
                raise ConfigError(f"the adapter {name!r}: {error.message}") from None
            except ServeError as error:
                raise StartError(f"the adapter {name!r}: {error.message}") from None
        return adapters

    async def _bound_share(self, engine: Engine) -> None:
        """What one request may have in the engine, by what the engine runs at a time."""
        # Not `self.loads`: a start may wait for the engine, and must know this.
        running = sum(load.max_running for load in await engine.loads())
        sequences = self._gate.sequences
        if running:
            sequences.share = min(sequences.share, max(1, running // _SHARE))
        if engine.info.device == "cpu":
            sequences.share = min(sequences.share, _CPU_SHARE)

    async def _answer_warmup(self, model: ServedModel) -> None:
        """Generate once from the operator's prompt. If that is refused, log it and serve anyway."""
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
            took_s = self._lifecycle.took_s if phase is Phase.READY else {}
            elapsed_s = round(self._lifecycle.uptime_s, 1)
            log.info("phase", phase=str(phase), elapsed_s=elapsed_s, **took_s)

    async def _report_progress(self) -> None:
        while not self._quiet:
            await asyncio.sleep(_PROGRESS_S)
            if (activity := ACTIVITIES.get(self._lifecycle.phase)) is None:
                return
            log.info(
                f"still {self._lifecycle.doing or activity}",
                phase=str(self._lifecycle.phase),
                elapsed_s=round(self._lifecycle.uptime_s),
            )


async def _unless_lost(engine: Launched, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`. Raises EngineLost if the engine ends first."""
    working = asyncio.create_task(work)
    ends: set[asyncio.Future[Any]] = {working, engine.lost}
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise EngineLost(engine.lost.result())
        working.result()
    finally:
        working.cancel()
