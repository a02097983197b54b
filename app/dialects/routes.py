"""Every dialect that is served, whoever carries it: HTTP or RunPod's jobs."""

from __future__ import annotations

from typing import Any

from app.dialects.base import Dialect
from app.dialects.chat import CHAT
from app.dialects.completions import COMPLETIONS
from app.dialects.embeddings import EMBEDDINGS
from app.dialects.native import NATIVE
from app.dialects.tokens import COUNT, DETOKENIZE, TOKENIZE

DIALECTS: tuple[Dialect[Any], ...] = (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    TOKENIZE,
    DETOKENIZE,
    COUNT,
    NATIVE,
)
