"""A whole worker process over a scripted engine, for tests that signal and kill it.

    python -m tests.runpod.scripted_worker

Settings come from the environment. The engine gives a word every twentieth of a second, TEST_WORDS
times; the prompt "die" makes it report its own death.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from typing import Any

os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="test-metrics-"))

from app.engine.base import Question
from app.errors import StartError
from app.logs import setup as logs
from app.runpod import worker
from app.settings.load import load
from tests.support.scripted import ScriptedEngine


class Engine(ScriptedEngine):
    async def generate(self, question: Question, *, id: str, choices: int) -> Any:
        if self.decode(question.prompt) == "die":
            self.lost.set_result("the prompt was 'die'")
        async for chunk in super().generate(question, id=id, choices=choices):
            yield chunk

    async def close(self) -> None:
        print("engine closed", flush=True)


async def launch(starting: Any) -> Any:
    starting.loading()
    if os.environ.get("TEST_LAUNCH") == "fails":
        raise StartError("no such model")
    if os.environ.get("TEST_LAUNCH") == "hangs":
        await asyncio.Event().wait()
    words = int(os.environ.get("TEST_WORDS", "1000"))
    return Engine(script=lambda _: ["word ", 0.05] * words)


def main() -> int:
    settings = load().settings
    logs.configure(settings)
    try:
        return worker.run(settings, launch, lambda: print("cleaned up", flush=True))
    except StartError as error:
        print(f"cannot start: {error}", flush=True)
        return error.exit_code


if __name__ == "__main__":
    code = main()
    logs.flush()
    sys.stdout.flush()
    os._exit(code)
