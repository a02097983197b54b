"""Turns in, messages out."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

from app.dialects.anthropic import conversation
from app.dialects.anthropic.body import CountBody
from app.types import Message, Text, ToolCall


def messages(*turns: dict[str, Any], system: Any = None) -> list[Message]:
    body = CountBody.model_validate({"model": "m", "messages": list(turns), "system": system})
    return conversation.messages(body.system, body.messages)


def of(role: str, text: str | None = None, **more: Any) -> Message:
    parts = () if text is None else (Text(text),)
    return Message(role=role, parts=parts, **more)  # type: ignore[arg-type]


def turn(role: str, *blocks: Any) -> dict[str, Any]:
    return {"role": role, "content": blocks[0] if isinstance(blocks[0], str) else list(blocks)}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value, "cache_control": {"type": "ephemeral"}}


def use(id: str, name: str = "f", **input: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": input}


def result(id: str, content: Any = "ok", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **more}


def test_the_system_is_one_message_without_what_differs_between_sessions() -> None:
    billing = "x-anthropic-billing-header: cc_version=2.1.197.0df; cc_entrypoint=cli;"
    blocks = [text(billing), text("You are kind."), text("\nAnd brief.")]
    assert messages(turn("user", "hi"), system=blocks) == [
        of("system", "You are kind.\n\n\nAnd brief."),
        of("user", "hi"),
    ]
    assert messages(turn("user", "hi"), system=f"{billing}\nBe kind.")[0] == of(
        "system", "Be kind."
    )
    assert messages(turn("system", "First."), turn("user", "hi"), system="Be kind.")[0] == of(
        "system", "Be kind.\n\nFirst."
    )


def test_what_the_assistant_thinks_says_and_calls_is_one_message() -> None:
    thinking = {"type": "thinking", "thinking": "hm", "signature": "whatever"}
    redacted = {"type": "redacted_thinking", "data": "x"}
    made = messages(
        turn("user", "x"),
        turn("assistant", thinking, redacted, text("I "), text("look"), use("1", a=1)),
        turn("user", result("1")),
    )
    assert made[1] == of(
        "assistant", "I look", reasoning="hm", calls=(ToolCall("1", "f", '{"a":1}'),)
    )


def test_results_follow_their_calls_in_the_order_of_the_calls() -> None:
    made = messages(
        turn("user", "x"),
        turn("assistant", use("a"), use("b")),
        turn("user", text("first"), result("b", "B"), result("z", "Z"), result("a", "A")),
    )
    assert made[2:] == [
        of("tool", "A", tool_call_id="a"),
        of("tool", "B", tool_call_id="b"),
        of("tool", "Z", tool_call_id="z"),
        of("user", "first"),
    ]


def test_a_result_is_text_and_an_error_says_so() -> None:
    def told(*arguments: Any, **more: Any) -> str:
        made = messages(
            turn("user", "x"),
            turn("assistant", use("1")),
            turn("user", result("1", *arguments, **more)),
        )
        return made[-1].parts[0].text

    assert told([text("a"), text("b")]) == "a\nb"
    assert told([]) == told(None) == ""
    assert told("no", is_error=True) == "Error: no"
    assert told("Error: no", is_error=True) == "Error: no"
    assert told("<tool_use_error>no", is_error=True) == "<tool_use_error>no"
    assert told("", is_error=True) == "Error"
    document = {"type": "document", "source": {"type": "text", "data": "D"}, "title": "T"}
    assert told([document, {"type": "tool_reference", "tool_name": "f"}]) == "T\nD\nTool loaded: f"


def test_a_system_message_in_the_middle_stays_in_its_place_as_a_part_of_another() -> None:
    said = "<system-reminder>\nS\n</system-reminder>"
    late = turn("system", "S")
    assert messages(turn("user", "x"), late) == [of("user", f"x\n{said}")]
    calls = [turn("user", "x"), turn("assistant", use("1"))]
    results = turn("user", result("1"))
    for order in ([*calls, results, late], [*calls, late, results]):
        assert messages(*order)[-1] == of("tool", f"ok\n{said}", tool_call_id="1")
    answered = [turn("user", "x"), turn("assistant", "y")]
    assert messages(*answered, late, turn("user", "z"))[-1] == of("user", f"{said}\nz")
    assert messages(*answered, late)[-1] == of("user", said)
    after = messages(*answered, late, turn("assistant", "z"))
    assert after[2:] == [of("user", said), of("assistant", "z")]
    tagged = turn("system", "<system-reminder>S</system-reminder>")
    assert messages(turn("user", "x"), tagged) == [
        of("user", "x\n<system-reminder>S</system-reminder>")
    ]


def test_the_prompt_of_a_request_begins_with_that_of_the_one_before() -> None:
    turns = [
        turn("user", text("<system-reminder>r</system-reminder>"), text("go")),
        turn("system", "agents"),
        turn("assistant", text("I look"), use("1")),
        turn("user", result("1")),
        turn("system", "tokens left"),
        turn("assistant", "done"),
        turn("user", "more"),
        turn("system", "late"),
        turn("assistant", "and"),
        turn("system", "after the assistant"),
        turn("assistant", "so"),
        turn("user", "on"),
    ]
    ends = [2, 5, 8, 10, 12]
    made = [messages(*turns[:end], system="s") for end in ends]
    for before, after in pairwise(made):
        assert after[: len(before)] == before


def test_turns_of_one_role_are_one() -> None:
    assert messages(turn("user", "a"), turn("user", "b")) == [of("user", "a\nb")]


def test_empty_blocks_are_left_out() -> None:
    assert messages(
        turn("user", text(""), text("a")), turn("assistant", text("")), turn("user", "b")
    ) == [
        of("user", "a"),
        of("user", "b"),
    ]


def test_results_of_a_servers_tools_end_the_assistants_message() -> None:
    search = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}}
    found = {
        "type": "web_search_tool_result",
        "tool_use_id": "s",
        "content": [
            {"type": "web_search_result", "title": "T", "url": "u", "encrypted_content": "E"}
        ],
    }
    made = messages(turn("user", "x"), turn("assistant", text("a"), search, found, text("b")))
    assert made[1:] == [
        of("assistant", "a", calls=(ToolCall("s", "web_search", '{"query":"q"}'),)),
        of("tool", "T\nu", tool_call_id="s"),
        of("assistant", "b"),
    ]


def test_what_a_compaction_tells_replaces_what_was_before() -> None:
    summary = {"type": "compaction", "content": "so far"}
    made = messages(
        turn("user", "old"), turn("assistant", summary, text("go on")), turn("user", "x")
    )
    assert made == [of("user", "so far"), of("assistant", "go on"), of("user", "x")]


def test_a_compaction_that_failed_tells_nothing_and_one_of_the_user_counts() -> None:
    failed = {"type": "compaction", "content": None}
    made = messages(turn("user", "old"), turn("assistant", failed, text("go")), turn("user", "x"))
    assert made == [of("user", "old"), of("assistant", "go"), of("user", "x")]
    summary = {"type": "compaction", "content": "so far"}
    made = messages(turn("user", "old"), turn("user", text("older"), summary, text("x")))
    assert made == [of("user", "so far\nx")]


def test_results_that_come_in_several_turns_are_sorted_all_together() -> None:
    said = "<system-reminder>\nS\n</system-reminder>"
    made = messages(
        turn("user", "x"), turn("assistant", use("a"), use("b")),
        turn("user", result("b", "B")), turn("system", "S"), turn("user", result("a", "A")),
    )  # fmt: skip
    assert made[2:] == [
        of("tool", "A", tool_call_id="a"),
        of("tool", f"B\n{said}", tool_call_id="b"),
    ]


def test_what_the_client_has_to_answer_is_called_last() -> None:
    served = {"type": "server_tool_use", "id": "s", "name": "search", "input": {}}
    found = {"type": "web_fetch_tool_result", "tool_use_id": "s", "content": {
        "url": "u", "content": {"source": {"type": "text", "data": "THE PAGE"}}}}  # fmt: skip
    made = messages(
        turn("user", "x"),
        turn("assistant", use("a"), served, found, text("T")),
        turn("user", result("a")),
    )
    assert [message.role for message in made] == ["user", "assistant", "tool", "assistant", "tool"]
    assert made[2].parts[0].text == "u\nTHE PAGE"
    assert made[3] == of("assistant", "T", calls=(ToolCall("a", "f", "{}"),))


def test_a_long_text_is_joined_once_however_many_are_put_beside_it() -> None:
    pairs = [turn("assistant", ""), turn("system", "<system-reminder>")] * 1000
    began = time.process_time()
    messages(turn("user", "🌦" * 500_000), *pairs)
    assert time.process_time() - began < 2
