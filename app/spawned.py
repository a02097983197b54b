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


def end_with_parent(pipe: int | None = None) -> None:
    """Have the kernel kill this process when the thread that has spawned it ends.

    If the parent has ended already, the kernel sends nothing; then exit. `pipe`: whose other end
    the parent keeps open as long as it lives. None: that from which multiprocessing's `spawn_main`
    is reading what to run.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if pipe is None and (handle := re.search(r"pipe_handle=(\d+)", " ".join(sys.orig_argv))):
        pipe = int(handle[1])
    if pipe is not None and _hung_up(pipe):
        os._exit(1)


def _hung_up(pipe: int) -> bool:
    ends = select.poll()
    ends.register(pipe, select.POLLHUP)
    return bool(ends.poll(0))
