"""Log-probabilities of prompts, a piece at a time.

The engine gives those of a whole prompt in one chunk, of all prompts that it has read together in
one message. Written at once they would hold the event loop for seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from app.engine.base import Chunk
from app.generation.turns import Turns

_SCORES = 2048
"""Of a piece. One is written in about 5 us."""


class Pieces:
    """Cuts the prompts' scores of all requests: one piece of one request in a round of the loop."""

    def __init__(self) -> None:
        self._turns = Turns()

    async def cut(
        self, chunks: AsyncGenerator[Chunk, None], *, top: int
    ) -> AsyncGenerator[Chunk, None]:
        """The chunks, those that have scores of the prompt as several. `top`: alternatives."""
        size = max(1, _SCORES // (top + 1))
        async with aclosing(chunks):
            async for chunk in chunks:
                prompt = chunk.prompt
                last = max(0, len(prompt) - 1) // size * size
                for first in range(0, last, size):
                    async with self._turns.turn(time.monotonic()):
                        piece = prompt[first : first + size]
                        await asyncio.sleep(0)  # a round of the loop, in which no other is made
                    yield msgspec.structs.replace(
                        chunk, prompt=piece, prompt_goes_on=True,
                        text="", ids=(), scored=(), finish=None, matched=None,
                    )  # fmt: skip
                yield msgspec.structs.replace(chunk, prompt=prompt[last:]) if prompt else chunk
