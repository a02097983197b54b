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
from app.engine.turn_shapes import CALLED, TOOLS, TurnShapes, calls_as_text
from app.types import ChatPrompt, Json, Message, Role, Text, Tool, ToolCall, ToolUse, texts

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
_SHORT = 9
_RESPONSE = ("<tool_response>\n", "\n</tool_response>")


def call_as_text(call: ToolCall) -> str:
    """By the convention of Hermes, which most models have seen in training."""
    arguments = call.arguments or "{}"
    name = json.dumps(call.name)
    return f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'


class Fitting(msgspec.Struct, frozen=True):
    """What one template wants."""

    knows_tools: bool = True
    knows_developer: bool = True
    """It shows a developer's message wherever it shows a system message."""
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
        cls,
        render: Render,
        *,
        knows_tools: bool,
        knows_developer: bool = True,
        write: Callable[[ToolCall], str] | None = None,
    ) -> Fitting:
        """`knows_tools`, `knows_developer`: it names them. `write`: a call as this model does."""
        fitting = cls(knows_tools, knows_developer, write=write or call_as_text)
        # Some take no conversation without tools.
        needs_tools = knows_tools and _refuses_without_tools(render)

        def text(messages: Sequence[Message], fitted: Fitting | None = None) -> str | None:
            shown = needs_tools or any(each.calls or each.role == "tool" for each in messages)
            use = ToolUse(tools=TOOLS, allowed=()) if shown else None
            return render((fitted or fitting)._with_ids(ChatPrompt(list(messages), tool_use=use)))

        if knows_tools and text(CALLED) is None:
            short = _replace(fitting, short_ids=True)
            if text(CALLED, short) is not None:
                fitting = short
        turns = SystemTurns.tried(text, CALLED if knows_tools else ())
        return _replace(
            fitting,
            knows_developer=knows_developer and _keeps_developer(text, turns),
            system_turns=turns,
            shapes=TurnShapes.tried(text, calls=knows_tools),
            efforts=dict(_efforts(render)),
        )

    def fitted(self, chat: ChatPrompt) -> ChatPrompt:
        messages = chat.messages
        if not self.knows_developer:
            messages = list(map(_with_system_role, messages))
        # SGLang takes the last message away if the answer continues it, and adds its text.
        last = [_replace(messages[-1], calls=(), reasoning=None)] if chat.continues else []
        messages = messages[: len(messages) - len(last)]
        if not self.knows_tools and chat.tool_use and chat.tool_use.tools:
            messages = _introduced(messages, chat.tool_use.tools)
        messages = self.system_turns.fitted(messages)
        if not self.knows_tools:
            messages = list(map(_with_result_as_text, calls_as_text(messages, call_as_text)))
        messages = self.shapes.fitted(messages, self.write)
        chat = _replace(self._with_effort(chat), messages=[*messages, *last])
        return self._with_ids(chat)

    def _with_effort(self, chat: ChatPrompt) -> ChatPrompt:
        if chat.effort not in self.efforts:
            return chat
        kwargs = chat.template_kwargs
        if chat.effort == "none":
            kwargs = {"enable_thinking": False, "thinking": False, **kwargs}
        return _replace(chat, effort=self.efforts[chat.effort], template_kwargs=kwargs)

    def _with_ids(self, chat: ChatPrompt) -> ChatPrompt:
        if not self.short_ids:
            return chat
        return _replace(chat, messages=list(map(_with_short_ids, chat.messages)))


def _refuses_without_tools(render: Render) -> bool:
    asked = [Message(role="user", parts=(Text("hi"),))]
    use = ToolUse(tools=TOOLS, allowed=())
    return render(ChatPrompt(asked)) is None and render(ChatPrompt(asked, tool_use=use)) is not None


def _keeps_developer(text: Callable[[list[Message]], str | None], turns: SystemTurns) -> bool:
    def keeps(*roles: Role) -> bool:
        said = [Message(role=role, parts=(Text(f"mark {no}"),)) for no, role in enumerate(roles)]
        return all(f"mark {no}" in (text(said) or "") for no in range(len(said)))

    return (
        (not turns.one or keeps("developer", "user"))
        and (not turns.several or keeps("system", "developer", "user"))
        and (not turns.late or keeps("user", "assistant", "developer", "user"))
    )


def _with_system_role(message: Message) -> Message:
    return _replace(message, role="system") if message.role == "developer" else message


def _with_short_ids(message: Message) -> Message:
    """The same id becomes the same, so that calls and results keep together."""
    if message.role == "tool":
        return _replace(message, tool_call_id=_short(message.tool_call_id or ""))
    if message.calls:
        calls = tuple(_replace(call, id=_short(call.id)) for call in message.calls)
        return _replace(message, calls=calls)
    return message


def _short(id: str) -> str:
    if len(id) == _SHORT and id.isascii() and id.isalnum():
        return id
    return hashlib.sha256(id.encode(errors="replace")).hexdigest()[:_SHORT]


def _efforts(render: Render) -> Iterator[tuple[str, str | None]]:
    """Each that the template refuses, and the nearest that it takes. `none` has no near one: every
    other lets the model think."""
    asked = [Message(role="user", parts=(Text("hi"),))]
    if render(ChatPrompt(asked)) is None:
        return
    taken = [each for each in EFFORTS if render(ChatPrompt(asked, effort=each)) is not None]
    thinking = [each for each in taken if each != "none"]
    for effort in EFFORTS:
        if effort not in taken:
            yield effort, None if effort == "none" else _nearest(effort, thinking)


def _nearest(effort: str, taken: Sequence[str]) -> str | None:
    def distance(other: str) -> int:
        return abs(EFFORTS.index(other) - EFFORTS.index(effort))

    return min(taken, key=distance, default=None)


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
    if not messages or messages[0].role != "system":
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
