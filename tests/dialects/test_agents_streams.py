"""The dialects of agents over every format that a model can write, cut anywhere: the stream keeps
the rules of all clients, and equals the whole answer."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from app.dialects.anthropic.answer import MESSAGES
from app.dialects.contract import Call, Dialect, Stream, Whole
from app.dialects.openai.responses.answer import RESPONSES
from app.dialects.sealing import Seal
from app.engine.sglang import importing
from app.gate import Gate, Ticket
from app.generation.model import ServedModel
from app.lifecycle import Lifecycle
from app.settings.bounds import Bounds
from app.stats import RequestStats
from tests.dialects.anthropic import replay as messages
from tests.dialects.openai.responses import replay as responses
from tests.dialects.test_stream_equals_whole import _cuts
from tests.support.scripted import ScriptedEngine
from tests.support.serving import settings
from tests.support.tool_formats import TOOL_SAMPLES, TOOLS, Sample, with_known

pytestmark = pytest.mark.full
importing.use_cpu()
FLAT = [{"type": "function", **tool["function"]} for tool in TOOLS]
ANTHROPICS = [
    {
        "name": tool["function"]["name"],
        "input_schema": tool["function"].get("parameters") or {"type": "object"},
    }
    for tool in TOOLS
]
PATCH = {"type": "custom", "name": "patch"}


async def _answer(dialect: Dialect[Any], engine: ScriptedEngine, body: dict[str, Any]) -> Any:
    gate = Gate(Lifecycle(), max_running=9, max_waiting=9)
    model = ServedModel(
        engine,
        gate,
        names=["m"],
        max_total_tokens=None,
        max_prompt_chars=None,
        max_prompt_scores=1_000_000,
        max_answer_scores=1_000_000,
        grammar_timeout_s=10,
    )
    call = Call(
        id="0" * 32,
        model=model,
        bounds=Bounds.of(settings()),
        seal=Seal(["secret"]),
        ticket=Ticket(gate, ()),
        stats=RequestStats(),
        log_fields={},
    )
    try:
        reply = await dialect.answer(dialect.body.model_validate({"model": "m", **body}), call)
        if isinstance(reply, Whole):
            return orjson.loads(reply.body)
        assert isinstance(reply, Stream)
        return b"".join([frame async for frame in reply.frames]).decode()
    finally:
        await model.close()


async def _response(*steps: str, **body: Any) -> dict[str, Any]:
    """Of a stream, which is checked on the way, and equals the whole answer."""
    parser = body.pop("parser", "hermes")
    made = []
    for stream in (True, False):
        engine = ScriptedEngine(*steps, tool_call_parser=parser)
        made.append(await _answer(RESPONSES, engine, {"input": "hi", "stream": stream, **body}))
    replay = responses.Replay(responses.events_of(made[0]))
    assert replay.response is not None
    assert _plain(replay.response["output"]) == _plain(made[1]["output"])
    assert replay.response["status"] == made[1]["status"]
    return made[1]  # type: ignore[no-any-return]


async def _message(*steps: str, parser: str, **body: Any) -> dict[str, Any]:
    made = []
    turns = [{"role": "user", "content": "hi"}]
    for stream in (True, False):
        engine = ScriptedEngine(*steps, tool_call_parser=parser)
        fields = {"messages": turns, "max_tokens": 500, "stream": stream, **body}
        made.append(await _answer(MESSAGES, engine, fields))
    replayed = messages.replayed(messages.events_of(made[0]))
    assert _plain(replayed["content"]) == _plain(made[1]["content"])
    assert (replayed["stop_reason"], replayed["usage"]) == (
        made[1]["stop_reason"],
        made[1]["usage"],
    )
    return made[1]  # type: ignore[no-any-return]


def _plain(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the ids of calls, which are new each time."""
    changing = ("call_id", "encrypted_content")
    return [
        {key: value for key, value in item.items() if key not in changing
         and not (key == "id" and str(value).startswith("toolu_"))}
        for item in items
    ]  # fmt: skip


@pytest.mark.parametrize("sample", with_known(TOOL_SAMPLES))
async def test_calls_of_every_format(sample: Sample) -> None:
    wanted = list(sample.calls)
    for cut in _cuts(sample.text)[::2]:
        response = await _response(*cut, parser=sample.parser, tools=FLAT)
        calls = [each for each in response["output"] if each["type"] == "function_call"]
        assert [(each["name"], json.loads(each["arguments"])) for each in calls] == wanted
        message = await _message(*cut, parser=sample.parser, tools=ANTHROPICS)
        blocks = [each for each in message["content"] if each["type"] == "tool_use"]
        assert [(each["name"], each["input"]) for each in blocks] == wanted
        assert message["stop_reason"] == ("tool_use" if sample.calls else "end_turn")


def _called(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


async def test_what_follows_a_call_is_a_message_of_its_own() -> None:
    text = _called("patch", '{"input": "*** Begin"}') + "\nI have patched it."
    response = await _response(text, tools=[PATCH])
    call, message = response["output"]
    assert (call["type"], call["input"]) == ("custom_tool_call", "*** Begin")
    assert message["content"][0]["text"].strip() == "I have patched it."


async def test_a_call_without_arguments_is_complete_before_what_follows() -> None:
    response = await _response('<tool_call>\n{"name": "ping"}\n</tool_call>\nSo.', tools=FLAT)
    call, message = response["output"]
    assert (call["name"], call["arguments"]) == ("ping", "{}")
    assert message["content"][0]["text"].strip() == "So."


async def test_a_namespaces_call_comes_back_under_both_names() -> None:
    tools = [{"type": "namespace", "name": "mcp__wx", "tools": [FLAT[0]]}]
    name = FLAT[0]["name"]
    response = await _response(_called(f"mcp__wx__{name}", "{}"), tools=tools)
    (call,) = response["output"]
    assert (call["namespace"], call["name"]) == ("mcp__wx", name)
