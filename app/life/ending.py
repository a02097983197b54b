"""How a process ends that cannot wait for the interpreter's own way out."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn

from app.logs import setup as logs
from app.processes import kill_children


def exit_now(code: int, cleanup: Callable[[], None]) -> NoReturn:
    """Leave no process behind, and exit. The interpreter's own exit would wait for threads that are
    inside other libraries."""
    try:
        kill_children()
        cleanup()
        logs.flush()
    finally:
        os._exit(code)
