"""Scores of prompts are written a piece at a time, and are the same as if written at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.base import Chunk, Rendered
from app.events import Event, Finished, Scored, ScoredToken, TextDelta, Token, Usage
from app.generation import pieces
from app.generation.answer import Answer
from app.generation.pieces import Pieces
from app.generation.prompt import Job
from app.types import GenerationRequest, Sampling, Scoring, TextPrompt


def scored(raw: bytes) -> ScoredToken:
    return ScoredToken(Token(1, raw, -1.0))


async def _chunks(*chunks: Chunk) -> AsyncGenerator[Chunk, None]:
    for chunk in chunks:
        yield chunk


def _events(chunks: Sequence[Chunk], *, echo: str) -> tuple[object, ...]:
    prompt = TextPrompt("", param="prompt")
    request = GenerationRequest(
        id="x", prompts=(prompt,), sampling=Sampling(), scoring=Scoring(prompt_from=0)
    )
    answer = Answer(request, [Job(Rendered([1]), Sampling(), echo=echo)], None)
    events: list[Event] = [event for chunk in chunks for event in answer.beat((chunk,))]
    scores = [event for event in events if isinstance(event, Scored)]
    return (
        "".join(event.text for event in events if isinstance(event, TextDelta)),
        [token for event in scores if event.of_prompt for token in event.tokens],
        [token for event in scores if not event.of_prompt for token in event.tokens],
        [event for event in events if isinstance(event, Finished | Usage)],
    )


# Each cut in the middle of a character, and some with bytes that are no text.
_RAW = st.lists(st.sampled_from([b"a", b" b", b"\xc3", b"\xa9", b"\xff", b"</s>"]))


@given(_RAW, st.booleans(), st.integers(1, 4))
def test_an_answer_is_the_same_from_pieces(raw: list[bytes], echoes: bool, size: int) -> None:
    echo = b"".join(raw).decode(errors="replace").replace("</s>", "") if echoes else ""
    whole = [
        Chunk(0, "x", 3, 1, 1, prompt=[scored(each) for each in raw], scored=(scored(b"x"),)),
        Chunk(0, "y", 3, 2, 1, scored=(scored(b"y"),), finish="stop"),
    ]

    async def cut() -> list[Chunk]:
        return [chunk async for chunk in Pieces().cut(_chunks(*whole), top=0)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "_SCORES", size)
        several = asyncio.run(cut())
    assert len(several) == max(1, -(-len(raw) // size)) + 1
    assert [len(chunk.prompt) <= size for chunk in several] == [True] * len(several)
    assert _events(several, echo=echo) == _events(whole, echo=echo)


async def test_the_pieces_of_many_prompts_leave_the_loop_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pieces, "_SCORES", 10)
    cutting, rounds, made = Pieces(), 0, list[int]()

    class Noting(list[ScoredToken]):
        def __getitem__(self, place: object) -> object:  # type: ignore[override]
            made.append(rounds)
            return super().__getitem__(place)  # type: ignore[index]

    async def one() -> int:
        prompt = Noting([scored(b"a")] * 100)
        stream = cutting.cut(_chunks(Chunk(0, "", 3, 1, 1, prompt=prompt)), top=0)
        async with aclosing(stream):
            return sum([len(chunk.prompt) async for chunk in stream])

    async def count() -> None:
        nonlocal rounds
        while True:
            await asyncio.sleep(0)
            rounds += 1

    counting = asyncio.create_task(count())
    assert await asyncio.gather(*(one() for _ in range(20))) == [100] * 20
    counting.cancel()
    assert len(made) == 200
    assert max(made.count(no) for no in set(made)) <= 2  # a prompt's last piece needs no turn


async def test_a_client_that_leaves_between_two_pieces_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pieces, "_SCORES", 1)
    cutting = Pieces()

    async def take() -> int:
        chunks = _chunks(Chunk(0, "", 3, 1, 1, prompt=[scored(b"a")] * 30))
        async with aclosing(cutting.cut(chunks, top=0)) as stream:
            return len([chunk async for chunk in stream])

    tasks = [asyncio.create_task(take()) for _ in range(6)]
    for _ in range(7):
        await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*tasks[1::2]) == [30] * 3
