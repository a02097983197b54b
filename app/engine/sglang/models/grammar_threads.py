"""No model: makes the engine compile grammars without taking processors from its batch.

SGLang imports every module of this package in its scheduler (`srt/models/registry.py`), which is
the only way in. There 0.5.23 compiles grammars in as many threads as there are processors and four,
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


def _stand_back() -> None:
    # On Linux a thread has a priority of its own, which the threads that it starts inherit.
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def _few_and_quiet(*_: Any, **__: Any) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="grammar", initializer=_stand_back)


base_grammar_backend.ThreadPoolExecutor = _few_and_quiet
