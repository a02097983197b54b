"""The parent of the serving process, and the owner of its network endpoint.

    tini ── supervisor ── serving process ── engine's processes
              │  │  └ link: phases up, network state down
              │  └ registration: attach once ready, detach once anything else
              └ signals are passed on; the exit code says what happened

Whatever ends the serving process (SIGKILL, the kernel's out-of-memory killer, SGLang killing its
own process tree), this one is left to remove the endpoint. So it is small: it never imports torch
or SGLang, and it alone knows the service account's key.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil

from app import logs
from app.hathora.link import supervise
from app.hathora.network import NetworkFailed, Registration
from app.lifecycle import Network, NetworkState
from app.logs import log
from app.settings import Loaded, without_key

NOT_REGISTERED = 72
"""Exit code: GCP_NEG_REQUIRED, and the registration failed."""
_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 60.0
_ENTRY = Path(__file__).parents[2] / "serve_hathora.py"


def run(loaded: Loaded, arguments: Sequence[str]) -> int:
    """Run the server with these command line arguments as a child; returns the exit code.

    Raises ConfigError if the key or the group's settings cannot be used.
    """
    # One process rotates the log file: the serving one.
    settings = loaded.settings.model_copy(update={"log_file": ""})
    logs.configure(settings)
    registration = Registration(settings)
    # Processes that lose their parent become ours: none is left behind.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        return asyncio.run(Supervisor(registration, arguments, settings.gcp_neg_required).run())
    finally:
        logs.flush()


class Membership:
    """Keeps the endpoint registered while it is `wanted`, and only then.

    One task, one blocking call at a time: a removal never overtakes a registration that is still
    on its way.
    """

    def __init__(self, registration: Registration, changed: Callable[[Network], None]) -> None:
        self._registration = registration
        self._changed = changed
        self._wanted = False
        self._over = False
        self._asked = asyncio.Event()
        self._stop = threading.Event()
        self._unclean = True
        """An endpoint may be attached: this life's, or one that an earlier process left."""
        self._joined = False
        self.network = Network(NetworkState.WAITING)
        self.first = asyncio.get_running_loop().create_future()
        """Done with the first registration: None, or what went wrong."""

    def want(self, wanted: bool, *, over: bool = False) -> None:
        """`over`: for good; `keep` returns once the endpoint is gone."""
        self._wanted, self._over = wanted and not self._over, self._over or over
        if not wanted:
            self._stop.set()
        self._asked.set()

    async def keep(self) -> None:
        await self._forget_the_last_life()
        pause_s = _FIRST_PAUSE_S
        while True:
            self._asked.clear()
            if self._wanted and self.network.state is not NetworkState.REGISTERED:
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
            await self._until_asked(None)

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

    async def _until_asked(self, timeout_s: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._asked.wait()

    def _settle(self, error: NetworkFailed | None) -> None:
        if not self.first.done():
            self.first.set_result(error)

    def _say(self, state: NetworkState, error: NetworkFailed | None = None) -> None:
        place = self._registration.place
        self.network = Network(
            state,
            project=place.project if place else None,
            group=place.group if place else None,
            scope=place.scope if place else None,
            location=place.location if place else None,
            endpoint=place.endpoint if place else None,
            failures=self.network.failures + (error is not None),
            error=str(error) if error else None,
        )
        log.info("network", **msgspec.to_builtins(self.network))
        self._changed(self.network)


class Supervisor:
    def __init__(
        self, registration: Registration, arguments: Sequence[str], required: bool
    ) -> None:
        self._registration = registration
        self._arguments = arguments
        self._required = required
        self._child: subprocess.Popen[bytes] | None = None

    async def run(self) -> int:
        ours, theirs = socket.socketpair()
        kills_before = _out_of_memory_kills()
        self._pass_on_signals()
        with theirs:
            child = self._child = self._start(theirs.fileno())
        # Nobody else reads our memory or environment: the key is in them. After the fork, which
        # looks into /proc/self, where even we may not look then.
        _prctl(_PR_SET_DUMPABLE, 0)
        try:
            return await self._watch_over(child, ours, kills_before)
        finally:
            if child.poll() is None:  # a fault of our own: no server without its supervisor
                child.kill()

    async def _watch_over(
        self, child: subprocess.Popen[bytes], ours: socket.socket, kills_before: int
    ) -> int:
        tell = await supervise(ours, lambda phase: membership.want(phase == "ready"))
        membership = Membership(self._registration, tell)
        keeping = asyncio.create_task(membership.keep(), name="membership")
        refused = asyncio.create_task(self._end_unless_registered(membership))
        code = await asyncio.to_thread(child.wait)
        membership.want(False, over=True)
        _end_the_rest()
        _report(code, _out_of_memory_kills() - kills_before)
        await keeping
        if refused.done() and refused.result():
            return NOT_REGISTERED
        refused.cancel()
        return 128 - code if code < 0 else code

    def _start(self, fd: int) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C reaches it through us, once.
        return subprocess.Popen(
            [sys.executable, str(_ENTRY), "serve", *self._arguments, "--link-fd", str(fd)],
            env=without_key(), pass_fds=[fd], start_new_session=True,
        )  # fmt: skip

    def _pass_on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end_child)

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)

    async def _end_unless_registered(self, membership: Membership) -> bool:
        """True if the server was told to end because it must be registered and is not."""
        error = await membership.first
        if error is None or not self._required:
            return False
        log.error("ending: GCP_NEG_REQUIRED, and the registration failed", reason=str(error))
        self._end_child()
        return True


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        log.warning("prctl failed", option=option, error=os.strerror(ctypes.get_errno()))


def _end_the_rest() -> None:
    """SIGKILL to what the serving process left behind."""
    left = psutil.Process().children(recursive=True)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    gone, alive = psutil.wait_procs(left, timeout=2)
    if left:
        log.info("ended what was left of the server", processes=len(gone), alive=len(alive))


def _report(code: int, memory_kills: int) -> None:
    if code < 0:
        cause = "the kernel, for memory" if memory_kills > 0 else "from outside"
        name = signal.Signals(-code).name
        log.error("the server was killed", signal=name, by=cause, exit=128 - code)
    elif code:
        log.error("the server ended", exit=code)
    else:
        log.info("the server ended", exit=0)


def _out_of_memory_kills() -> int:
    """How often the kernel has killed in this container; 0 where it does not say."""
    with suppress(OSError):
        for line in Path("/sys/fs/cgroup/memory.events").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0
