"""Ends a process that cannot wait for the interpreter to exit."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn

from app.logs import setup as logs
from app.processes import kill_children


def exit_now(code: int, cleanup: Callable[[], None]) -> NoReturn:
    """Kill the child processes and exit at once. The interpreter's own exit would wait for threads
    that run code of other libraries."""
    try:
        kill_children()
        logs.flush()
        cleanup()  # last: until the end the engine's thread may go on, and write
    finally:
        os._exit(code)
