"""A scripted engine: for what the real one cannot be made to do on demand.

Exact timing, text cut anywhere, failures at a given moment, a thousand streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from app.engine.base import Chunk, EngineInfo, Rendered
from app.types import Message, Sampling

Step = str | float | Exception | asyncio.Event
"""A text is a chunk; a number, seconds of silence; an exception is raised; an event is awaited."""


class ScriptedEngine:
    """Plays `script(choice)` for every choice; ids are the prompt's characters."""

    def __init__(
        self,
        *steps: Step,
        script: Callable[[int], Sequence[Step]] | None = None,
        finish: str = "stop",
        **info: object,
    ) -> None:
        self._script = script or (lambda _: steps)
        self._finish = finish
        self.info = EngineInfo(
            **{
                "model_path": "scripted", "version": "scripted", "device": "none",
                "context_length": 1000, "max_prompt_tokens": 990, "vocab_size": 0x110000, **info,
            }
        )  # fmt: skip
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.running = 0
        self.aborted = 0
        self.calls: list[tuple[list[int], Sampling, str, int]] = []
        self.closed = False

    def encode(self, text: str) -> list[int]:
        return [ord(each) for each in text]

    def render(self, messages: Sequence[Message]) -> Rendered:
        return Rendered(self.encode("".join(str(m["content"]) for m in messages)))

    async def generate(
        self, prompt: list[int], sampling: Sampling, *, id: str, choices: int
    ) -> AsyncGenerator[Chunk, None]:
        self.calls.append((prompt, sampling, id, choices))
        self.running += 1
        done = False
        try:
            scripts = [iter(self._script(choice)) for choice in range(choices)]
            tokens = [0] * choices
            open_choices = set(range(choices))
            while open_choices:
                for choice in sorted(open_choices):
                    step = next(scripts[choice], None)
                    match step:
                        case str():
                            tokens[choice] += 1
                            yield Chunk(choice, step, len(prompt), tokens[choice], 0)
                        case float() | int():
                            await asyncio.sleep(step)
                        case asyncio.Event():
                            await step.wait()
                        case Exception():
                            raise step
                        case None:
                            open_choices.discard(choice)
                            yield Chunk(choice, "", len(prompt), tokens[choice], 0, 0, self._finish)
            done = True
        finally:
            self.running -= 1
            self.aborted += not done

    def silent_s(self) -> float:
        return 0.0

    async def warm_up(self) -> None:
        pass

    async def close(self) -> None:
        self.closed = True
