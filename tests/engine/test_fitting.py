"""Whatever a chat template refuses or loses, it reads all that a conversation says."""

from __future__ import annotations

import json
import time
from functools import cache
from itertools import count
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.fitting import EFFORTS, Fitting, Render, shown
from app.engine.turn_shapes import TurnShapes
from app.types import ChatPrompt, Message, Picture, Text, Tool, ToolCall, ToolUse, texts

REFUSE = "{{ raise('refused') }}"
CALLS = "{% for c in m.tool_calls %}<call {{ c.id }}>{{ c.name }} {{ c.arguments }}{% endfor %}"
SAID = "<{{ m.role }}>{{ m.content }}"
ALTERNATE = (
    "{% set ns = namespace(user=true) %}{% for m in messages %}"
    "{% if m.role == 'user' or m.role == 'assistant' and not m.tool_calls %}"
    "{% if (m.role == 'user') != ns.user %}" + REFUSE + "{% endif %}"
    "{% set ns.user = not ns.user %}{% endif %}{% endfor %}"
)
FRONT = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    + REFUSE
    + "{% endif %}{% endfor %}"
)
ROLES_ONLY = (
    "{% for m in messages %}{% if m.role not in ('user', 'assistant') %}"
    + REFUSE
    + "{% endif %}{% endfor %}"
)
TEMPLATES = {
    "takes all": "{% for m in messages %}" + SAID + CALLS + "{% endfor %}",
    "wants turns to alternate": FRONT
    + ALTERNATE
    + "{% for m in messages %}"
    + SAID
    + CALLS
    + "{% endfor %}",
    "wants turns to alternate, and knows nothing else": ROLES_ONLY
    + ALTERNATE
    + "{% for m in messages %}"
    + SAID
    + "{% endfor %}",
    "takes one call at a time": (
        "{% for m in messages %}{% if m.tool_calls | length > 1 %}"
        + REFUSE
        + "{% endif %}"
        + SAID
        + CALLS
        + "{% endfor %}"
    ),
    "shows the first call": (
        "{% for m in messages %}"
        + SAID
        + "{% if m.tool_calls %}<call>{{ m.tool_calls[0].arguments }}{% endif %}{% endfor %}"
    ),
    "shows no call": "{% for m in messages %}" + SAID + "{% endfor %}",
    "drops the text beside a call": (
        "{% for m in messages %}{% if m.tool_calls %}" + CALLS + "{% else %}" + SAID + "{% endif %}"
        "{% endfor %}"
    ),
    "writes the system message into the user's last message": (
        "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}"
        "{% set ns.system = ns.system + m.content %}{% endif %}{% endfor %}"
        "{% for m in messages %}{% if m.role == 'user' and loop.last %}{{ ns.system }}{% endif %}"
        "{% if m.role != 'system' %}" + SAID + CALLS + "{% endif %}{% endfor %}"
    ),
    "takes short ids": (
        "{% for m in messages %}{% for c in m.tool_calls %}{% if c.id | length != 9 %}"
        + REFUSE
        + "{% endif %}{% endfor %}"
        + SAID
        + CALLS
        + "{% endfor %}"
    ),
}
"""Shapes that were seen: Qwen, Mistral, Gemma 2, Llama 3, gpt-oss, LFM2, Hermes, Mistral Nemo,
Mistral."""
KNOW_NO_TOOLS = ("wants turns to alternate, and knows nothing else",)


@cache
def renderer(template: str, *, efforts: tuple[str, ...] = EFFORTS) -> Render:
    def refuse(reason: str) -> None:
        raise jinja2.TemplateError(reason)

    compiled = jinja2.Environment().from_string(template, {"raise": refuse})

    def render(chat: ChatPrompt) -> str | None:
        if chat.effort is not None and chat.effort not in efforts:
            return None
        turns = [
            {
                "role": each.role,
                "content": "".join(texts(each.parts)),
                "tool_calls": each.calls,
            }
            for each in chat.messages
        ]
        try:
            return compiled.render(messages=turns)
        except jinja2.TemplateError:
            return None

    return render


@cache
def tried(kind: str) -> Fitting:
    return Fitting.tried(renderer(TEMPLATES[kind]), knows_tools=kind not in KNOW_NO_TOOLS)


def said(role: Any, text: str = "", *calls: ToolCall) -> Message:
    return Message(role=role, parts=(Text(text),) if text else (), calls=calls)


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """Any order of turns; calls, some with text beside them, have results in any order or none."""
    numbers = count()
    messages: list[Message] = []
    for kind in draw(st.lists(st.sampled_from(["system", "user", "assistant", "calls"]))):
        text = f"said {next(numbers)};"
        if kind != "calls":
            empty = kind == "assistant" and draw(st.booleans())
            messages.append(said(kind, "" if empty else text))
            continue
        calls = [
            ToolCall(f"call_{no:024}", f"tool_{no % 2}", json.dumps({"x": f"call {no};"}))
            for no in (next(numbers) for _ in range(draw(st.integers(1, 3))))
        ]
        messages.append(said("assistant", text if draw(st.booleans()) else "", *calls))
        for call in draw(st.permutations(calls)):
            if draw(st.booleans()):
                result = Text(f"result {next(numbers)};")
                messages.append(Message(role="tool", parts=(result,), tool_call_id=call.id))
    return messages


TOOLS = ToolUse(tools=(Tool(name="tool_0"), Tool(name="tool_1")), allowed=())


@pytest.mark.parametrize("kind", TEMPLATES)
@given(conversations())
def test_all_that_was_said_and_called_is_read(kind: str, messages: list[Message]) -> None:
    if not messages:
        return
    fitted = tried(kind).fitted(ChatPrompt(messages, tool_use=TOOLS))
    text = renderer(TEMPLATES[kind])(fitted)
    assert text is not None
    for message in messages:
        for mark in texts(message.parts):
            assert mark in text
        for call in message.calls:
            assert json.loads(call.arguments)["x"] in text


@pytest.mark.parametrize("kind", TEMPLATES)
@given(conversations())
def test_a_prompt_begins_with_that_of_the_turn_before(kind: str, messages: list[Message]) -> None:
    """As agents send it: what the user or a tool said last is followed by an answer."""
    fitting, render = tried(kind), renderer(TEMPLATES[kind])

    def prompt(length: int) -> str:
        text = render(fitting.fitted(ChatPrompt(messages[:length], tool_use=TOOLS)))
        assert text is not None
        return text

    for at in range(1, len(messages)):
        before, answer = messages[at - 1], messages[at]
        answers = answer.role == "assistant" and (answer.parts or answer.calls)
        if before.role in ("user", "tool") and answers:
            assert prompt(len(messages)).startswith(prompt(at))


def test_a_template_that_takes_all_gets_the_conversation_as_it_is() -> None:
    fitting = tried("takes all")
    call = ToolCall("call_1", "look", "{}")
    messages = [said("user", "a"), said("user", "b"), said("assistant", "c", call, call)]
    assert fitting.shapes == TurnShapes()
    assert fitting.fitted(ChatPrompt(messages)).messages == messages


def test_turns_alternate_by_joining_neighbours_and_filling_what_nobody_said() -> None:
    fitting = tried("wants turns to alternate")
    call = ToolCall("call_1", "look", "{}")
    result = Message(role="tool", parts=(Text("seen"),), tool_call_id="call_1")
    messages = [
        said("assistant", "Welcome."), said("user", "a"), said("user", "b"),
        said("assistant", "", call), result, said("user", "c"),
    ]  # fmt: skip
    fitted = fitting.fitted(ChatPrompt(messages)).messages
    assert [(each.role, "".join(texts(each.parts))) for each in fitted] == [
        ("user", "Hello."), ("assistant", "Welcome."), ("user", "a\n\nb"),
        ("assistant", ""), ("tool", "seen"), ("assistant", "OK."), ("user", "c"),
    ]  # fmt: skip


def test_several_calls_become_messages_each_with_its_own_result() -> None:
    first, second = ToolCall("call_1", "look", "{}"), ToolCall("call_2", "listen", "{}")
    results = [
        Message(role="tool", parts=(Text(each.name),), tool_call_id=each.id)
        for each in (second, first)
    ]
    messages = [said("user", "a"), said("assistant", "b", first, second), *results]
    for kind in ("takes one call at a time", "shows the first call"):
        assert tried(kind).fitted(ChatPrompt(messages)).messages == [
            said("user", "a"), said("assistant", "b", first), results[1],
            said("assistant", "", second), results[0],
        ]  # fmt: skip


def test_a_call_is_written_as_the_model_writes_it_where_the_template_shows_none() -> None:
    fitting = Fitting.tried(
        renderer(TEMPLATES["shows no call"]), knows_tools=True, write=lambda call: f"<{call.name}>"
    )
    messages = [said("user", "a"), said("assistant", "b", ToolCall("1", "look", "{}"))]
    assert fitting.fitted(ChatPrompt(messages)).messages[1] == said("assistant", "b\n<look>")


def test_short_ids_keep_calls_and_results_together() -> None:
    calls = tuple(ToolCall(f"call_{no:032d}", "look", "{}") for no in range(3))
    results = [Message(role="tool", parts=(Text("x"),), tool_call_id=call.id) for call in calls]
    messages = [said("user", "look"), said("assistant", "", *calls), *results]
    fitted = tried("takes short ids").fitted(ChatPrompt(messages)).messages
    ids = [call.id for call in fitted[1].calls]
    assert len(set(ids)) == 3
    assert all(len(id) == 9 and id.isalnum() for id in ids)
    assert [message.tool_call_id for message in fitted[2:]] == ids


def test_results_belong_to_calls_by_their_ids_or_else_by_their_order() -> None:
    calls = [ToolCall(id, name, "{}") for id, name in (("a", "one"), ("", "two"), ("a", "three"))]
    results = [
        Message(role="tool", parts=(Text(text),), tool_call_id=id)
        for text, id in (("first", "a"), ("second", "other"), ("third", "a"), ("fourth", "x"))
    ]
    messages = [said("user", "a"), said("assistant", "", *calls), *results]
    fitted = tried("takes one call at a time").fitted(ChatPrompt(messages)).messages
    assert [each.calls[0].name if each.calls else texts(each.parts)[0] for each in fitted[1:]] == [
        "one", "first", "two", "second", "three", "third", "fourth",
    ]  # fmt: skip
    assert fitted[4].tool_call_id == ""


def test_what_the_answer_continues_stays_as_it_is() -> None:
    call = ToolCall("call_1", "look", "{}")
    for kind in TEMPLATES:
        for before in (said("user", "a"), said("assistant", "", call)):
            messages = [said("user", "x"), before, said("assistant", "begun", call)]
            chat = ChatPrompt(messages, continues=True, tool_use=TOOLS)
            fitted = tried(kind).fitted(chat).messages
            assert fitted[-1] == said("assistant", "begun")
            assert all("begun" not in text for each in fitted[:-1] for text in texts(each.parts))
    alone = ChatPrompt([said("assistant", "begun")], continues=True, tool_use=TOOLS)
    assert tried(KNOW_NO_TOOLS[0]).fitted(alone).messages[-1] == said("assistant", "begun")


@pytest.mark.parametrize(
    ("template", "known"),
    [
        ("{% for m in messages %}" + SAID + "{% endfor %}", True),
        ("{% for m in messages %}{% if m.role != 'developer' %}" + SAID + "{% endif %}{% endfor %}",
         False),
        ("{% for m in messages %}{% if m.role != 'developer' or loop.first %}" + SAID
         + "{% endif %}{% endfor %}", False),
    ],
)  # fmt: skip
def test_a_developers_message_becomes_one_of_the_system_where_it_would_be_lost(
    template: str, known: bool
) -> None:
    render = renderer(template)
    fitting = Fitting.tried(render, knows_tools=False)
    messages = [said("system", "a;"), said("developer", "b;"), said("user", "c;"),
                said("assistant", "d;"), said("developer", "e;"), said("user", "f;")]  # fmt: skip
    assert fitting.knows_developer is known
    text = render(fitting.fitted(ChatPrompt(messages))) or ""
    assert all(f"{mark};" in text for mark in "abcdef")


def test_a_template_that_takes_no_conversation_without_tools_is_tried_with_them() -> None:
    plain = renderer(TEMPLATES["takes all"])
    fitting = Fitting.tried(lambda chat: plain(chat) if chat.tool_use else None, knows_tools=True)
    assert fitting == Fitting.tried(plain, knows_tools=True)


def test_eight_thousand_messages_of_the_user_become_one_in_a_moment() -> None:
    messages = [said("user", "x" * 244) for _ in range(8192)]
    began = time.process_time()
    tried("wants turns to alternate").fitted(ChatPrompt(messages))
    assert time.process_time() - began < 0.5


def test_a_picture_of_a_result_keeps_its_place_where_results_become_text() -> None:
    picture = Picture(url="data:", param="messages[2]")
    result = Message(role="tool", parts=(Text("seen"), picture), tool_call_id="1")
    messages = [said("user", "a"), said("assistant", "", ToolCall("1", "look", "{}")), result]
    fitted = tried(KNOW_NO_TOOLS[0]).fitted(ChatPrompt(messages)).messages
    assert fitted[-1].role == "user"
    assert fitted[-1].parts[1:3] == (Text("seen"), picture)


def test_an_effort_that_the_template_refuses_becomes_the_nearest_that_it_takes() -> None:
    some = Fitting.tried(
        renderer(TEMPLATES["takes all"], efforts=("low", "high")), knows_tools=True
    )
    chat = ChatPrompt([said("user", "a")])
    for asked, shown_ in (("none", None), ("low", "low"), ("medium", "low"), ("max", "high")):
        assert some.fitted(ChatPrompt(chat.messages, effort=asked)).effort == shown_
    assert some.fitted(ChatPrompt(chat.messages, effort="none")).template_kwargs == {
        "enable_thinking": False, "thinking": False,
    }  # fmt: skip
    none = Fitting.tried(renderer(TEMPLATES["takes all"], efforts=()), knows_tools=True)
    assert none.fitted(ChatPrompt(chat.messages, effort="high")).effort is None


def test_a_tool_is_shown_with_what_templates_read_of_it() -> None:
    bare = {"type": "object", "properties": {}}
    assert shown(Tool(name="f"))["function"] == {
        "name": "f", "description": "", "parameters": bare,
    }  # fmt: skip
    for parameters in ({}, {"type": "object"}):
        assert shown(Tool(name="f", parameters=parameters))["function"]["parameters"] == bare
    for parameters in ({"$ref": "#/x"}, {"type": "object", "properties": {"a": {}}}):
        assert shown(Tool(name="f", parameters=parameters))["function"]["parameters"] == parameters
