"""Lines of SGLang's that tell an operator nothing: they are debug, whatever SGLang takes them for.

Each is known by how it begins (0.5.23); one that SGLang words anew is shown again.
"""

from __future__ import annotations

import logging

_PLUGINS = "sglang.srt.plugins"
"""What it says at info; a plugin that fails is its warning."""
_BEGINNINGS = (
    "server_args=",  # 18,000 characters, twice; `settings` shows what is in force
    "Ignore import error when loading ",  # of models that are not served
    # What this server arranges otherwise: signals, limits, parsers that it has of its own.
    "Signal handler is not added because the engine is not in the main thread",
    "Fail to set RLIMIT_",
    "--reasoning-parser=auto specified but could not detect",
    "--tool-call-parser=auto specified but could not detect",
    # On a CPU, which this server has warned of.
    "Cuda graph is disabled because of using torch native attention backend",
    "init_cpu_threads_env and shared memory based AllReduce is disabled",
)


def demote(record: logging.LogRecord) -> bool:
    """Make a line of these debug. True: it was one."""
    text = record.msg
    if (
        record.levelno >= logging.ERROR
        or not record.name.startswith("sglang")
        or not isinstance(text, str)
        or not (text.startswith(_BEGINNINGS) or _is_of_plugins(record))
    ):
        return False
    record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return True


def _is_of_plugins(record: logging.LogRecord) -> bool:
    return record.levelno <= logging.INFO and record.name.startswith(_PLUGINS)
