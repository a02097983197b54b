"""The same answer, streamed and whole: content, thinking, calls, finish reason, scores, usage.

Over every format that a model can write, cut anywhere, with the scripted engine and all the code
between engine and wire.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from app.dialects.contract import Call, Stream, Whole
from app.dialects.openai.chat import CHAT
from app.dialects.sealing import Seal
from app.engine.sglang import importing
from app.gate import Gate, Ticket
from app.generation.model import ServedModel
from app.lifecycle import Lifecycle
from app.settings.bounds import Bounds
from app.stats import RequestStats
from tests.support import sse
from tests.support.scripted import ScriptedEngine
from tests.support.serving import settings
from tests.support.thinking_formats import REASONING_SAMPLES, ReasoningSample
from tests.support.tool_formats import TOOL_SAMPLES, TOOLS, Sample, sample_id, with_known

pytestmark = pytest.mark.full
importing.use_cpu()


def _bounds() -> Bounds:
    return Bounds.of(settings())


async def _answer(engine: ScriptedEngine, stream: bool, **fields: Any) -> Any:
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
    body = {
        "messages": [{"role": "user", "content": "hi"}], "logprobs": True, "top_logprobs": 1,
        "stream": stream, **fields,
    }  # fmt: skip
    if stream:
        body["stream_options"] = {"include_usage": True}
    call = Call(
        id="0" * 32,
        model=model,
        bounds=_bounds(),
        seal=Seal(()),
        ticket=Ticket(gate, ()),
        stats=RequestStats(),
        log_fields={},
    )
    try:
        reply = await CHAT.answer(CHAT.body.model_validate(body), call)
        if isinstance(reply, Whole):
            return orjson.loads(b"".join((reply.body, *reply.more)))
        assert isinstance(reply, Stream)
        return sse.frames(b"".join([frame async for frame in reply.frames]).decode())
    finally:
        await model.close()


def _gathered(frames: Sequence[Any]) -> dict[str, Any]:
    """The answer that a client builds by concatenating deltas, as the SDKs do."""
    message: dict[str, Any] = {"content": "", "reasoning": "", "calls": [], "tokens": []}
    assert frames[-1] == "[DONE]"
    assert frames[-2]["choices"] == []
    for frame in frames[:-2]:
        (choice,) = frame["choices"]
        delta = choice["delta"]
        assert message.get("finish") is None, "nothing comes after the finish"
        message["content"] += delta.get("content") or ""
        message["reasoning"] += delta.get("reasoning_content") or ""
        for piece in delta.get("tool_calls", ()):
            if "id" in piece:
                assert piece["index"] == len(message["calls"])
                message["calls"].append([piece["function"]["name"], ""])
            else:
                assert piece["index"] == len(message["calls"]) - 1, "one call after the other"
            message["calls"][-1][1] += piece["function"]["arguments"]
        message["tokens"] += (choice["logprobs"] or {"content": []})["content"]
        message["finish"] = choice["finish_reason"]
    return message | {"usage": frames[-2]["usage"]}


def _of_whole(answer: dict[str, Any]) -> dict[str, Any]:
    (choice,) = answer["choices"]
    message = choice["message"]
    return {
        "content": message["content"] or "",
        "reasoning": message.get("reasoning_content", ""),
        "calls": [
            [call["function"]["name"], call["function"]["arguments"]]
            for call in message.get("tool_calls", ())
        ],
        "tokens": choice["logprobs"]["content"],
        "finish": choice["finish_reason"],
        "usage": answer["usage"],
    }


def _cuts(text: str) -> list[list[str]]:
    chance = random.Random(text)
    cuts = [
        list(text), [text], re.findall(r"\w+|\s+|.", text, re.DOTALL),
        *([text[at : at + size] for at in range(0, len(text), size)] for size in (4, 11)),
    ]  # fmt: skip
    for _ in range(3):
        at = sorted(chance.sample(range(len(text)), min(9, len(text))))
        cuts.append([text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True) if a < b])
    return cuts


@pytest.mark.parametrize("sample", with_known(TOOL_SAMPLES))
async def test_calls_are_the_same_streamed_and_whole(sample: Sample) -> None:
    for cut in _cuts(sample.text):
        fields = {"tools": TOOLS}
        engine = ScriptedEngine(*cut, tool_call_parser=sample.parser)
        streamed = _gathered(await _answer(engine, True, **fields))
        whole = _of_whole(await _answer(engine, False, **fields))
        assert streamed == whole, cut
        assert [[name, json.loads(arguments)] for name, arguments in whole["calls"]] == [
            [name, arguments] for name, arguments in sample.calls
        ]
        assert whole["content"].split() == sample.content.split()
        assert whole["finish"] == ("tool_calls" if sample.calls else "stop")
        assert len(whole["tokens"]) == len(cut) == whole["usage"]["completion_tokens"]


@pytest.mark.parametrize("sample", REASONING_SAMPLES, ids=sample_id)
async def test_thinking_is_the_same_streamed_and_whole(sample: ReasoningSample) -> None:
    for cut in _cuts(sample.text):
        engine = ScriptedEngine(
            *cut,
            reasoning_parser=sample.parser,
            thinking=sample.forced,
        )
        streamed = _gathered(await _answer(engine, True))
        whole = _of_whole(await _answer(engine, False))
        assert streamed == whole, cut
        assert whole["reasoning"].strip() == sample.reasoning.strip()
        content = sample.content
        if sample.parser == "gpt-oss":  # its samples' content is what a reader of calls would get
            content = re.sub(r"<\|start\|>.*?<\|message\|>|<\|call\|>", "", content)
        assert whole["content"].strip() == content.strip()
        assert whole["finish"] == "stop"
        assert len(whole["tokens"]) == len(cut)


CALLS = (
    '[{"name": "search", "parameters": {"query": "a]}\\"{", "limit": 3}}, '
    '{"name": "ping", "parameters": {}}]'
)


@pytest.mark.parametrize("cut", range(len(CALLS)))
async def test_required_calls_are_the_same_at_every_cut(cut: int) -> None:
    engine = ScriptedEngine(*filter(None, [CALLS[:cut], CALLS[cut:]]))
    fields = {"tools": TOOLS, "tool_choice": "required"}
    streamed = _gathered(await _answer(engine, True, **fields))
    whole = _of_whole(await _answer(engine, False, **fields))
    assert streamed == whole
    assert whole["finish"] == "tool_calls"
    assert [call[0] for call in whole["calls"]] == ["search", "ping"]
    assert json.loads(whole["calls"][0][1]) == {"query": 'a]}"{', "limit": 3}


def test_the_samples_name_every_format() -> None:
    from sglang.srt.function_call.function_call_parser import FunctionCallParser
    from sglang.srt.parser.reasoning_parser import ReasoningParser

    unknown = {"response_template"}  # made from the model's own files; it has no samples
    assert set(FunctionCallParser.ToolCallParserEnum) - unknown == {s.parser for s in TOOL_SAMPLES}
    assert set(ReasoningParser.DetectorMap) - unknown == {s.parser for s in REASONING_SAMPLES}
