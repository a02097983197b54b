"""The real application over an engine that writes as a model does, until it is told to stop.

`python -m tests.clients.model_server` logs its port as the server does. What it answers follows
from the last message: `answer 17` is the answer of that number (`answers.py`), `call NAME {...}` a
call of that tool; anything else, such as a tool's result, is repeated.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import Iterable

import structlog

from app.engine.base import Question
from app.engine.scripted import Step
from app.engine.sglang import importing
from app.events import EndReason
from app.types import ChatPrompt
from tests.clients.answers import Answer, answer, called
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve

_ANSWER = re.compile(r"answer (\d+)")
_CALL = re.compile(r"call (\w+) (\{.*\})")


class Model(ScriptedEngine):
    def __init__(self) -> None:
        super().__init__(
            tool_call_parser="hermes",
            reasoning_parser="qwen3",
            context_length=200_000,
            max_prompt_tokens=199_000,
        )

    def _ids(self, chat: ChatPrompt) -> list[int]:
        self.chats.clear()  # no test reads them
        return self.encode("".join(part.text for part in chat.messages[-1].parts) or " ")

    def steps(self, question: Question, choice: int) -> Iterable[Step]:
        if (made := self._made(question)) is not None:
            return made.steps
        prompt = self.decode(question.prompt)
        if asked := _CALL.search(prompt):
            return called(asked[1], json.loads(asked[2])).splitlines(keepends=True)
        return f"You said: {prompt}".splitlines(keepends=True)

    def end(self, question: Question, tokens: int) -> tuple[EndReason, str | int | None]:
        made = self._made(question)
        return ("length" if made is not None and made.end == "length" else "stop"), None

    def _made(self, question: Question) -> Answer | None:
        asked = _ANSWER.search(self.decode(question.prompt))
        return answer(int(asked[1])) if asked else None


async def main() -> None:
    importing.use_cpu()
    # structlog's default draws tracebacks with rich: 0.8 s for each error of the engine.
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    )
    ends = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ends.set)
    limits = {"MAX_BODY_BYTES": str(10**8), "MAX_TOOLS": "512"}
    async with serve(Model(), SERVED_MODEL_NAME="scripted,claude-scripted", **limits) as running:
        print(json.dumps({"event": "listening", "port": running.port}), flush=True)
        await ends.wait()


if __name__ == "__main__":
    asyncio.run(main())
