"""What the log has of a generation: its answer at debug, its id always."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from app.dialects.narration import _Answers
from app.events import ReasoningDelta, TextDelta, ToolCallDelta
from tests.support.scripted import ScriptedEngine
from tests.support.serving import Running, eventually, serve

BODIES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9},
    "/generate": {"text": "hi"},
}


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """At debug, which is below what tests log by default."""
    before = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("debug"))
    try:
        with capture_logs() as captured:
            yield captured
    finally:
        structlog.configure(wrapper_class=before)


def answers(lines: list[Any]) -> list[dict[str, Any]]:
    kept = ("choice", "text", "finish_reason", "cut", "reasoning")
    return [
        {name: line[name] for name in kept if name in line}
        for line in lines
        if line["event"] == "answer"
    ]


async def ask(running: Running, path: str, **more: Any) -> Any:
    body = {"model": "default", **BODIES[path], **more}
    return await running.client.post(path, json=body, headers={"x-request-id": "my-own-id-77"})


@pytest.mark.parametrize("path", BODIES)
async def test_an_answer_is_found_by_its_id_though_the_client_has_one_of_its_own(
    path: str, lines: list[Any]
) -> None:
    async with serve(ScriptedEngine("Hello")) as running:
        answer = (await ask(running, path)).json()
    (end,) = [line for line in lines if line["event"] == "request finished"]
    assert end["id"] == (answer.get("id") or answer["meta_info"]["id"])


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
async def test_at_debug_an_answer_is_logged_once_at_its_end(
    path: str, stream: bool, lines: list[Any]
) -> None:
    async with serve(ScriptedEngine("Hello", " world"), LOG_LEVEL="debug") as running:
        await ask(running, path, stream=stream)
    assert answers(lines) == [{"choice": 0, "text": "Hello world", "finish_reason": "stop"}]


async def test_above_debug_no_answer_is_logged(lines: list[Any]) -> None:
    async with serve(ScriptedEngine("Hello"), LOG_LEVEL="info") as running:
        await running.chat()
    assert answers(lines) == []
    assert "Hello" not in str(lines)


async def test_each_choice_has_a_line(lines: list[Any]) -> None:
    async with serve(ScriptedEngine("Hello"), LOG_LEVEL="debug") as running:
        await running.chat(n=2)
    assert [answer["choice"] for answer in answers(lines)] == [0, 1]


@pytest.mark.parametrize(
    ("most", "text"), [("", "x" * 16_384), ("7", "x" * 7), ("0", ""), ("99999", "x" * 16_384)]
)
async def test_a_long_answer_is_cut(most: str, text: str, lines: list[Any]) -> None:
    engine = ScriptedEngine(*["x" * 1000] * 30)
    async with serve(engine, LOG_LEVEL="debug", MAX_LOG_LEN=most) as running:
        await running.chat()
    (answer,) = answers(lines)
    assert (answer["text"], answer["cut"]) == (text, True)


def test_an_answer_that_is_cut_takes_no_more_memory() -> None:
    answers = _Answers(7)
    for _ in range(1000):
        answers.add([TextDelta("x", 0), ReasoningDelta("", 0), ToolCallDelta(0, "{}", 0)])
    (choice,) = answers._choices.values()
    assert sum(map(len, (choice.text, choice.reasoning, choice.calls))) <= 7


async def test_an_answer_that_is_broken_off_is_logged_as_far_as_it_was(lines: list[Any]) -> None:
    engine = ScriptedEngine("Hel", asyncio.Event())
    async with serve(engine, LOG_LEVEL="debug") as running:
        body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
        async with running.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if "Hel" in line:
                    break
        await eventually(lambda: running.gate.in_flight == 0)
    assert answers(lines) == [{"choice": 0, "text": "Hel"}]


async def test_a_refusal_says_which_parameter_it_is_about(lines: list[Any]) -> None:
    async with serve(ScriptedEngine("Hello")) as running:
        await running.chat(temperature=5)
        await running.client.get("/nowhere")
    wrong, nowhere = [line for line in lines if line["event"] == "request finished"]
    assert wrong["param"] == "temperature"
    assert wrong["error"].startswith("Invalid value for 'temperature'")
    assert nowhere["ended_by"] == "unknown_url"
    assert "param" not in nowhere
