"""Tells systemd what this server does: `Type=notify` (sd_notify(3), sd_watchdog_enabled(3)).

    starting, loading, warming   STATUS=..., EXTEND_TIMEOUT_USEC: it still starts
    ready                        READY=1
    leaving, draining            STOPPING=1; EXTEND_TIMEOUT_USEC while it may still answer
    WATCHDOG=1                   the event loop turns, if WATCHDOG_USEC asks for it

A message is one datagram to the socket of NOTIFY_SOCKET, which systemd sets. READY=1 and STOPPING=1
are repeated until a message could be sent.
"""

from __future__ import annotations

import asyncio
import socket
import time

from app.lifecycle import Lifecycle, Phase
from app.logs.setup import log
from app.settings.catalogue import Settings

_TELL_S = 5.0
_EXTENSION_S = 30.0
"""Asked for with each message: an event loop that stands still for longer is ended by systemd."""
_READY = (Phase.READY, Phase.FOLLOWING)
_ENDING = (Phase.LEAVING, Phase.DRAINING)


class Notifier:
    def __init__(
        self, settings: Settings, lifecycle: Lifecycle, *, extra_end_s: float = 0.0
    ) -> None:
        """Listens to the phases from now on. `extra_end_s`: what an end may take beside
        DRAIN_TIMEOUT."""
        assert settings.notify_socket is not None
        path = settings.notify_socket
        self._path = "\0" + path[1:] if path.startswith("@") else path
        self._watchdog_s = (settings.watchdog_usec or 0) / 1e6
        self._longest_end_s = settings.drain_timeout_s + extra_end_s
        self._lifecycle = lifecycle
        self._news: list[str] = []
        """READY=1 and STOPPING=1, if they could not be sent yet."""
        self._reached = True
        self._told = ""
        lifecycle.listeners.append(self._entered)

    @classmethod
    def of(
        cls, settings: Settings, lifecycle: Lifecycle, *, extra_end_s: float = 0.0
    ) -> Notifier | None:
        """None: NOTIFY_SOCKET is not set."""
        if settings.notify_socket is None:
            return None
        return cls(settings, lifecycle, extra_end_s=extra_end_s)

    async def run(self) -> None:
        """Send what has to be sent again and again, for ever."""
        every_s = min(_TELL_S, self._watchdog_s / 2) if self._watchdog_s else _TELL_S
        while True:
            self._tell()
            await asyncio.sleep(every_s)

    def _entered(self, phase: Phase) -> None:
        if phase in _READY:
            self._tell("READY=1")
        elif phase in _ENDING or self._lifecycle.ended:
            self._tell("STOPPING=1")
        else:
            self._tell()

    def _tell(self, *news: str) -> None:
        self._news += (each for each in news if each not in self._news)
        lines = self._news.copy()
        if (status := self._status()) != self._told:
            lines.append(f"STATUS={status}")
        if self._needs_time():
            lines.append(f"EXTEND_TIMEOUT_USEC={int(_EXTENSION_S * 1e6)}")
        if self._watchdog_s:
            lines.append("WATCHDOG=1")
        if lines and self._send("\n".join(lines)):
            self._told = status
            self._news.clear()

    def _needs_time(self) -> bool:
        """It starts, or ends and is not late: an end that hangs is left to systemd."""
        phase, entered_at = self._lifecycle.phase, self._lifecycle.entered_at
        if phase not in _ENDING:
            return phase.loading
        began = min(entered_at[each] for each in _ENDING if each in entered_at)
        return time.monotonic() - began < self._longest_end_s

    def _status(self) -> str:
        lifecycle = self._lifecycle
        if reason := (lifecycle.reason or "").strip():
            return f"{lifecycle.phase}: {reason.splitlines()[0][:300]}"
        if lifecycle.phase is Phase.LOADING and lifecycle.fetched is not None:
            done, total = lifecycle.fetched
            return f"{lifecycle.phase}: {done / 1e9:.1f} of {total / 1e9:.1f} GB downloaded"
        return str(lifecycle.phase)

    def _send(self, message: str) -> bool:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
                to.setblocking(False)
                # A reason may have half a surrogate pair, which is no text.
                to.sendto(message.encode(errors="replace"), self._path)
        except OSError as error:  # the next message may reach it
            if self._reached:
                log.warning("NOTIFY_SOCKET cannot be reached", reason=error.strerror)
            self._reached = False
            return False
        self._reached = True
        return True
