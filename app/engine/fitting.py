"""How a conversation is written so that one model's chat template takes it and reads all of it.

    ChatPrompt ── tools and calls as text, for a template that knows none
       │       ── system messages where it keeps them              system_turns.py
       │       ── turns, calls and texts as it takes them          turn_shapes.py
       │       ── ids of calls and effort as it takes them
       ▼
    ChatPrompt

What a template refuses or loses is tried when it is loaded, and not at each request: a conversation
must begin with the same tokens at each turn.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence

import msgspec

from app.engine.system_turns import SystemTurns
from app.engine.turn_shapes import CALLED, TOOLS, TurnShapes, written
from app.types import ChatPrompt, Json, Message, Text, Tool, ToolCall, ToolUse, texts

Render = Callable[[ChatPrompt], str | None]
"""A conversation as text; None if the template refuses it."""
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

_replace = msgspec.structs.replace
_TOOLS_INTRODUCED = (
    "You can call functions to help with the user's request. These are available, each described "
    "by a JSON object within <tools></tools>:\n<tools>\n{tools}\n</tools>\n\nTo call one, write a "
    'JSON object with its name and arguments within <tool_call></tool_call>:\n<tool_call>\n{{"name"'
    ': "the function\'s name", "arguments": {{"argument": "value"}}}}\n</tool_call>'
)
_RESPONSE = ("<tool_response>\n", "\n</tool_response>")


def call_as_text(call: ToolCall) -> str:
    """By the convention of Hermes, which most models have seen in training."""
    arguments = call.arguments or "{}"
    name = json.dumps(call.name)
    return f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'


class Fitting(msgspec.Struct, frozen=True):
    """What one template wants."""

    knows_tools: bool = True
    system_turns: SystemTurns = SystemTurns()
    shapes: TurnShapes = TurnShapes()
    short_ids: bool = False
    """Ids of calls have nine letters and digits (Mistral's templates)."""
    efforts: dict[str, str | None] = {}
    """What it is asked for instead of an effort that it refuses; None: nothing."""
    write: Callable[[ToolCall], str] = call_as_text
    """A call as text, for a template that does not show calls."""

    @classmethod
    def tried(
        cls, render: Render, *, knows_tools: bool, write: Callable[[ToolCall], str] | None = None
    ) -> Fitting:
        """`knows_tools`: tools are said to the template. `write`: a call as this model does."""
        fitting = cls(knows_tools, write=write or call_as_text)
        if knows_tools and render(_probe(CALLED)) is None:
            short = _replace(fitting, short_ids=True)
            if render(short._with_ids(_probe(CALLED))) is not None:
                fitting = short

        def text(messages: list[Message]) -> str | None:
            return render(fitting._with_ids(_probe(messages)))

        return _replace(
            fitting,
            system_turns=SystemTurns.tried(text),
            shapes=TurnShapes.tried(text, calls=knows_tools),
            efforts=dict(_efforts(render)),
        )

    def fitted(self, chat: ChatPrompt) -> ChatPrompt:
        messages = chat.messages
        if not self.knows_tools and chat.tool_use and chat.tool_use.tools:
            messages = _introduced(messages, chat.tool_use.tools)
        messages = self.system_turns.fitted(messages)
        if not self.knows_tools:
            messages = [_with_result_as_text(each) for each in written(messages, call_as_text)]
        messages = self.shapes.fitted(messages, self.write)
        effort = self.efforts.get(chat.effort, chat.effort) if chat.effort else None
        return self._with_ids(_replace(chat, messages=messages, effort=effort))

    def _with_ids(self, chat: ChatPrompt) -> ChatPrompt:
        if not self.short_ids:
            return chat
        return _replace(chat, messages=list(map(_with_short_ids, chat.messages)))


def _with_short_ids(message: Message) -> Message:
    """The same id becomes the same, so that calls and results keep together."""
    if message.tool_call_id:
        return _replace(message, tool_call_id=_short(message.tool_call_id))
    if message.calls:
        calls = tuple(_replace(call, id=_short(call.id)) for call in message.calls)
        return _replace(message, calls=calls)
    return message


def _short(id: str) -> str:
    return hashlib.sha256(id.encode(errors="replace")).hexdigest()[:9]


def _efforts(render: Render) -> Iterator[tuple[str, str | None]]:
    """Each that the template refuses, and the nearest that it takes."""
    asks = [Message(role="user", parts=(Text("hi"),))]
    if render(ChatPrompt(asks)) is None:
        return
    taken = [each for each in EFFORTS if render(ChatPrompt(asks, effort=each)) is not None]
    for effort in EFFORTS:
        if effort not in taken:
            yield effort, _nearest(effort, taken)


def _nearest(effort: str, taken: Sequence[str]) -> str | None:
    def distance(other: str) -> int:
        return abs(EFFORTS.index(other) - EFFORTS.index(effort))

    return min(taken, key=distance, default=None)


def _probe(messages: Sequence[Message]) -> ChatPrompt:
    called = any(message.calls for message in messages)
    use = ToolUse(tools=TOOLS, allowed=()) if called else None
    return ChatPrompt(list(messages), tool_use=use)


# -- templates that know no tools ----------------------------------------------------------------


def shown(tool: Tool) -> Json:
    """OpenAI's JSON of a function, with all that templates read of it. Several refuse a function
    without a description, or leave one without properties out."""
    parameters = tool.parameters or {"type": "object"}
    if parameters.keys() <= {"type", "title", "description", "required", "additionalProperties"}:
        parameters = {"type": "object", **parameters, "properties": {}}
    function = {"name": tool.name, "description": tool.description or "", "parameters": parameters}
    return {"type": "function", "function": function}


def _introduced(messages: list[Message], tools: Sequence[Tool]) -> list[Message]:
    """The tools in the system message."""
    listed = "\n".join(json.dumps(shown(tool), ensure_ascii=False) for tool in tools)
    introduction = _TOOLS_INTRODUCED.format(tools=listed)
    if messages[0].role != "system":
        return [Message(role="system", parts=(Text(introduction),)), *messages]
    system = "\n".join(texts(messages[0].parts))
    parts = (Text(f"{system}\n\n{introduction}"),)
    return [_replace(messages[0], parts=parts), *messages[1:]]


def _with_result_as_text(message: Message) -> Message:
    if message.role != "tool":
        return message
    begin, end = map(Text, _RESPONSE)
    if all(isinstance(part, Text) for part in message.parts):
        parts = (Text("\n".join(texts(message.parts)).join(_RESPONSE)),)
        return _replace(message, role="user", tool_call_id=None, parts=parts)
    return _replace(message, role="user", tool_call_id=None, parts=(begin, *message.parts, end))
