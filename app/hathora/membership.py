"""Whether the endpoint should be registered, and the one task that makes it so.

want ──> keep: join ── confirm every minute ── leave
                 └ failed: retry after 5 s, then after longer pauses, up to a minute
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from app.endpoint import Network, NetworkState
from app.hathora.failures import NetworkFailed
from app.hathora.network import Registration
from app.logs.setup import log

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 60.0
_CONFIRM_EVERY_S = 60.0
"""Another server of this name, or an operator, may have removed the endpoint."""


class Membership:
    """Keeps the endpoint registered while it is wanted, and only then.

    One task, one blocking call at a time: a removal never overtakes a registration that is still
    in progress.
    """

    def __init__(self, registration: Registration, changed: Callable[[Network], None]) -> None:
        self._registration = registration
        self._changed = changed
        self._wanted = self._retired = self._finished = False
        self._want_called = asyncio.Event()
        self._stop = threading.Event()
        self._perhaps_attached = True
        """An endpoint may be attached: by this process, or by an earlier one."""
        self._joined = False
        self.network = Network(NetworkState.WAITING)
        self.first = asyncio.get_running_loop().create_future()
        """The result of the first registration: None, or its error."""

    def want(self, wanted: bool) -> None:
        self._wanted = wanted and not self._retired
        if not self._wanted:
            self._stop.set()
        self._want_called.set()

    def retire(self) -> None:
        """Never register again: the server is ending."""
        self._retired = True
        self.want(False)

    def finish(self) -> None:
        """The server has ended: `keep` returns once the endpoint is removed."""
        self._finished = True
        self.retire()

    async def keep(self) -> None:
        await self._remove_leftover()
        pause_s = _FIRST_PAUSE_S
        while True:
            self._want_called.clear()
            registered = self.network.state is NetworkState.REGISTERED
            if self._wanted and not registered:
                if await self._join():
                    pause_s = _FIRST_PAUSE_S
                else:
                    await self._wait_for_want(pause_s)
                    pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                continue
            if not self._wanted and self._perhaps_attached and (self._joined or self._finished):
                await self._leave()
            if self._finished:
                return
            if not await self._wait_for_want(_CONFIRM_EVERY_S if self._wanted else None):
                await self._confirm()

    async def _remove_leftover(self) -> None:
        """Remove an endpoint left by an earlier server of this name and port.

        This also shows early whether calls to the API succeed."""
        try:
            await self._call(self._registration.load)
            if await self._call(self._registration.leave):
                log.warning("an endpoint of an earlier process was removed")
            self._perhaps_attached = False
        except NetworkFailed as error:
            self._report(NetworkState.FAILED, error)
            self._set_first(error)

    async def _join(self) -> bool:
        self._stop.clear()
        if not self._wanted:
            return False
        self._perhaps_attached = self._joined = True
        self._report(NetworkState.REGISTERING)
        try:
            await self._call(lambda: self._registration.join(self._stop))
        except NetworkFailed as error:
            if self._wanted:  # else `stop` ended the call
                self._report(NetworkState.FAILED, error)
                log.error("registration failed", reason=str(error), permanent=error.permanent)
                self._set_first(error)
            return False
        self._report(NetworkState.REGISTERED)
        self._set_first(None)
        return True

    async def _confirm(self) -> None:
        """Join again: joining lists the endpoints, and attaches ours only if it is missing."""
        try:
            await self._call(lambda: self._registration.join(self._stop))
        except NetworkFailed as error:
            if self._wanted:
                log.warning("the registration could not be confirmed", reason=str(error))

    async def _leave(self) -> None:
        self._report(NetworkState.LEAVING)
        try:
            await self._call(self._registration.leave)
        except NetworkFailed as error:
            log.error("the endpoint could not be removed", reason=str(error))
            self._report(NetworkState.LEFT, error)
            return
        self._perhaps_attached = False
        self._report(NetworkState.LEFT)

    async def _call(self, function: Callable[[], Any]) -> Any:
        try:
            return await asyncio.to_thread(function)
        except NetworkFailed:
            raise
        except Exception as error:
            # A fault in the client library must not end the task that removes the endpoint.
            log.exception("unexpected failure of a call to Google Cloud")
            text = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            raise NetworkFailed(text, permanent=False) from error

    async def _wait_for_want(self, timeout_s: float | None) -> bool:
        """Return False if `want` was not called for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                return await self._want_called.wait()
        return False

    def _set_first(self, error: NetworkFailed | None) -> None:
        if not self.first.done():
            self.first.set_result(error)

    def _report(self, state: NetworkState, error: NetworkFailed | None = None) -> None:
        place = self._registration.place
        # During a retry the operator still needs to see the last error.
        last_error = self.network.error if state is NetworkState.REGISTERING else None
        self.network = Network(
            state,
            project=place.project if place else None,
            group=place.group if place else None,
            scope=place.scope if place else None,
            location=place.location if place else None,
            endpoint=place.endpoint if place else None,
            failures=self.network.failures + (error is not None),
            error=str(error) if error else last_error,
        )
        log.info("network", **msgspec.to_builtins(self.network))
        self._changed(self.network)
