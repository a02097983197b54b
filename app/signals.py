"""Signals, in one place: which ones end a process, and which its children never see.

SIGTERM, SIGINT   end this process
SIGHUP            the same, unless it was ignored when this process was started, as by nohup
SIGQUIT           SGLang's processes send it to their parent when they fail: Watch takes it;
                  left alone it means a core dump
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from app.logs.setup import log

_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
FAILED_CHILD = signal.SIGQUIT


def end_at_once(end: Callable[[], None]) -> None:
    """Call `end` for each signal that asks this process to end, until `on_end` is called.

    `end` runs between two instructions of the main thread, wherever that is, and must not return.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        end()

    for number in _not_ignored():
        signal.signal(number, handle)


def on_end(end: Callable[[signal.Signals], None]) -> None:
    """Have the running event loop call `end` for each signal that asks this process to end."""
    loop = asyncio.get_running_loop()
    for number in _not_ignored():
        loop.add_signal_handler(number, end, number)
    loop.add_signal_handler(FAILED_CHILD, log.error, "SIGQUIT is ignored")


def on_failed_child(report: Callable[[], None]) -> None:
    """Have the running event loop call `report` when a process of the engine reports a failure."""
    asyncio.get_running_loop().add_signal_handler(FAILED_CHILD, report)


def ignore_all() -> None:
    """For a process that another one ends: Ctrl-C in a terminal, or a service manager that signals
    the whole group, must not end it in the middle of a drain."""
    for number in (*_END, FAILED_CHILD):
        signal.signal(number, signal.SIG_IGN)


def block_in_this_thread() -> None:
    """Block the signals in every thread and process that this thread starts from now on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _END)


@contextmanager
def blocked() -> Iterator[None]:
    """Block the signals in this thread, and in every thread and process that it starts within."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _END)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _not_ignored() -> list[signal.Signals]:
    """SIGINT is taken in any case: shells ignore it for what they start in the background."""
    hup_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in _END if number is not signal.SIGHUP or not hup_ignored]
