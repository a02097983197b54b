"""Every dialect that is served, over HTTP and in RunPod jobs."""

from __future__ import annotations

from typing import Any

from app.dialects.anthropic.answer import COUNT_TOKENS, MESSAGES
from app.dialects.contract import Dialect
from app.dialects.openai.chat import CHAT
from app.dialects.openai.completions import COMPLETIONS
from app.dialects.openai.embeddings import EMBEDDINGS
from app.dialects.openai.responses.answer import INPUT_TOKENS, RESPONSES
from app.dialects.sglang.generate import GENERATE
from app.dialects.sglang.tokens import COUNT, DETOKENIZE, TOKENIZE, V1_DETOKENIZE, V1_TOKENIZE

DIALECTS: tuple[Dialect[Any], ...] = (
    CHAT,
    COMPLETIONS,
    RESPONSES,
    INPUT_TOKENS,
    MESSAGES,
    COUNT_TOKENS,
    EMBEDDINGS,
    TOKENIZE,
    V1_TOKENIZE,
    DETOKENIZE,
    V1_DETOKENIZE,
    COUNT,
    GENERATE,
)
