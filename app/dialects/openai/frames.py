"""The JSON and server-sent events that the answers of OpenAI's endpoints share.

The parts of a text's frame that surround the text are rendered once per choice, so that for each
token only the text is escaped. Frames with log-probabilities or running usage are built in full.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache

import orjson

from app.dialects.json_array import encoded
from app.dialects.openai.errors import error_json
from app.errors import ServeError
from app.events import ScoredToken, Token, Usage
from app.types import Json


def usage_json(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens}
        | ({"image_tokens": usage.picture_tokens} if usage.picture_tokens else {}),
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def logprob_json(scored: ScoredToken) -> orjson.Fragment:
    """One token of `logprobs.content`, rendered."""
    top = b"},".join([_rendered(each) for each in scored.top])
    return orjson.Fragment(
        b'%b,"top_logprobs":[%b]}' % (_rendered(scored.token), top + b"}" if top else b"")
    )


def _rendered(token: Token) -> bytes:
    """The token's JSON without its closing brace."""
    before, after = _around(token.raw)
    return b"%b%b%b" % (before, orjson.dumps(token.logprob), after)


@lru_cache(65_536)
def _around(raw: bytes) -> tuple[bytes, bytes]:
    """The JSON before and after a token's log-probability, which is always the same."""
    text = orjson.dumps(raw.decode(errors="replace"))
    return b'{"token":%b,"logprob":' % text, b',"bytes":%b' % orjson.dumps(list(raw))


DONE = b"data: [DONE]\n\n"
"""The last event of a stream."""


def frame(data: Json) -> bytes:
    return b"data: " + encoded(data) + b"\n\n"


def error_frames(error: ServeError) -> bytes:
    """The end of a stream that failed."""
    return frame(error_json(error)) + DONE


class OpenAIFrames:
    """Base of the presenters of chat and plain completions: the frames of one answer.

    A subclass renders a text's frame as `self._heads[index]`, the text as JSON, and `self._tail`.
    """

    def __init__(
        self,
        *,
        id: str,
        object: str,
        model: str,
        fingerprint: str | None,
        choices: int,
        opening: bytes,
        closing: bytes,
        include_usage: bool,
    ) -> None:
        """`opening` and `closing`: the JSON of a choice before and after the text."""
        self._include_usage = include_usage
        self._scored: dict[int, list[ScoredToken]] = {}
        """By choice: tokens whose text comes with the next frame."""
        self._usage: Json | None = None
        """Usage so far, if frames carry it."""
        self._common: Json = {
            "id": id,
            "object": object,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        head = b"data: " + orjson.dumps(self._common)[:-1]
        self._heads = [
            b'%b,"choices":[{"index":%d,%b' % (head, index, opening) for index in range(choices)
        ]
        self._tail = closing + b"}]" + (b',"usage":null}\n\n' if include_usage else b"}\n\n")

    def fail(self, error: ServeError) -> bytes:
        return error_frames(error)

    def _note_scores(self, tokens: tuple[ScoredToken, ...], index: int) -> bytes:
        self._scored.setdefault(index, []).extend(tokens)
        return b""

    def _note_usage(self, usage: Usage) -> bytes:
        self._usage = usage_json(usage)
        return b""

    def _chunk(self, index: int, content: Json, finish_reason: str | None) -> bytes:
        """A frame of choice `index`; `content` is its `delta` or `text`."""
        scored = self._scored.pop(index, None) if self._scored else None
        choice = {
            "index": index,
            **content,
            "logprobs": self._logprobs_json(scored) if scored else None,
            "finish_reason": finish_reason,
        }
        usage = {"usage": self._usage} if self._include_usage or self._usage else {}
        return frame(self._common | {"choices": [choice]} | usage)

    def _logprobs_json(self, scored: Sequence[ScoredToken]) -> Json | None:
        """The scores of a choice, or of a piece of it, in this endpoint's format."""
        raise NotImplementedError

    def _end(self, usage: Usage) -> bytes:
        """The usage, if the client asked for it, and the end of the stream."""
        if not self._include_usage:
            return DONE
        return frame(self._common | {"choices": [], "usage": usage_json(usage)}) + DONE
