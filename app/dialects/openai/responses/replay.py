"""The events of a response that is kept, for who follows it after its end."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from app.dialects.openai.responses.output_items import (
    THINKING,
    CallOutput,
    CustomCallOutput,
    HiddenOutput,
    MessageOutput,
    OutputItem,
    SummaryOutput,
    ThinkingOutput,
)
from app.dialects.openai.responses.presenter import ResponsePresenter
from app.dialects.openai.responses.response import Bytes, Rendered, ResponseObject
from app.errors import ServeError
from app.events import Usage
from app.store.records import Kept
from app.types import Json

_MOST_BYTES = 2**20
_EVENTS = {"completed": "completed", "failed": "failed"}
"""Of the status; else `incomplete`."""


class _KeptObject(ResponseObject):
    """The response as it was kept, in the states that it went through."""

    def __init__(self, kept: Kept) -> None:
        self.id = kept.id
        # Without its output, which may be megabytes.
        self._body: Json = orjson.loads(kept.head + kept.tail)

    def render(
        self,
        status: str,
        output: Sequence[Bytes],
        *,
        usage: Usage | None = None,
        error: ServeError | None = None,
        incomplete: str | None = None,
    ) -> Rendered:
        changed: Json = {
            "status": status,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "usage": None,
            "output": [orjson.Fragment(bytes(item)) for item in output],
        }
        return Rendered(orjson.dumps(self._body | changed), b"", b"")


def events(kept: Kept, *, after: int) -> bytes:
    """The frames after this number. If there were more while it was generated, the last one."""
    presenter = ResponsePresenter(
        _KeptObject(kept),
        owners={},
        channel="text",
        seal=None,
        keeper=None,
        scores=False,
        stream=True,
    )
    # A longer one would stop everything else for too long: the last event has all of it.
    items = orjson.loads(b"[%b]" % kept.output) if len(kept.output) <= _MOST_BYTES else []
    return presenter.replay(
        [_item(item, place) for place, item in enumerate(items)],
        _EVENTS.get(kept.status, "incomplete"),
        Rendered(kept.head, kept.output, kept.tail),
        after,
    )


def _item(item: Json, place: int) -> tuple[OutputItem, str, str, Sequence[Json]]:
    """The item without its text; its text, its status and its log-probabilities."""
    made: OutputItem
    scores: list[Json] = []
    id, status = item["id"], item.get("status") or "completed"
    match item["type"]:
        case "message":
            made = MessageOutput(id, place)
            parts = item["content"]
            scores = [score for part in parts for score in part.get("logprobs") or ()]
            text = "".join(part.get("text") or "" for part in parts)
        case "reasoning":
            kind: type[ThinkingOutput]
            if item.get("content"):
                kind, parts = THINKING["text"], item["content"]
            elif item.get("summary"):
                kind, parts = SummaryOutput, item["summary"]
            else:
                kind, parts = HiddenOutput, []
            sealed = item.get("encrypted_content")
            made = kind(id, place, None if sealed is None else lambda _: str(sealed))
            text = "".join(part["text"] for part in parts)
        case kind_:
            owner = (item.get("namespace"), item["name"])
            custom = kind_ == "custom_tool_call"
            made = (CustomCallOutput if custom else CallOutput)(id, place, item["call_id"], owner)
            text = item["input" if custom else "arguments"]
    return made, text, status, scores
