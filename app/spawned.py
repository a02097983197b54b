"""The first step of a process that multiprocessing has spawned for the engine: end with its parent.

SGLang asks the kernel for the same, but only once it is imported: a server that ended before, by
whatever signal, would leave its engine loading the model, with the GPU, for half a minute and more.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Have the kernel kill this process when the thread that has spawned it ends.

    If the parent has ended already, the kernel sends nothing; then exit.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if _hung_up():
        os._exit(1)


def _hung_up() -> bool:
    """The parent's end of the pipe is closed, from which multiprocessing's `spawn_main` is reading
    what to run; the parent keeps its end open as long as it lives."""
    handle = re.search(r"pipe_handle=(\d+)", " ".join(sys.orig_argv))
    if handle is None:
        return False
    pipe = select.poll()
    pipe.register(int(handle[1]), select.POLLHUP)
    return bool(pipe.poll(0))
