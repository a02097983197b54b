"""Whether the endpoint shall be registered, and the one task that makes it so.

want ──> keep: join ── look again each minute ── leave
                 └ failed: again, after 5 s, at most each minute
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from app.endpoint import Network, NetworkState
from app.hathora.network import NetworkFailed, Registration
from app.logs.setup import log

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 60.0
_LOOK_AGAIN_S = 60.0
"""Somebody else may have removed it: another server of this name, a person."""


class Membership:
    """Keeps the endpoint registered while it is wanted, and only then.

    One task, one blocking call at a time: a removal never overtakes a registration that is still
    on its way.
    """

    def __init__(self, registration: Registration, changed: Callable[[Network], None]) -> None:
        self._registration = registration
        self._changed = changed
        self._wanted = self._retired = self._over = False
        self._asked = asyncio.Event()
        self._stop = threading.Event()
        self._unclean = True
        """An endpoint may be attached: this life's, or one that an earlier process left."""
        self._joined = False
        self.network = Network(NetworkState.WAITING)
        self.first = asyncio.get_running_loop().create_future()
        """Done with the first registration: None, or what went wrong."""

    def want(self, wanted: bool) -> None:
        self._wanted = wanted and not self._retired
        if not self._wanted:
            self._stop.set()
        self._asked.set()

    def retire(self) -> None:
        """Never again: the server was told to end."""
        self._retired = True
        self.want(False)

    def finish(self) -> None:
        """There is no server any more: `keep` returns once the endpoint is gone."""
        self._over = True
        self.retire()

    async def keep(self) -> None:
        await self._forget_the_last_life()
        pause_s = _FIRST_PAUSE_S
        while True:
            self._asked.clear()
            registered = self.network.state is NetworkState.REGISTERED
            if self._wanted and not registered:
                if await self._join():
                    pause_s = _FIRST_PAUSE_S
                else:
                    await self._until_asked(pause_s)
                    pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                continue
            if not self._wanted and self._unclean and (self._joined or self._over):
                await self._leave()
            if self._over:
                return
            if not await self._until_asked(_LOOK_AGAIN_S if self._wanted else None):
                await self._look_again()

    async def _forget_the_last_life(self) -> None:
        """Remove what a server of this name and port left behind, and see that calls succeed."""
        try:
            await self._call(self._registration.load)
            if await self._call(self._registration.leave):
                log.warning("an endpoint of an earlier process was removed")
            self._unclean = False
        except NetworkFailed as error:
            self._say(NetworkState.FAILED, error)
            self._settle(error)

    async def _join(self) -> bool:
        self._stop.clear()
        if not self._wanted:
            return False
        self._unclean = self._joined = True
        self._say(NetworkState.REGISTERING)
        try:
            await self._call(lambda: self._registration.join(self._stop))
        except NetworkFailed as error:
            if self._wanted:  # else it was told to stop
                self._say(NetworkState.FAILED, error)
                log.error("registration failed", reason=str(error), permanent=error.permanent)
                self._settle(error)
            return False
        self._say(NetworkState.REGISTERED)
        self._settle(None)
        return True

    async def _look_again(self) -> None:
        """Joining is idempotent: it lists, and attaches what is not there."""
        try:
            await self._call(lambda: self._registration.join(self._stop))
        except NetworkFailed as error:
            if self._wanted:
                log.warning("the registration could not be confirmed", reason=str(error))

    async def _leave(self) -> None:
        self._say(NetworkState.LEAVING)
        try:
            await self._call(self._registration.leave)
        except NetworkFailed as error:
            log.error("the endpoint could not be removed", reason=str(error))
            self._say(NetworkState.LEFT, error)
            return
        self._unclean = False
        self._say(NetworkState.LEFT)

    async def _call(self, call: Callable[[], Any]) -> Any:
        try:
            return await asyncio.to_thread(call)
        except NetworkFailed:
            raise
        except Exception as error:  # whatever the client library meets, the endpoint has to go
            log.exception("unexpected failure of a call to Google Cloud")
            said = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            raise NetworkFailed(said, permanent=False) from error

    async def _until_asked(self, timeout_s: float | None) -> bool:
        """False if nobody asked for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                return await self._asked.wait()
        return False

    def _settle(self, error: NetworkFailed | None) -> None:
        if not self.first.done():
            self.first.set_result(error)

    def _say(self, state: NetworkState, error: NetworkFailed | None = None) -> None:
        place = self._registration.place
        # While it is tried again, what went wrong last is still what an operator looks for.
        earlier = self.network.error if state is NetworkState.REGISTERING else None
        self.network = Network(
            state,
            project=place.project if place else None,
            group=place.group if place else None,
            scope=place.scope if place else None,
            location=place.location if place else None,
            endpoint=place.endpoint if place else None,
            failures=self.network.failures + (error is not None),
            error=str(error) if error else earlier,
        )
        log.info("network", **msgspec.to_builtins(self.network))
        self._changed(self.network)
