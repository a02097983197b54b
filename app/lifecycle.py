"""The phase of the server, and the listeners that are called when it changes.

starting ──> loading ──> warming ──> ready ──> leaving ──> draining ──> stopped
    └──────────┴────────────┴──────────┴──────────┴───────────┴──> dead | hung | failed
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from enum import StrEnum

from app.errors import Asleep, Draining, EngineDied, NotReady, ServeError


class Phase(StrEnum):
    STARTING = "starting"
    """The process runs and imports SGLang."""
    LOADING = "loading"
    """The engine's processes load the model."""
    WARMING = "warming"
    """The engine generates its first token."""
    FOLLOWING = "following"
    """This node holds a part of the model; node 0 serves it."""
    READY = "ready"
    LEAVING = "leaving"
    """Readiness fails, but requests are still served until the endpoint is removed from the load
    balancer."""
    DRAINING = "draining"
    """New requests are refused; in-flight requests may finish."""
    STOPPED = "stopped"
    FAILED = "failed"
    """The start failed."""
    DEAD = "dead"
    """The engine was lost."""
    HUNG = "hung"
    """The engine has work and says nothing."""

    @property
    def broken(self) -> bool:
        """The server ends because something went wrong."""
        return self in (Phase.FAILED, Phase.DEAD, Phase.HUNG)

    @property
    def loading(self) -> bool:
        """The server has not become ready yet."""
        return self in (Phase.STARTING, Phase.LOADING, Phase.WARMING)


_RISING = (Phase.STARTING, Phase.LOADING, Phase.WARMING, Phase.FOLLOWING, Phase.READY)


class Lifecycle:
    """The phase of this process, and when the server started."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self.reason: str | None = None
        """Why the server failed or died: one line."""
        self.started_at = time.monotonic()
        self.over = asyncio.Event()
        """Set with the last phase: stopped, failed, dead or hung."""
        self.listeners: list[Callable[[Phase], None]] = []
        self.entered_at = {self.phase: self.started_at}
        """By the monotonic clock: each phase so far."""
        self.doing: str | None = None
        """What the start does, if no phase is named for it."""
        self.fetched: tuple[int, int] | None = None
        """Bytes of the model that were downloaded, and of all; None: none is."""
        self.read: tuple[int, int] | None = None
        """Bytes of its weights that were read into memory ahead, and of all; None: none are."""
        self.asleep = False
        """The engine has given its memory back (life/sleep.py)."""
        self.closed = False
        """It has, or is about to."""
        self.refuses = False
        """Requests get an error meanwhile."""

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self.started_at

    @property
    def took_s(self) -> dict[str, float]:
        """Seconds of each phase of the start, `loading_s`: the last one so far."""
        times = [(phase, at) for phase, at in self.entered_at.items() if phase in _RISING]
        ends = [at for _, at in times[1:]] + [time.monotonic()]
        return {
            f"{phase}_s": round(end - at, 1)
            for (phase, at), end in zip(times, ends, strict=True)
            if phase.loading
        }

    @property
    def ready(self) -> bool:
        """Requests may be sent here."""
        return self.phase is Phase.READY and not self.refuses

    @property
    def ended(self) -> bool:
        return self.phase is Phase.STOPPED or self.phase.broken

    def enter(self, phase: Phase, reason: str | None = None) -> bool:
        """Change the phase; False if that would be a step back (a late `ready` while draining)."""
        if self.ended or phase is self.phase:
            return False
        if phase in _RISING and (
            self.phase not in _RISING or _RISING.index(phase) < _RISING.index(self.phase)
        ):
            return False
        if phase is Phase.LEAVING and self.phase is Phase.DRAINING:
            return False
        self.phase, self.reason = phase, reason
        self.entered_at[phase] = time.monotonic()
        if self.ended:
            self.over.set()
        for listener in self.listeners:
            listener(phase)
        return True

    def refusal(self) -> ServeError | None:
        """The error for a request that cannot be admitted in this phase; None if it can."""
        match self.phase:
            case Phase.READY | Phase.LEAVING:
                return Asleep("The engine sleeps until /wake_up.") if self.refuses else None
            case Phase.STARTING | Phase.LOADING | Phase.WARMING:
                return NotReady(f"The model is not ready yet (phase: {self.phase}).")
            case Phase.FOLLOWING:
                return NotReady("A part of the model is loaded here; node 0 serves it.")
            case Phase.DEAD | Phase.HUNG | Phase.FAILED:
                return EngineDied("The engine has ended; this server is going away.")
            case _:
                return Draining("This server is shutting down.")
