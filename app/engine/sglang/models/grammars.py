"""Not a model: what the engine's processes do with grammars, in place of SGLang's own.

SGLang imports every module of this package in its scheduler (`srt/models/registry.py`), which is
the only way in. Written against 0.5.23, `srt/constrained/base_grammar_backend.py`. There grammars
are compiled in four threads more than there are processors, at the scheduler's priority, and kept
for good. Drop when SGLang bounds both, and grammar_backend.py when its own does what that says.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sglang.srt.constrained import base_grammar_backend, llguidance_backend
from sglang.srt.constrained.reasoner_grammar_backend import ReasonerGrammarBackend

from app.engine.sglang.grammar_backend import LimitedBackend

_AT_ONCE = 2
_NICE = 10
_KEPT = 1000


def _lower_priority() -> None:
    # On Linux a thread has a priority of its own, which the threads that it starts inherit.
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def _limited(*_: Any, **__: Any) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="grammar", initializer=_lower_priority)


def _set_cache(self: Any, key: tuple[str, str], value: Any) -> None:
    self.cache.pop(key, None)
    if isinstance(value, base_grammar_backend.InvalidGrammarObject):
        return  # such as one that took too long: it may not the next time
    self.cache[key] = value
    while len(self.cache) > _KEPT:
        del self.cache[next(iter(self.cache))]


def _budgets(self: Any, grammar: Any, reasoning: bool) -> Any:
    """SGLang keeps a request's budget of thinking only with --enable-strict-thinking, which costs
    every request of a batch a mask at each step."""
    made = _make_grammar_object(self, grammar, reasoning)
    if not made.enable_token_filter:
        made.enable_token_filter = True
        made.token_filter_fn = LimitedBackend.set_token_filter
    return made


_make_grammar_object = ReasonerGrammarBackend._make_grammar_object
ReasonerGrammarBackend._make_grammar_object = _budgets
base_grammar_backend.ThreadPoolExecutor = _limited
base_grammar_backend.BaseGrammarBackend.set_cache = _set_cache
llguidance_backend.GuidanceBackend = LimitedBackend
