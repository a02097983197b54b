"""Events in, the blocks and frames of one message out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dialects.anthropic.presenter import MessagePresenter
from app.dialects.sealing import Seal
from app.errors import EngineDied
from app.events import (
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from tests.dialects.anthropic.replay import events_of, replayed

SEAL = Seal(["a secret"])
USAGE = Usage(prompt_tokens=5, completion_tokens=7, cached_tokens=2, reasoning_tokens=3)
CALL = [
    ToolCallStarted(0, "call_1", "look", 0),
    ToolCallDelta(0, '{"a"', 0),
    ToolCallDelta(0, ":1}", 0),
]
END = [Finished("stop", 0), USAGE]


def presenter(*, stream: bool, **options: Any) -> MessagePresenter:
    settings: dict[str, Any] = {"max_tokens": 7, "stops": (), "hides_thinking": False}
    return MessagePresenter(
        id="0" * 32, model="m", sign=SEAL.sign, stream=stream, **settings | options
    )


def streamed(events: Sequence[Event], **options: Any) -> list[dict[str, Any]]:
    one = presenter(stream=True, **options)
    return events_of(b"".join(map(one.feed, events)).decode())


def whole(events: Sequence[Event], **options: Any) -> dict[str, Any]:
    one = presenter(stream=False, **options)
    assert b"".join(map(one.feed, events)) == b""
    assert one.final is not None
    return orjson.loads(one.final)  # type: ignore[no-any-return]


def test_thinking_text_and_a_call_are_blocks_in_the_order_of_anthropics_events() -> None:
    events = [Started(5, 2), ReasoningDelta("Hm", 0), TextDelta("Hello", 0), *CALL, *END]
    stream = streamed(events)
    assert [event["type"] for event in stream] == [
        "message_start",
        "content_block_start", "content_block_delta", "content_block_delta", "content_block_stop",
        "content_block_start", "content_block_delta", "content_block_stop",
        "content_block_start", "content_block_delta", "content_block_delta", "content_block_delta",
        "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    assert stream[8]["content_block"] == {
        "type": "tool_use", "id": "toolu_1", "name": "look", "input": {},
        "caller": {"type": "direct"},
    }  # fmt: skip
    assert stream[9]["delta"] == {"type": "input_json_delta", "partial_json": ""}
    message = whole(events)
    assert replayed(stream) == message
    assert message["stop_reason"] == "tool_use"
    assert message["content"][0]["signature"]
    assert message == {
        "id": "msg_" + "0" * 32,
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": message["content"],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 2,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 7,
            "output_tokens_details": {"thinking_tokens": 3},
            "server_tool_use": None,
            "service_tier": "standard",
            "inference_geo": None,
        },
    }


def test_the_input_is_counted_at_the_start_and_again_at_the_end() -> None:
    stream = streamed([Started(5, 2), TextDelta("x", 0), *END])
    start, end = stream[0]["message"]["usage"], stream[-2]["usage"]
    for key in ("input_tokens", "cache_read_input_tokens"):
        assert start[key] == end[key] > 0
    assert (start["output_tokens"], end["output_tokens"]) == (0, 7)


def test_a_request_for_no_token_ends_by_its_limit_whatever_came() -> None:
    events = [Started(5), TextDelta("x", 0), Finished("stop", 0, "E"), USAGE]
    assert whole(events, max_tokens=0, stops=["E"])["stop_reason"] == "max_tokens"


@pytest.mark.parametrize(
    ("events", "reason", "stop"),
    [
        ([TextDelta("x", 0), Finished("stop", 0)], "end_turn", None),
        ([TextDelta("x", 0), Finished("stop", 0, 17)], "end_turn", None),
        ([TextDelta("x", 0), Finished("stop", 0, "</turn>")], "end_turn", None),
        ([TextDelta("x", 0), Finished("stop", 0, "END")], "stop_sequence", "END"),
        ([TextDelta("x", 0), Finished("length", 0)], "max_tokens", None),
        ([*CALL, Finished("tool_calls", 0)], "tool_use", None),
        ([*CALL, Finished("stop", 0)], "tool_use", None),  # one that the client has named
        ([*CALL, Finished("length", 0)], "max_tokens", None),
        ([*CALL[:2], Finished("length", 0, None, True)], "max_tokens", None),
        ([Finished("stop", 0)], "end_turn", None),
        ([*CALL[:2], Finished("stop", 0)], "end_turn", None),  # it was never complete
        ([CALL[0], ToolCallDelta(0, "[1]", 0), Finished("stop", 0)], "end_turn", None),
    ],
)
def test_the_reason_of_the_end(events: list[Event], reason: str, stop: str | None) -> None:
    message = whole([Started(5), *events, USAGE], stops=["END"])
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, stop)


def test_a_context_that_was_full_before_the_limit_is_told_apart() -> None:
    events = [Started(5), TextDelta("x", 0), Finished("length", 0), USAGE]
    assert whole(events, max_tokens=8)["stop_reason"] == "model_context_window_exceeded"
    assert whole(events, max_tokens=7)["stop_reason"] == "max_tokens"


def test_an_answer_of_nothing_has_no_block() -> None:
    assert whole([Started(5), *END])["content"] == []


def test_a_request_for_no_token_gets_none() -> None:
    events = [Started(5), TextDelta("x", 0), Finished("length", 0), USAGE]
    message = whole(events, max_tokens=0)
    assert (message["content"], message["usage"]["output_tokens"]) == ([], 0)
    assert replayed(streamed(events, max_tokens=0)) == message
    assert message["stop_reason"] == "max_tokens"


def test_hidden_thinking_is_an_empty_block_with_a_signature() -> None:
    events = [Started(5), ReasoningDelta("Hm", 0), TextDelta("x", 0), *END]
    block = whole(events, hides_thinking=True)["content"][0]
    assert block["thinking"] == ""
    assert block["signature"] == SEAL.sign("Hm")
    assert replayed(streamed(events, hides_thinking=True))["content"][0] == block


def test_a_failure_is_the_last_event() -> None:
    one = presenter(stream=True)
    frames = b"".join(map(one.feed, [Started(5), TextDelta("x", 0)]))
    events = events_of((frames + one.fail(EngineDied("It has ended."))).decode())
    assert events[-1]["type"] == "error"
    assert events[-1]["error"] == {"type": "overloaded_error", "message": "It has ended."}


_TEXT = st.text("ab \n\u2028é{}", min_size=1, max_size=5)
_PIECES = st.lists(
    st.one_of(
        st.tuples(st.just("text"), _TEXT),
        st.tuples(st.just("think"), _TEXT),
        st.tuples(st.just("call"), st.dictionaries(_TEXT, _TEXT, max_size=2)),
    ),
    max_size=8,
)


@given(_PIECES, st.sampled_from(["stop", "length"]), st.booleans(), st.integers(0, 9))
def test_every_stream_keeps_the_rules_of_all_clients_and_equals_the_whole_answer(
    pieces: list[Any], reason: Any, hides: bool, max_tokens: int
) -> None:
    events: list[Event] = [Started(5, 2)]
    for no, (kind, value) in enumerate(pieces):
        match kind:
            case "text":
                events.append(TextDelta(value, 0))
            case "think":
                events.append(ReasoningDelta(value, 0))
            case _:
                arguments = orjson.dumps(value).decode() if value else ""
                events.append(ToolCallStarted(no, f"call_{no}", "f", 0))
                events += [ToolCallDelta(no, each, 0) for each in arguments]
    events += [Finished(reason, 0), USAGE]
    options: dict[str, Any] = {"hides_thinking": hides, "max_tokens": max_tokens}
    assert replayed(streamed(events, **options)) == whole(events, **options)
