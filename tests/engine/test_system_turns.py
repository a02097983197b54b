"""No system message is lost, whatever a template does with them."""

from __future__ import annotations

from collections.abc import Callable

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.system_turns import SystemTurns
from app.types import Message, Text, ToolCall

_ROLE = "<{{ m.role }}>{{ m.content }}"
TEMPLATES = {
    "keeps all": "{% for m in messages %}" + _ROLE + "{% endfor %}",
    "refuses a second one": (
        "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
        "{{ raise('system must be first') }}{% endif %}" + _ROLE + "{% endfor %}"
    ),
    "drops a second one": (
        "{% for m in messages %}{% if m.role != 'system' or loop.first %}"
        + _ROLE
        + "{% endif %}{% endfor %}"
    ),
    "keeps those at the front": (
        "{% set ns = namespace(over=false) %}{% for m in messages %}{% if m.role != 'system' %}"
        "{% set ns.over = true %}{% elif ns.over %}{{ raise('late') }}{% endif %}"
        + _ROLE
        + "{% endfor %}"
    ),
    "keeps the last one": (
        "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}"
        "{% set ns.system = m.content %}{% endif %}{% endfor %}<system>{{ ns.system }}"
        "{% for m in messages %}{% if m.role != 'system' %}" + _ROLE + "{% endif %}{% endfor %}"
    ),
    "moves all to the front": (
        "{% for m in messages %}{% if m.role == 'system' %}" + _ROLE + "{% endif %}{% endfor %}"
        "{% for m in messages %}{% if m.role != 'system' %}" + _ROLE + "{% endif %}{% endfor %}"
    ),
    "knows none": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise('no system') }}{% endif %}"
        + _ROLE
        + "{% endfor %}"
    ),
}
"""Shapes that were seen: Llama, Qwen3.5, gpt-oss, -, DeepSeek, DeepSeek V3, Gemma 2."""


def renderer(template: str) -> Callable[[list[Message]], str | None]:
    def refuse(reason: str) -> None:
        raise jinja2.TemplateError(reason)

    compiled = jinja2.Environment().from_string(template, {"raise": refuse})

    def render(messages: list[Message]) -> str | None:
        turns = [
            {"role": each.role.replace("developer", "system"), "content": each.parts[0].text}
            for each in messages
        ]
        try:
            return compiled.render(messages=turns)
        except jinja2.TemplateError:
            return None

    return render


@pytest.mark.parametrize("kind", TEMPLATES)
@given(st.lists(st.sampled_from(["system", "developer", "user", "assistant"]), max_size=8))
def test_all_that_was_said_is_read_in_its_order(kind: str, roles: list[str]) -> None:
    render = renderer(TEMPLATES[kind])
    messages = [
        Message(role=role, parts=(Text(f"said {no};"),))  # type: ignore[arg-type]
        for no, role in enumerate(roles)
    ]
    text = render(SystemTurns.tried(render).fitted(messages))
    assert text is not None
    places = [text.find(f"said {no};") for no in range(len(roles))]
    assert -1 not in places
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("kind", "takes"),
    [
        ("keeps all", SystemTurns(one=True, several=True, late=True)),
        ("refuses a second one", SystemTurns(one=True, several=False, late=False)),
        ("drops a second one", SystemTurns(one=True, several=False, late=False)),
        ("keeps those at the front", SystemTurns(one=True, several=True, late=False)),
        ("keeps the last one", SystemTurns(one=True, several=False, late=False)),
        ("moves all to the front", SystemTurns(one=True, several=True, late=False)),
        ("knows none", SystemTurns(one=False, several=False, late=False)),
    ],
)
def test_what_a_template_takes_is_found_by_trying_it(kind: str, takes: SystemTurns) -> None:
    assert SystemTurns.tried(renderer(TEMPLATES[kind])) == takes


def test_what_a_template_keeps_is_left_as_it_is() -> None:
    messages = [
        Message(role="system", parts=(Text("a"),)),
        Message(role="user", parts=(Text("b"), Text("c"))),
        Message(role="developer", parts=(Text("d"),)),
    ]
    assert SystemTurns().fitted(messages) == messages


@pytest.mark.parametrize("kind", ["refuses a second one", "knows none"])
def test_a_message_beside_a_tools_result_becomes_a_part_of_it(kind: str) -> None:
    call = Message(role="assistant", calls=(ToolCall("1", "f", "{}"),))
    tool = Message(role="tool", parts=(Text("result"),), tool_call_id="1")
    late = Message(role="developer", parts=(Text("late"),))
    ask = Message(role="user", parts=(Text("ask"),))
    turns = SystemTurns.tried(renderer(TEMPLATES[kind]))
    for order in ([ask, call, late, tool], [ask, call, tool, late]):
        *before, last = turns.fitted(order)
        assert before == [ask, call]
        assert (last.role, last.tool_call_id) == ("tool", "1")
        assert last.parts[0].text == "result\n\nlate"
