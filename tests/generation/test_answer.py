"""Lists of the engine's chunks in, lists of events out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.engine.base import Chunk, Rendered
from app.events import (
    Beat,
    Event,
    Finished,
    Progress,
    Scored,
    ScoredToken,
    Started,
    TextDelta,
    Token,
    TokenIds,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from app.generation.answer import Answer
from app.generation.prompt import Job
from app.reading.json_calls import CallArray
from app.stats import RequestStats
from app.types import GenerationRequest, Sampling, Scoring, TextPrompt, Tool, ToolUse


def chunk(index: int, text: str, tokens: int, **fields: Any) -> Chunk:
    return Chunk(index, text, 3, tokens, 1, **fields)


def answer(
    job: Job | None = None,
    *,
    prompts: int = 1,
    stats: RequestStats | None = None,
    **fields: Any,
) -> Answer:
    prompt = TextPrompt("abc", param="prompt")
    request = GenerationRequest(id="x", prompts=(prompt,) * prompts, sampling=Sampling(), **fields)
    jobs = [job or Job(Rendered([1, 2, 3]), Sampling())] * prompts
    return Answer(request, jobs, stats)


def events(of: Answer, chunks: Sequence[Chunk]) -> list[Event]:
    beats: list[Beat] = [of.beat((each,)) for each in chunks]
    return [event for beat in beats for event in beat]


def test_each_chunk_is_a_beat_and_the_last_one_has_the_usage() -> None:
    one = answer()
    assert one.beat((chunk(0, "a", 1),)) == [Started(3, 1), TextDelta("a", 0)]
    assert one.beat((chunk(0, "", 2),)) == []
    assert not one.complete
    assert one.beat((chunk(0, "b", 3, finish="stop", matched="!"),)) == [
        TextDelta("b", 0),
        Finished("stop", 0, "!"),
        Usage(3, 3, 1),
    ]
    assert one.complete


def test_the_usage_comes_once_and_counts_each_prompt_once() -> None:
    two = answer(prompts=2, n=2)
    chunks = [chunk(index, "x", 5, finish="length", reasoning_tokens=2) for index in (2, 0, 3, 1)]
    got = events(two, chunks)
    assert [event for event in got if isinstance(event, Usage)] == [got[-1]]
    assert got[-1] == Usage(
        prompt_tokens=6, completion_tokens=20, cached_tokens=2, reasoning_tokens=8
    )
    assert [event.index for event in got if isinstance(event, Finished)] == [2, 0, 3, 1]
    assert got[0] == Started(6, 1)


def test_of_a_prompts_cached_tokens_its_first_choice_decides() -> None:
    both = answer(n=2)
    got = events(
        both,
        [
            Chunk(0, "a", 3, 1, 0, finish="stop"),
            Chunk(1, "a", 3, 1, 2, finish="stop"),  # the first has left its prompt in the cache
        ],
    )
    assert got[-1] == Usage(3, 2, 0)


def test_chunks_that_come_together_are_one_beat() -> None:
    both = answer(n=2)
    assert both.beat((chunk(0, "a", 1), chunk(1, "b", 1))) == [
        Started(3, 1),
        TextDelta("a", 0),
        TextDelta("b", 1),
    ]


def scored(text: str, offset: int = 0) -> ScoredToken:
    return ScoredToken(Token(1, text.encode(), -1.0), offset=offset)


def test_scores_come_right_before_their_text() -> None:
    one = answer(scoring=Scoring())
    got = events(
        one,
        [
            chunk(0, "", 1, scored=(scored("ST"),)),  # could be the beginning of a stop string
            chunk(0, "STa", 2, scored=(scored("a"),)),
            chunk(0, "", 3, scored=(scored("</s>"),), finish="stop"),
        ],
    )
    assert got[1:-1] == [
        Scored((scored("ST"),), 0),
        TextDelta("ST", 0),
        Scored((scored("a", 2),), 0),
        TextDelta("a", 0),
        Scored((scored("</s>", 3),), 0),
        Finished("stop", 0),
    ]


def test_an_echoed_prompt_comes_first_and_once_with_its_scores() -> None:
    job = Job(Rendered([1, 2]), Sampling(), echo="Hi ")
    got = events(
        answer(job, echo=True, scoring=Scoring(prompt_from=0)),
        [
            chunk(0, "x", 1, scored=(scored("x"),), prompt=(scored("Hi"), scored(" "))),
            chunk(0, "y", 2, scored=(scored("y"),), finish="stop"),
        ],
    )
    assert got[1:5] == [
        Scored((scored("Hi"), scored(" ", 2)), 0, of_prompt=True),
        TextDelta("Hi ", 0),
        Scored((scored("x", 3),), 0),
        TextDelta("x", 0),
    ]
    plain = events(answer(job, echo=True), [chunk(0, "x", 1), chunk(0, "y", 2, finish="stop")])
    assert [event.text for event in plain if isinstance(event, TextDelta)] == ["Hi ", "x", "y"]


def test_token_ids_and_progress_come_before_the_text_that_they_describe() -> None:
    got = events(
        answer(token_ids=True, progress=True),
        [chunk(0, "ab", 2, ids=[7, 8]), chunk(0, "", 2, finish="stop")],
    )
    assert got == [
        Started(3, 1),
        Progress(Usage(3, 2, 1), 0, 2, 3, 1),
        TokenIds((7, 8), 0),
        TextDelta("ab", 0),
        Progress(Usage(3, 2, 1), 0, 2, 3, 1),
        Finished("stop", 0),
        Usage(3, 2, 1),
    ]


def test_each_choice_has_a_reader_of_its_own() -> None:
    use = ToolUse(tools=(Tool(name="ping"),), allowed=("ping",), required=True)
    job = Job(Rendered([1, 2, 3], reader=CallArray), Sampling(), use=use)
    call = '[{"name": "ping", "parameters": {"a": 1}}]'
    both = answer(job, n=2)
    got = events(
        both,
        [
            chunk(0, call[:12], 1),
            chunk(1, call, 9, finish="stop"),
            chunk(0, call[12:], 9, finish="stop"),
        ],
    )
    for index in (0, 1):
        own = [event for event in got if getattr(event, "index", None) == index]
        assert isinstance(own[0], ToolCallStarted)
        assert own[0].name == "ping"
        deltas = [event.arguments for event in own if isinstance(event, ToolCallDelta)]
        assert "".join(deltas) == '{"a": 1}'
        assert own[-1] == Finished("tool_calls", index)


def test_the_stats_of_a_request_follow_its_beats() -> None:
    stats = RequestStats()
    one = answer(stats=stats)
    one.beat((chunk(0, "", 1),))
    assert (stats.prompt_tokens, stats.first_token) == (3, None)
    one.beat((chunk(0, "a", 2, finish="length"),))
    assert stats.first_token is not None
    assert (stats.finish_reason, stats.completion_tokens) == ("length", 2)
