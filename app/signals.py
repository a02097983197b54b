"""Signals, in one place: which ones end a process, and which its children never see.

SIGTERM, SIGINT   end this process; a process with children to end takes SIGHUP for the same
SIGQUIT           SGLang's processes send it to their parent when they fail; left alone it means a
                  core dump. That they have ended is seen directly, so it is only logged.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.logs.setup import log

_END = (signal.SIGTERM, signal.SIGINT)


def on_end(end: Callable[[signal.Signals], None], *more: signal.Signals) -> None:
    """Have the running event loop call `end` for each signal that asks this process to end.

    `more`: further signals with the same meaning.
    """
    loop = asyncio.get_running_loop()
    for number in (*_END, *more):
        loop.add_signal_handler(number, end, number)
    loop.add_signal_handler(signal.SIGQUIT, log.error, "an engine process reports a failure")


def ignore_all() -> None:
    """For a process that another one ends: Ctrl-C in a terminal, or a service manager that signals
    the whole group, must not end it in the middle of a drain."""
    for number in (*_END, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)


def block_in_this_thread() -> None:
    """Block the signals in every thread and process that this thread starts from now on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _END)


@contextmanager
def blocked() -> Iterator[None]:
    """Block the signals in every thread and process that is started within."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _END)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
