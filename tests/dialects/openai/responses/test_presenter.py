"""Events in, the items and frames of one response out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from app.dialects.openai.responses import presenter as presenter_module
from app.dialects.openai.responses.body import ResponsesBody
from app.dialects.openai.responses.output_items import Channel
from app.dialects.openai.responses.presenter import ResponsePresenter
from app.dialects.openai.responses.response import ResponseObject, constant
from app.dialects.sealing import Seal
from app.errors import EngineDied, InternalError, RequestAborted
from app.events import (
    Event,
    Finished,
    ReasoningDelta,
    Scored,
    ScoredToken,
    Started,
    TextDelta,
    Token,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from tests.dialects.openai.responses.replay import Replay, events_of

BODY = ResponsesBody.model_validate({"model": "m", "input": "hi"})
STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
SEAL = Seal(["a secret"])


def presenter(
    *, stream: bool, channel: Channel = "text", seal: bool = False, scores: bool = False
) -> ResponsePresenter:
    return ResponsePresenter(
        ResponseObject(
            "resp_" + "0" * 32,
            constant(BODY, model="m", tools=[], defaults={}, stored=False, conversation=None),
        ),
        owners={},
        channel=channel,
        seal=(lambda text: f"sealed {len(text)}") if seal else None,
        keeper=None,
        scores=scores,
        stream=stream,
    )


def all_frames(one: ResponsePresenter, events: Sequence[Event]) -> bytes:
    return b"".join(map(one.feed, events)) + asyncio.run(one.close())


def streamed(events: Sequence[Event], **options: Any) -> list[dict[str, Any]]:
    one = presenter(stream=True, **options)
    return events_of(all_frames(one, events).decode())


def whole(events: Sequence[Event], **options: Any) -> dict[str, Any]:
    one = presenter(stream=False, **options)
    assert all_frames(one, events) == b""
    assert one.final is not None
    return orjson.loads(one.final)


USAGE = Usage(prompt_tokens=5, completion_tokens=7, cached_tokens=2, reasoning_tokens=3)
THINKING = [Started(5), ReasoningDelta("Hm", 0), ReasoningDelta("m.", 0)]
CALL = [
    ToolCallStarted(0, "call_1", "look", 0),
    ToolCallDelta(0, '{"a"', 0),
    ToolCallDelta(0, ":1}", 0),
]
END = [Finished("stop", 0), USAGE]


def _types(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_thinking_text_and_a_call_come_in_the_order_of_openais_events() -> None:
    events = streamed([*THINKING, TextDelta("Hello", 0), *CALL, *END])
    assert _types(events) == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta",
        "reasoning_text.done", "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    thinking, message, call = events[-1]["response"]["output"]
    assert thinking["content"] == [{"type": "reasoning_text", "text": "Hmm."}]
    assert message["content"][0]["text"] == "Hello"
    assert (call["call_id"], call["name"], call["arguments"]) == ("call_1", "look", '{"a":1}')
    assert events[-1]["response"]["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 12,
    }


@pytest.mark.parametrize(
    ("channel", "shown"),
    [("text", "content"), ("summary", "summary"), ("hidden", None)],
)
def test_thinking_is_shown_in_one_place_or_in_none(channel: Channel, shown: str | None) -> None:
    events = streamed([*THINKING, TextDelta("x", 0), *END], channel=channel, seal=True)
    kinds = {kind for kind in _types(events) if "reasoning" in kind}
    assert all(("summary" in kind) == (shown == "summary") for kind in kinds)
    assert bool(kinds) == (shown is not None)
    item = events[-1]["response"]["output"][0]
    texts = {key: [part["text"] for part in item.get(key, ())] for key in ("content", "summary")}
    assert texts == {key: ["Hmm."] if key == shown else [] for key in texts}
    assert item["encrypted_content"] == "sealed 4"
    added = next(event for event in events if event["type"] == "response.output_item.added")
    assert "encrypted_content" not in added["item"]


def test_an_answer_of_nothing_is_one_empty_message() -> None:
    events = streamed([Started(1), *END])
    (message,) = events[-1]["response"]["output"]
    assert message["content"] == [
        {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    ]
    Replay(events)


def test_a_call_that_was_cut_off_is_never_done_so_that_no_agent_runs_it() -> None:
    cut = [Started(1), *CALL[:2], Finished("length", 0, cut_call=True), USAGE]
    events = streamed(cut)
    assert "output_item.done" not in _types(events)
    assert "function_call_arguments.done" not in _types(events)
    response = events[-1]["response"]
    assert (events[-1]["type"], response["incomplete_details"]) == (
        "response.incomplete",
        {"reason": "max_output_tokens"},
    )
    assert (response["output"][0]["status"], response["output"][0]["arguments"]) == (
        "incomplete",
        '{"a"',
    )
    assert whole(cut)["output"] == response["output"]


def test_a_call_that_was_complete_when_the_limit_came_is_done() -> None:
    events = streamed([Started(1), *CALL, Finished("length", 0), USAGE])
    assert events[-1]["response"]["output"][0]["status"] == "completed"
    assert "output_item.done" in _types(events)


def test_a_text_that_was_cut_off_is_incomplete() -> None:
    events = streamed([Started(1), TextDelta("x", 0), Finished("length", 0), USAGE])
    assert events[-2]["item"]["status"] == "incomplete"
    assert events[-1]["type"] == "response.incomplete"


def test_a_custom_tools_input_is_raw_and_has_events_of_its_own() -> None:
    call = [ToolCallStarted(0, "call_1", "patch", 0, True), ToolCallDelta(0, "*** x", 0, True)]
    events = streamed([Started(1), *call, *END])
    assert _types(events)[2:] == [
        "output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done",
        "output_item.done", "completed",
    ]  # fmt: skip
    (item,) = events[-1]["response"]["output"]
    assert (item["type"], item["input"]) == ("custom_tool_call", "*** x")


def _score(text: str) -> ScoredToken:
    return ScoredToken(Token(1, text.encode(), -0.5), (Token(2, b"other", -1.0),))


def test_scores_of_texts_come_with_their_deltas_and_are_all_there_at_the_end() -> None:
    events = [
        Started(1),
        Scored((_score("think"),), 0), ReasoningDelta("think", 0),
        Scored((_score("a"), _score("b")), 0), TextDelta("ab", 0),
        Scored((_score("c"),), 0), TextDelta("c", 0),
        Scored((_score("</s>"),), 0), *END,
    ]  # fmt: skip
    stream = streamed(events, scores=True)
    deltas = [event for event in stream if event["type"] == "response.output_text.delta"]
    tokens = [[each["token"] for each in event["logprobs"]] for event in deltas]
    assert tokens == [["a", "b"], ["c"], ["</s>"]]
    assert [event["delta"] for event in deltas] == ["ab", "c", ""]
    message = stream[-1]["response"]["output"][1]
    scores = message["content"][0]["logprobs"]
    assert [each["token"] for each in scores] == ["a", "b", "c", "</s>"]
    assert scores[0]["top_logprobs"][0]["token"] == "other"
    assert whole(events, scores=True)["output"] == stream[-1]["response"]["output"]
    without = streamed(events)[-1]["response"]["output"][1]
    assert without["content"][0]["logprobs"] == []


def test_a_failure_is_the_last_event_with_the_items_that_were_complete() -> None:
    one = presenter(stream=True)
    frames = b"".join(map(one.feed, [*THINKING, TextDelta("Hel", 0)]))
    frames += one.fail(EngineDied("The engine has ended."))
    events = events_of(frames.decode())
    Replay(events)
    response = events[-1]["response"]
    assert (events[-1]["type"], response["status"]) == ("response.failed", "failed")
    assert response["error"]["code"] == "server_error"
    assert [item["type"] for item in response["output"]] == ["reasoning"]


@pytest.mark.parametrize(
    ("error", "code"),
    [(InternalError("x"), "server_error"), (RequestAborted("x"), "invalid_prompt")],
)
def test_a_failure_before_the_first_token_is_created_and_failed(
    error: RequestAborted, code: str
) -> None:
    events = events_of(presenter(stream=True).fail(error).decode())
    assert _types(events) == ["created", "in_progress", "failed"]
    assert events[-1]["response"]["error"]["code"] == code


def test_heartbeats_are_comments_and_each_minute_an_event_with_all_of_the_output_so_far(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = presenter(stream=True)
    one.heartbeat()
    assert one.heartbeat() == b": keep-alive\n"
    monkeypatch.setattr(presenter_module, "_BEATS_S", 0.0)
    one = presenter(stream=True)
    frames = one.heartbeat() + one.heartbeat()
    for event in [*THINKING, TextDelta("a", 0)]:
        frames += one.feed(event) + one.heartbeat()
    frames += all_frames(one, END)
    events = events_of(frames.decode())
    Replay(events)
    assert _types(events)[:3] == ["created", "in_progress", "in_progress"]
    assert _types(events).count("created") == 1


# -- the law -------------------------------------------------------------------------------------

_TEXT = st.text("ab \n\u2028é{}", min_size=1, max_size=5)
_CALLED = st.tuples(st.just("call"), st.booleans(), st.lists(_TEXT, max_size=3))
_PIECES = st.lists(
    st.one_of(st.tuples(st.just("text"), _TEXT), st.tuples(st.just("think"), _TEXT), _CALLED),
    max_size=8,
)


def _events(pieces: Sequence[tuple[Any, ...]], reason: str, scored: bool) -> list[Event]:
    events: list[Event] = [Started(3)]
    calls = 0
    for piece in pieces:
        if scored:
            events.append(Scored((_score("t"),), 0))
        match piece:
            case ("text", text):
                events.append(TextDelta(text, 0))
            case ("think", text):
                events.append(ReasoningDelta(text, 0))
            case (_, custom, arguments):
                events.append(ToolCallStarted(calls, f"call_{calls}", "f", 0, custom))
                events += [ToolCallDelta(calls, each, 0, custom) for each in arguments]
                calls += 1
    cut = reason == "length" and bool(pieces) and pieces[-1][0] == "call"
    return [*events, Finished("stop" if reason == "stop" else "length", 0, None, cut), USAGE]


@given(
    _PIECES,
    st.sampled_from(["stop", "length"]),
    st.sampled_from(["text", "summary", "hidden"]),
    st.booleans(),
)
def test_every_stream_keeps_the_rules_of_all_clients_and_equals_the_whole_answer(
    pieces: list[Any], reason: str, channel: Channel, scored: bool
) -> None:
    events = _events(pieces, reason, scored)
    options: dict[str, Any] = {"channel": channel, "seal": True, "scores": scored}
    stream = streamed(events, **options)
    replay = Replay(stream)
    response = whole(events, **options)
    assert replay.response is not None
    assert replay.response["output"] == response["output"]
    assert replay.response["usage"] == response["usage"]
    assert replay.response.keys() == response.keys()
    Response.model_validate(response, strict=True)
    sdk: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in stream:
        sdk.handle_event(STREAM_EVENT.validate_python(event))
