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
from sglang.srt.constrained.reasoner_grammar_backend import (
    ReasonerGrammarBackend,
    ReasonerGrammarObject,
)
from sglang.srt.managers.schedule_batch import Req

from app.engine.sglang.grammar_backend import Anything, LimitedBackend

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


def _prepare(
    self: Any, grammar_backend: Any, reasoning_parser: Any, tokenizer: Any, **names: Any
) -> None:
    _their_init(self, grammar_backend, reasoning_parser, tokenizer, **names)
    marker = getattr(reasoning_parser.detector, "tool_start_token", None)
    ids = list(tokenizer.encode(marker, add_special_tokens=False)) if marker else []
    # One that counts only where a line begins is none of 0.5.23's.
    sure = len(ids) == 1 and not getattr(
        reasoning_parser.detector, "tool_start_at_line_start", False
    )
    self.call_begins = Req.call_begins = ids[0] if sure else None


def _budgets(self: Any, grammar: Any, reasoning: bool) -> Any:
    """SGLang keeps a request's budget of thinking only with --enable-strict-thinking, which costs
    every request of a batch a mask at each step."""
    made = _their_make(self, grammar, reasoning)
    if not made.enable_token_filter:
        made.enable_token_filter = True
        made.token_filter_fn = LimitedBackend.set_token_filter
    if isinstance(grammar, Anything):
        made.call_begins = self.call_begins
    return made


def _copy(self: Any) -> Any:
    made = _their_copy(self)
    made.call_begins = self.call_begins
    return made


def _advance(self: Any, token: int) -> None:
    """A call ends the thinking. Else its arguments would count, and be broken off by the end of the
    thinking."""
    if token == self.call_begins and self._is_thinking():
        self._thinking_match_history.append(self._matched_think_end_tokens)
        self.tokens_after_end = 0
    else:
        _their_transfer(self, token)


def _count(self: Any, token_id: Any, think_end_ids: Any) -> None:
    """Tokens of thinking, as `usage` tells them: those of a call and of what follows are none."""
    tokens = token_id if isinstance(token_id, list) else [token_id]
    if self.call_begins in tokens and not self._is_reasoning_over:
        _their_count(self, tokens[: tokens.index(self.call_begins)], think_end_ids)
        self._is_reasoning_over = True
    else:
        _their_count(self, tokens, think_end_ids)


_their_init: Any = ReasonerGrammarBackend.__init__
_their_make: Any = ReasonerGrammarBackend._make_grammar_object
_their_copy: Any = ReasonerGrammarObject.copy
_their_transfer: Any = ReasonerGrammarObject.transfer_state
_their_count: Any = Req.update_reasoning_tokens
ReasonerGrammarBackend.__init__ = _prepare
ReasonerGrammarBackend._make_grammar_object = _budgets
ReasonerGrammarObject.call_begins = Req.call_begins = None
Req.update_reasoning_tokens = _count
ReasonerGrammarObject.copy, ReasonerGrammarObject.transfer_state = _copy, _advance
base_grammar_backend.ThreadPoolExecutor = _limited
base_grammar_backend.BaseGrammarBackend.set_cache = _set_cache
llguidance_backend.GuidanceBackend = LimitedBackend
