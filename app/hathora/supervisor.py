"""The parent of the serving process, and the owner of its network endpoint.

    tini ── supervisor ── serving process ── engine's processes
              │  │  └ link: phases up, network state down
              │  └ registration: attach once ready, detach once anything else
              └ signals are passed on; the exit code says what happened

However the serving process ends (SIGKILL, the kernel's out-of-memory killer, SGLang killing its own
process tree), this one is left to remove the endpoint. So it is small: it never imports torch or
SGLang, and it alone has the service account's key.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from app import processes, signals
from app.channel import Channel
from app.endpoint import Network
from app.hathora.link import TO_SUPERVISOR, PhaseChanged
from app.hathora.membership import Membership
from app.hathora.network import Registration
from app.lifecycle import Phase
from app.logs import setup as logs
from app.logs.setup import log
from app.loop import run_loop
from app.settings.catalogue import Settings
from app.settings.load import Loaded, without_key

NOT_REGISTERED = 72
"""Exit code: GCP_NEG_REQUIRED, and the registration failed."""
_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36
_HANGS_S = 30.0
"""Beyond DRAIN_TIMEOUT, for the server to fail the rest, end its engine and exit."""


def run(loaded: Loaded, arguments: Sequence[str]) -> int:
    """Run the server with these command line arguments as a child; returns the exit code.

    Raises ConfigError if the key or the group's settings cannot be used.
    """
    # One process rotates the log file: the serving one.
    settings = loaded.settings.model_copy(update={"log_file": ""})
    logs.configure(settings, captures=True)
    try:
        registration = Registration(settings)
        # Processes that lose their parent become children of this one: none is left behind.
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        return run_loop(Supervisor(registration, arguments, settings).run())
    finally:
        logs.flush()


class Supervisor:
    def __init__(
        self, registration: Registration, arguments: Sequence[str], settings: Settings
    ) -> None:
        self._registration = registration
        self._arguments = arguments
        self._required = settings.gcp_neg_required
        self._patience_s = settings.drain_timeout_s + _HANGS_S
        self._child: subprocess.Popen[bytes] | None = None
        self._membership: Membership | None = None
        self._asked = False

    async def run(self) -> int:
        ours, theirs = socket.socketpair()
        kills_before = _out_of_memory_kills()
        signals.on_end(self._signalled)
        with theirs:
            child = self._child = processes.start(
                self._arguments,
                "--link-fd",
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                env=without_key(),
                new_session=True,  # Ctrl-C reaches it through this process, once
            )
        # The key is in this process's memory and environment: no other may read them. After the
        # fork, which looks into /proc/self, which even this process may not read then.
        _prctl(_PR_SET_DUMPABLE, 0)
        try:
            return await self._watch_over(child, ours, kills_before)
        finally:
            if child.poll() is None:  # a fault of our own: no server without its supervisor
                child.kill()

    async def _watch_over(
        self, child: subprocess.Popen[bytes], ours: socket.socket, kills_before: int
    ) -> int:
        channel: Channel[Network, PhaseChanged] = Channel(
            ours,
            TO_SUPERVISOR,
            on_message=lambda changed: membership.want(changed.phase is Phase.READY),
            on_closed=lambda: None,  # the server's end is seen by its pid
        )
        membership = self._membership = Membership(self._registration, channel.send)
        await channel.open()
        keeping = asyncio.create_task(membership.keep(), name="membership")
        refused = asyncio.create_task(self._end_unless_registered(membership))
        try:
            code = await asyncio.to_thread(child.wait)
        finally:
            membership.finish()
            ending = asyncio.create_task(asyncio.to_thread(_end_the_rest))
            await asyncio.gather(keeping, ending, return_exceptions=True)
        _report(code, self._asked, _out_of_memory_kills() - kills_before)
        if refused.done() and refused.result():
            return NOT_REGISTERED
        refused.cancel()
        return exit_code(code, asked=self._asked)

    def _signalled(self, _: signal.Signals) -> None:
        self._end_child()

    def _end_child(self) -> None:
        """Leave the group, whatever the server does with its signal; kill a server that hangs.

        The server reports "leaving" by itself, too, but one that hangs reports nothing.
        """
        if self._membership is not None:
            self._membership.retire()
        if self._child is None:
            return
        if not self._asked:
            asyncio.get_running_loop().call_later(self._patience_s, self._kill_child)
        self._asked = True
        self._child.send_signal(signal.SIGTERM)

    def _kill_child(self) -> None:
        if self._child is not None and self._child.poll() is None:
            log.error("the server hangs: it is killed", waited_s=self._patience_s)
            self._child.kill()

    async def _end_unless_registered(self, membership: Membership) -> bool:
        """True if the server was told to end because it must be registered and is not."""
        error = await membership.first
        if error is None or not self._required:
            return False
        log.error("ending: GCP_NEG_REQUIRED, and the registration failed", reason=str(error))
        self._end_child()
        return True


def exit_code(code: int, *, asked: bool) -> int:
    """What a shell would say of it; 0 for a server that was asked to end before it could listen."""
    if asked and code == -signal.SIGTERM:
        return 0
    return 128 - code if code < 0 else code


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        log.warning("prctl failed", option=option, error=os.strerror(ctypes.get_errno()))


def _end_the_rest() -> None:
    """SIGKILL to what the serving process left behind."""
    left, alive = processes.kill_children(timeout_s=2)
    if left:
        log.info("ended what was left of the server", processes=left - alive, alive=alive)


def _report(code: int, asked: bool, memory_kills: int) -> None:
    if exit_code(code, asked=asked) == 0:
        log.info("the server ended", exit=0)
    elif code < 0:
        cause = "the kernel, for memory" if memory_kills > 0 else "from outside"
        name = processes.signal_name(-code)
        log.error("the server was killed", signal=name, by=cause, exit=128 - code)
    else:
        log.error("the server ended", exit=code)


def _out_of_memory_kills() -> int:
    """How often the kernel has killed in this container; 0 where it does not say."""
    with suppress(OSError):
        for line in Path("/sys/fs/cgroup/memory.events").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0
