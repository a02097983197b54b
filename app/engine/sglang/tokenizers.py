"""Two tokenizers and two chat renderers: one pair for the event loop, one for the prompt thread.

The fast tokenizers forbid use from two threads at once. Long prompts are prepared in one thread
beside the loop, while SGLang tokenises stop strings on the loop.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable
from typing import Any

from app.engine.sglang.chat import ChatRenderer
from app.engine.sglang.fast_encode import use_fast_encode
from app.grammars.compiler import Vocabulary
from app.logs.setup import log


class Tokenizing:
    """The pair of one thread."""

    __slots__ = ("renderer", "tokenizer")

    def __init__(self, manager: Any, templates: Any, tokenizer: Any) -> None:
        use_fast_encode(tokenizer)
        self.tokenizer = tokenizer
        self.renderer = ChatRenderer(manager, templates, tokenizer)


class Tokenizers:
    """Both pairs, chosen by the calling thread. Made on the event loop."""

    def __init__(self, manager: Any, templates: Any) -> None:
        """`manager`, `templates`: SGLang's TokenizerManager and TemplateManager."""
        copied = copy.deepcopy(manager.tokenizer)
        self.loop = Tokenizing(manager, templates, manager.tokenizer)
        self._thread = Tokenizing(manager, templates, copied)
        self._loop_thread = threading.get_ident()
        model = manager.model_config
        self._size: int = model.vocab_size
        self._end: Iterable[int] | None = model.hf_eos_token_id

    def here(self) -> Tokenizing:
        return self.loop if threading.get_ident() == self._loop_thread else self._thread

    def for_grammars(self) -> Vocabulary | None:
        """None, and a warning, if the tokenizer has no form that grammars can use."""
        vocabulary = vocabulary_of(self._thread.tokenizer, self._size, self._end)
        if vocabulary is None:
            log.warning("no grammars: the tokenizer has no form that llguidance can use")
        return vocabulary


def vocabulary_of(tokenizer: Any, size: int, end: Iterable[int] | None) -> Vocabulary | None:
    """The vocabulary for grammars, the same in the server and in the engine's processes.

    `size`: rows of the embedding. `end`: ids of the tokens that end an answer; None: the
    tokenizer's own.
    """
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return None
    backend = copy.copy(tokenizer.backend_tokenizer)
    backend.no_padding()
    backend.no_truncation()
    ids = tuple(sorted(end)) if end else (tokenizer.eos_token_id,)
    return Vocabulary(backend.to_str(), size, tuple(id for id in ids if id is not None))
