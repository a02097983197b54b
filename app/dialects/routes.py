"""Everything that is served, over HTTP and in RunPod jobs."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from app.dialects.anthropic.answer import COUNT_TOKENS, MESSAGES
from app.dialects.contract import Dialect, Resource
from app.dialects.openai import files
from app.dialects.openai.chat import CHAT
from app.dialects.openai.completions import COMPLETIONS
from app.dialects.openai.embeddings import EMBEDDINGS
from app.dialects.openai.responses import conversations, stored
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
RESOURCES: tuple[Resource, ...] = (
    *stored.RESOURCES,
    *conversations.RESOURCES,
    *files.RESOURCES,
)


def resource_at(method: str, path: str) -> tuple[Resource, dict[str, str]] | None:
    """The resource, and what stands in the path for the names in braces."""
    for resource in RESOURCES:
        if resource.method == method and (matched := _pattern(resource.path).fullmatch(path)):
            return resource, matched.groupdict()
    return None


def methods_of(path: str) -> set[str]:
    """Of the resources at a path; none: there is no resource."""
    return {each.method for each in RESOURCES if _pattern(each.path).fullmatch(path)}


def route_of(path: str) -> str:
    """The path of the resources at a path, with names in braces."""
    return next(each.path for each in RESOURCES if _pattern(each.path).fullmatch(path))


@cache
def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path))
