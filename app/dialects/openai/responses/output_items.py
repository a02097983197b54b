"""The items of a response's output while they grow: their JSON, and the events of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

from app.dialects.json_array import JsonArray
from app.types import Json

Channel: TypeAlias = Literal["text", "summary", "hidden"]
"""How the thinking is shown: as itself, in the place of its summary, or not at all."""
ItemEvent: TypeAlias = tuple[str, Json]
"""Type without `response.`, and the fields beside the item's place."""


_REPEATED_BYTES = 2**20


def _start(kind: str) -> bytes:
    """The frame of a delta up to its number."""
    name = f"response.{kind}.delta".encode()
    return b'event: %b\ndata: {"type":"%b","sequence_number":' % (name, name)


class OutputItem:
    """An item. The JSON around the text of a delta is rendered once for each item."""

    delta_start = b""
    """b"": its text has no deltas."""
    delta_end = b"}\n\n"
    part_index: str | None = None
    """The field that numbers its parts, of which there is one."""

    def __init__(self, id: str, place: int) -> None:
        """`place`: in the output."""
        self.id = id
        self.pieces: list[str] = []
        part = b"" if self.part_index is None else b',"%b":0' % self.part_index.encode()
        self.delta_place = b',"item_id":"%b","output_index":%d%b,"delta":' % (
            id.encode(),
            place,
            part,
        )

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def opening(self) -> Iterable[ItemEvent]:
        """What follows `output_item.added`."""
        return ()

    def closing(self) -> Iterable[ItemEvent]:
        """What precedes `output_item.done`."""
        raise NotImplementedError

    def json(self, status: str) -> Json:
        raise NotImplementedError

    def context(self, status: str) -> Json:
        """As a later request reads it."""
        return self.json(status)


class MessageOutput(OutputItem):
    delta_start = _start("output_text")
    delta_end = b',"logprobs":[]}\n\n'
    part_index = "content_index"

    def __init__(self, id: str, place: int) -> None:
        super().__init__(id, place)
        self.scores = JsonArray()

    def opening(self) -> Iterable[ItemEvent]:
        yield "content_part.added", {"part": self._part()}

    def closing(self) -> Iterable[ItemEvent]:
        # They are in the item and in the response again: megabytes of them are not repeated.
        scores: Any = self.scores if len(self.scores) <= _REPEATED_BYTES else []
        yield "output_text.done", {"text": self.text, "logprobs": scores}
        yield "content_part.done", {"part": self._part() | {"logprobs": scores}}

    def json(self, status: str) -> Json:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [self._part()] if self.pieces or status != "in_progress" else [],
        }

    def context(self, status: str) -> Json:
        part = self._part() | {"logprobs": []}
        return self.json(status) | {"content": [part] if self.pieces else []}

    def _part(self) -> Json:
        return {
            "type": "output_text",
            "text": self.text,
            "annotations": [],
            "logprobs": self.scores,
        }


class ThinkingOutput(OutputItem):
    """Shown as itself."""

    delta_start = _start("reasoning_text")
    part_index: str | None = "content_index"

    def __init__(self, id: str, place: int, seal: Callable[[str], str] | None) -> None:
        """`seal`: makes `encrypted_content`; None: the client does not want it."""
        super().__init__(id, place)
        self._seal = seal

    def opening(self) -> Iterable[ItemEvent]:
        yield "content_part.added", {"part": self._part()}

    def closing(self) -> Iterable[ItemEvent]:
        yield "reasoning_text.done", {"text": self.text}
        yield "content_part.done", {"part": self._part()}

    def json(self, status: str) -> Json:
        item = {"id": self.id, "type": "reasoning", **self._shown(), "status": status}
        if self._seal is not None and status != "in_progress":
            item["encrypted_content"] = self._seal(self.text)
        return item

    def _shown(self) -> Json:
        return {"summary": [], "content": [self._part()] if self.pieces else []}

    def _part(self) -> Json:
        return {"type": "reasoning_text", "text": self.text}


class SummaryOutput(ThinkingOutput):
    """Shown where its summary would be: several clients show nothing else."""

    delta_start = _start("reasoning_summary_text")
    part_index = "summary_index"

    def opening(self) -> Iterable[ItemEvent]:
        yield "reasoning_summary_part.added", {"part": self._part()}

    def closing(self) -> Iterable[ItemEvent]:
        yield "reasoning_summary_text.done", {"text": self.text}
        yield "reasoning_summary_part.done", {"part": self._part()}

    def _shown(self) -> Json:
        return {"summary": [self._part()] if self.pieces else []}

    def _part(self) -> Json:
        return {"type": "summary_text", "text": self.text}


class HiddenOutput(ThinkingOutput):
    """Not shown."""

    delta_start = b""
    part_index = None

    def opening(self) -> Iterable[ItemEvent]:
        return ()

    def closing(self) -> Iterable[ItemEvent]:
        return ()

    def _shown(self) -> Json:
        return {"summary": []}

    def context(self, status: str) -> Json:
        part = {"type": "reasoning_text", "text": self.text}
        thought = {"id": self.id, "type": "reasoning", "summary": [], "content": [part]}
        return thought | {"hidden": True}


THINKING: dict[Channel, type[ThinkingOutput]] = {
    "text": ThinkingOutput,
    "summary": SummaryOutput,
    "hidden": HiddenOutput,
}


class CallOutput(OutputItem):
    """A call of a function."""

    delta_start = _start("function_call_arguments")
    kind = "function_call"
    key = "arguments"

    def __init__(self, id: str, place: int, call_id: str, owner: tuple[str | None, str]) -> None:
        """`owner`: namespace, if it has one, and name of the tool."""
        super().__init__(id, place)
        self._call_id = call_id
        namespace, self._name = owner
        self._namespace = {} if namespace is None else {"namespace": namespace}

    def closing(self) -> Iterable[ItemEvent]:
        yield "function_call_arguments.done", {"name": self._name, "arguments": self.text}

    def json(self, status: str) -> Json:
        return {
            "id": self.id,
            "type": self.kind,
            "call_id": self._call_id,
            "name": self._name,
            **self._namespace,
            self.key: self.text,
            "status": status,
        }


class CustomCallOutput(CallOutput):
    """A call of a tool that takes one text."""

    delta_start = _start("custom_tool_call_input")
    kind = "custom_tool_call"
    key = "input"

    def closing(self) -> Iterable[ItemEvent]:
        yield "custom_tool_call_input.done", {"input": self.text}
