"""Two tokenizers and two chat renderers: one pair for the event loop, one for the prompt thread.

The fast tokenizers forbid use from two threads at once. Long prompts are prepared in one thread
beside the loop, while SGLang tokenises stop strings on the loop.
"""

from __future__ import annotations

import copy
import threading
from typing import Any

from app.engine.sglang.chat import ChatRenderer
from app.engine.sglang.fast_encode import use_fast_encode
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

    def here(self) -> Tokenizing:
        return self.loop if threading.get_ident() == self._loop_thread else self._thread

    def grammar_vocabulary(self, vocab_size: int) -> str | None:
        """The vocabulary as xgrammar serialises it; None if it cannot."""
        from xgrammar import TokenizerInfo

        try:
            vocabulary = TokenizerInfo.from_huggingface(
                self._thread.tokenizer, vocab_size=vocab_size
            )
            return str(vocabulary.serialize_json())
        except Exception:  # a tokenizer of another kind; the engine still compiles for itself
            log.warning("grammars are not tried before the engine gets them", exc_info=True)
            return None
