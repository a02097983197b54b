"""Items in, messages out."""

from __future__ import annotations

from typing import Any

import pytest

from app.dialects.openai.responses import conversation
from app.dialects.openai.responses.body import PromptFields
from app.dialects.openai.responses.toolbox import Toolbox
from app.errors import InvalidRequest
from app.settings.bounds import Bounds
from app.types import Message, Text, ToolCall
from tests.support.serving import settings

BOUNDS = Bounds.of(settings())


def messages(*items: dict[str, Any], **options: Any) -> list[Message]:
    body = PromptFields.model_validate({"input": list(items)})
    options = {"instructions": None, "tools": Toolbox(BOUNDS), "unseal": lambda _: None} | options
    return conversation.messages(body.input, **options)  # type: ignore[arg-type]


def of(role: str, text: str | None = None, **more: Any) -> Message:
    parts = () if text is None else (Text(text),)
    return Message(role=role, parts=parts, **more)  # type: ignore[arg-type]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def thinking(text: str) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text}]
    return {"type": "reasoning", "id": "rs_1", "summary": [], "content": content}


def call(id: str, name: str = "f", arguments: str = "{}") -> dict[str, Any]:
    return {"type": "function_call", "call_id": id, "name": name, "arguments": arguments}


def result(id: str, output: Any = "ok") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": id, "output": output}


def test_text_and_parts_of_text_are_the_same() -> None:
    parts = {"role": "user", "content": [{"type": "input_text", "text": "hi"}]}
    assert messages(user("hi")) == messages(parts) == [of("user", "hi")]
    said = [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "b"}]
    assert messages(user("x"), {"role": "assistant", "content": said})[1] == of("assistant", "a\nb")


def test_all_that_the_system_says_first_is_one_message() -> None:
    opening = [
        {"role": "developer", "content": "be kind"},
        {"role": "system", "content": "and brief"},
    ]
    made = messages(
        *opening, user("hi"), {"role": "developer", "content": "late"}, instructions="I"
    )
    assert made == [
        of("system", "I\n\nbe kind\n\nand brief"),
        of("user", "hi"),
        of("developer", "late"),
    ]


def test_what_the_assistant_thinks_says_and_calls_is_one_message() -> None:
    made = messages(
        user("x"), thinking("hm"), {"role": "assistant", "content": "I look"},
        call("1", arguments='{"a":1}'), call("2"), result("1"), result("2", "no"),
    )  # fmt: skip
    assert made[1] == of(
        "assistant", "I look", reasoning="hm",
        calls=(ToolCall("1", "f", '{"a":1}'), ToolCall("2", "f", "{}")),
    )  # fmt: skip
    assert made[2:] == [of("tool", "ok", tool_call_id="1"), of("tool", "no", tool_call_id="2")]


def test_a_result_follows_the_message_that_called_wherever_it_came() -> None:
    made = messages(user("x"), call("1"), user("wait"), result("1"))
    assert [message.role for message in made] == ["user", "assistant", "tool", "user"]
    made = messages(user("x"), call("1"), {"role": "assistant", "content": "so"}, result("1"))
    assert [message.role for message in made] == ["user", "assistant", "tool"]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([user("x"), result("7")],
         "No tool call found for function call output with call_id 7."),
        ([user("x"), call("7")], "No tool output found for function call 7."),
        ([user("x"), call("7"), user("y")], "No tool output found for function call 7."),
    ],
)  # fmt: skip
def test_a_call_without_its_result_and_the_other_way_round_is_refused(
    items: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        messages(*items)
    assert (refused.value.message, refused.value.param) == (message, "input")


def test_a_picture_in_a_tools_result_does_not_make_the_history_unusable() -> None:
    output = [{"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": "data:x"}]
    made = messages(user("x"), call("1"), result("1", output))
    assert made[-1] == of("tool", "see\n[a picture that this model cannot read]", tool_call_id="1")


def test_thinking_is_taken_from_its_text_else_unsealed_else_from_the_summary() -> None:
    def thought(**fields: Any) -> str | None:
        item = {"type": "reasoning", "summary": [], **fields}
        said = {"role": "assistant", "content": "x"}
        made = messages(user("q"), item, said, unseal={"good": "sealed"}.get)
        return made[1].reasoning

    text = [{"type": "reasoning_text", "text": "text"}]
    summary = [{"type": "summary_text", "text": "summary"}]
    assert thought(content=text, encrypted_content="good", summary=summary) == "text"
    assert thought(encrypted_content="good", summary=summary) == "sealed"
    assert thought(encrypted_content="bad", summary=summary) == "summary"
    assert thought(encrypted_content="bad") is None
    assert thought(status="in_progress", content=[]) is None  # as LangChain sends it back
    assert thought(content=None, encrypted_content=None) is None  # as Codex does


def test_thinking_of_a_turn_that_was_cut_off_is_left_out() -> None:
    assert messages(user("x"), thinking("hm"), user("y")) == [of("user", "x"), of("user", "y")]


def test_thinking_of_earlier_turns_is_left_out_where_the_client_asks_for_that() -> None:
    items = [
        user("x"), thinking("old"), {"role": "assistant", "content": "a"},
        user("y"), thinking("new"), call("1"), result("1"),
    ]  # fmt: skip
    assert [message.reasoning for message in messages(*items)] == [None, "old", None, "new", None]
    made = messages(*items, current_turn=True)
    assert [message.reasoning for message in made] == [None, None, None, "new", None]


def test_calls_of_other_kinds_are_calls_of_tools_by_their_names() -> None:
    made = messages(
        user("x"),
        {"type": "custom_tool_call", "call_id": "1", "name": "patch", "input": "*** x"},
        {"type": "custom_tool_call_output", "call_id": "1", "output": "done"},
        {"type": "local_shell_call", "call_id": "2", "action": {"command": ["ls"]}},
        {"type": "local_shell_call_output", "call_id": "2", "output": {"stdout": "a"}},
        {"type": "function_call", "call_id": "3", "namespace": "n", "name": "f", "arguments": "no"},
        result("3"),
    )
    assert [call for message in made for call in message.calls] == [
        ToolCall("1", "patch", '{"input":"*** x"}'),
        ToolCall("2", "local_shell", '{"command":["ls"]}'),
        ToolCall("3", "n__f", '{"input":"no"}'),
    ]
    assert [message.parts[0].text for message in made if message.role == "tool"] == [
        "done", '{"stdout":"a"}', "ok",
    ]  # fmt: skip


def test_what_hosted_tools_left_in_a_history_is_passed_over() -> None:
    left = [
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "mcp_list_tools"},
    ]
    assert messages(user("x"), *left, user("y")) == [of("user", "x"), of("user", "y")]


def test_a_result_may_name_the_item_of_its_call() -> None:
    made = messages(
        user("x"), call("b"),
        {"type": "local_shell_call", "id": "lsh_1", "call_id": "a", "action": {}},
        {"type": "local_shell_call_output", "id": "lsh_1", "output": "shell"},
        result("b", "B"),
    )  # fmt: skip
    told = {message.tool_call_id: message.parts[0].text for message in made[2:]}
    assert told == {"a": "shell", "b": "B"}


def test_results_without_any_id_answer_the_calls_in_their_order() -> None:
    made = messages(
        user("x"),
        {"type": "local_shell_call", "call_id": "a", "action": {}},
        {"type": "local_shell_call", "call_id": "b", "action": {}},
        {"type": "local_shell_call_output", "output": "A"},
        {"type": "local_shell_call_output", "output": "B"},
    )  # fmt: skip
    told = {message.tool_call_id: message.parts[0].text for message in made[2:]}
    assert told == {"a": "A", "b": "B"}


def test_a_call_that_another_server_has_answered_keeps_its_result() -> None:
    item = {"type": "mcp_call", "id": "mcp_1", "name": "f", "arguments": "{}", "output": "42"}
    assert messages(user("x"), item)[-1] == of("tool", "42", tool_call_id="mcp_1")


def test_a_call_that_was_cut_off_is_left_out_when_it_comes_back() -> None:
    cut = call("1", arguments='{"a') | {"status": "incomplete"}
    assert messages(user("x"), cut, user("y")) == [of("user", "x"), of("user", "y")]
    assert len(messages(user("x"), cut, result("1"))) == 3


def test_thinking_between_two_results_is_kept() -> None:
    said = {"role": "assistant", "content": "so"}
    made = messages(
        user("x"), call("1"), call("2"), result("1"), thinking("mid"), result("2"), said
    )
    assert made[-1] == of("assistant", "so", reasoning="mid")


def test_an_absent_type_and_content_are_taken() -> None:
    assert messages({"type": None, "role": "user", "content": "x"}) == [of("user", "x")]
    assert messages(user("x"), {"role": "assistant", "content": None}) == [of("user", "x")]
