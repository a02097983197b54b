"""Tools by the names that the model sees, and back."""

from __future__ import annotations

from typing import Any

import pytest

from app.dialects.openai.responses.body import ResponsesBody
from app.dialects.openai.responses.toolbox import Toolbox
from app.errors import InvalidRequest
from app.settings.bounds import Bounds
from app.types import ToolUse
from tests.support.serving import settings

BOUNDS = Bounds.of(settings())


def function(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": {"type": "object"}, **more}


def namespace(name: str, *tools: dict[str, Any]) -> dict[str, Any]:
    return {"type": "namespace", "name": name, "description": "d", "tools": list(tools)}


def box(tools: list[dict[str, Any]], choice: Any = None) -> tuple[Toolbox, ToolUse | None]:
    fields = {"model": "m", "input": "x", "tools": tools, "tool_choice": choice}
    body = ResponsesBody.model_validate(fields)
    tools_box = Toolbox(BOUNDS)
    tools_box.add(body.tools or (), "tools")
    use = tools_box.use(body.tool_choice, body.parallel_tool_calls, formatted=False)
    return tools_box, use


def test_a_namespaces_tools_are_shown_under_both_names_and_answered_apart() -> None:
    tools, use = box([function("look"), namespace("mcp__wx", function("get_weather"))])
    assert use is not None
    assert use.allowed == ("look", "mcp__wx__get_weather")
    assert tools.owners["mcp__wx__get_weather"] == ("mcp__wx", "get_weather")
    assert tools.owners["look"] == (None, "look")
    assert tools.shown("mcp__wx", "get_weather") == "mcp__wx__get_weather"


def test_names_that_would_be_the_same_are_kept_apart() -> None:
    tools, use = box(
        [function("a__b"), namespace("a", function("b")), namespace("a_", function("_b"))]
    )
    assert use is not None
    assert len(set(use.allowed)) == 3
    assert {tools.owners[name] for name in use.allowed} == {
        (None, "a__b"), ("a", "b"), ("a_", "_b"),
    }  # fmt: skip


def test_a_name_that_would_be_too_long_is_shortened_and_still_found() -> None:
    tools, use = box([namespace("n" * 100, function("f" * 100), function("f" * 99))])
    assert use is not None
    assert all(len(name) <= 128 for name in use.allowed)
    assert [tools.owners[name][1] for name in use.allowed] == ["f" * 100, "f" * 99]


def test_the_same_name_twice_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="used twice") as refused:
        box([namespace("a", function("b"), function("b"))])
    assert refused.value.param == "tools[0].tools[1]"


def test_tools_of_openais_own_that_are_not_needed_are_repeated_but_not_shown() -> None:
    search = {"type": "web_search", "external_web_access": True}
    tools, use = box([search, {"type": "image_generation"}], "auto")
    assert use is None
    assert tools.echo == [search, {"type": "image_generation"}]
    with pytest.raises(InvalidRequest, match="requires a call") as refused:
        box([search], "required")
    assert refused.value.param == "tool_choice"


def test_functions_are_repeated_with_all_their_keys() -> None:
    tools, _ = box([{"type": "function", "name": "f"}])
    assert tools.echo == [
        {"type": "function", "name": "f", "description": None, "parameters": None, "strict": False}
    ]


@pytest.mark.parametrize(
    ("choice", "allowed", "required", "named"),
    [
        (None, ("a", "n__b"), False, False),
        ("required", ("a", "n__b"), True, False),
        ({"type": "function", "name": "a"}, ("a",), True, True),
        ({"type": "function", "name": "b"}, ("n__b",), True, True),
        ({"type": "function", "name": "b", "namespace": "n"}, ("n__b",), True, True),
        ({"type": "allowed_tools", "mode": "auto",
          "tools": [{"type": "function", "name": "a"}, {"type": "web_search"}]},
         ("a",), False, False),
    ],
)  # fmt: skip
def test_a_choice_names_the_tools_that_may_be_called(
    choice: Any, allowed: tuple[str, ...], required: bool, named: bool
) -> None:
    _, use = box([function("a"), namespace("n", function("b"))], choice)
    assert use is not None
    assert (use.allowed, use.required, use.named) == (allowed, required, named)


def test_a_choice_of_an_unknown_tool_is_refused() -> None:
    for choice in (
        {"type": "function", "name": "c"},
        {"type": "function", "name": "a", "namespace": "n"},
    ):
        with pytest.raises(InvalidRequest, match="no tool of that name") as refused:
            box([function("a")], choice)
        assert refused.value.param == "tool_choice"


def test_tools_that_items_list_again_are_taken_once_and_not_repeated() -> None:
    tools = Toolbox(BOUNDS)
    body = ResponsesBody.model_validate(
        {"model": "m", "input": "x", "tools": [function("a"), function("b")]}
    )
    assert body.tools is not None
    tools.add(body.tools[:1], "tools")
    tools.add_more(body.tools, "input[0].tools")
    tools.add_more(body.tools, "input[1].tools")
    use = tools.use(None, None, formatted=False)
    assert use is not None
    assert use.allowed == ("a", "b")
    assert [tool["name"] for tool in tools.echo] == ["a"]


def test_there_are_as_many_tools_as_the_operator_allows_wherever_they_stand() -> None:
    many = [function(f"f{no}") for no in range(BOUNDS.max_tools)]
    with pytest.raises(InvalidRequest, match="at most") as refused:
        box([namespace("n", *many), function("one_more")])
    assert refused.value.param == "tools"


def test_a_tool_that_is_only_repeated_is_bounded_in_size() -> None:
    with pytest.raises(InvalidRequest, match="larger than"):
        box([{"type": "web_search", "x": "y" * BOUNDS.grammar.max_schema_bytes}])


def test_nothing_may_be_called_where_only_openais_own_tools_are_allowed() -> None:
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]}
    assert box([function("a"), {"type": "web_search"}], choice)[1] is None
