"""Not a model: limits the threads in which the engine compiles grammars beside its batch.

SGLang imports every module of this package in its scheduler (`srt/models/registry.py`), which is
the only way in. There 0.5.23 compiles grammars in four threads more than there are processors,
each with eight of xgrammar's own, at the scheduler's priority: on two processors a schema of 9 kB
stopped every stream for five seconds. Drop when SGLang bounds them (`srt/constrained/
base_grammar_backend.py`).
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sglang.srt.constrained import base_grammar_backend

_AT_ONCE = 2
_NICE = 10


def _lower_priority() -> None:
    # On Linux a thread has a priority of its own, which the threads that it starts inherit.
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def _limited(*_: Any, **__: Any) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="grammar", initializer=_lower_priority)


base_grammar_backend.ThreadPoolExecutor = _limited
