"""Frames of any text in any pieces, without a server."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.dialects.contract import present
from app.dialects.openai.chat import ChatPresenter
from app.dialects.openai.completions import CompletionPresenter
from app.events import Beat, Finished, Started, TextDelta, Usage
from tests.support import sse


async def _streamed(presenter: Any, beats: list[Beat]) -> list[Any]:
    async def events() -> Any:
        for beat in beats:
            yield beat

    reply = await present(events(), presenter, stream=True)
    return sse.frames(b"".join([frame async for frame in reply.frames]).decode())


@hypothesis_settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 2), st.text(min_size=1)), max_size=30), st.data())
def test_any_text_in_any_pieces_arrives_unchanged(
    pieces: list[tuple[int, str]], data: st.DataObject
) -> None:
    pieces = [(index, text) for index, text in pieces if text.isprintable() or text.isascii()]
    deltas: Beat = [TextDelta(text, index) for index, text in pieces]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(deltas)), max_size=4)))
    beats = [deltas[a:b] for a, b in zip([0, *cuts], [*cuts, len(deltas)], strict=True)]
    ends: Beat = [Finished("stop", index) for index in range(3)]
    beats = [[Started(1)], *beats, [*ends, Usage(1, 2, 0)]]
    for presenter in (
        ChatPresenter(id="i", model="m", n=3, include_usage=False),
        CompletionPresenter(id="i", model="m", choices=3, include_usage=False),
    ):
        frames = asyncio.run(_streamed(presenter, beats))
        assert frames[-1] == "[DONE]"
        for index in range(3):
            assert sse.text_of(frames, index) == "".join(t for i, t in pieces if i == index)
