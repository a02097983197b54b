"""Codex and Claude Code, as they are installed, against this program with a scripted engine.

    make test-agents                        AGENT_RUNS=20 as in the figures

What the model says next is decided by each test; everything between the agent and the engine is
real. They are programs of hundreds of megabytes, so CI runs none of this.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from app.types import ChatPrompt
from tests.support.scripted import ScriptedEngine
from tests.support.serving import Running, serve

FOLDER = Path(os.environ.get("AGENTS_DIR", ".agents")).absolute()
RUNS = int(os.environ.get("AGENT_RUNS", "1"))
Script = list[Any]
Saying = Script | Callable[[ChatPrompt], Script]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/agents" in str(item.path) and not (FOLDER / "node_modules").is_dir():
            item.add_marker(pytest.mark.skip(reason="not installed: make test-agents"))


def said(text: str) -> Script:
    return [text[at : at + 7] for at in range(0, len(text), 7)]


def called(*calls: tuple[str, dict[str, Any]], before: str = "") -> Script:
    """Calls of tools, as the model of the scripted engine writes them."""
    text = before
    for name, arguments in calls:
        content = orjson.dumps({"name": name, "arguments": arguments}).decode()
        text += f"<tool_call>\n{content}\n</tool_call>\n"
    return said(text)


@dataclass
class Conductor:
    """Says what the model says: to requests without tools (titles, summaries) always the same, to
    the others what the test has put in."""

    sayings: deque[Saying] = field(default_factory=deque)
    aside: str = '{"title": "A test"}'
    engine: ScriptedEngine | None = None

    def next(self, _: int) -> Iterable[Any]:
        assert self.engine is not None
        chat = self.engine.chats[-1]
        if chat.tool_use is None or not chat.tool_use.tools:
            return said(self.aside)
        saying = self.sayings.popleft() if self.sayings else said("There is nothing more to do.")
        return saying(chat) if callable(saying) else saying

    def will_say(self, *sayings: Saying) -> None:
        self.sayings.extend(sayings)


@dataclass
class Stage:
    """A server, what its model will say, and an agent's folders."""

    running: Running
    conductor: Conductor
    home: Path
    work: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.running.port}"

    @property
    def shown(self) -> list[str]:
        """The texts of the last conversation that the model has seen."""
        messages = self.running.engine.chats[-1].messages
        return ["".join(part.text for part in message.parts) for message in messages]

    async def run(
        self, *command: str, within_s: float = 120, **environment: str
    ) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of an agent."""
        process = await self.start(*command, **environment)
        try:
            async with asyncio.timeout(within_s):
                out, err = await process.communicate()
        except TimeoutError:
            kill(process)
            raise
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def start(self, *command: str, **environment: str) -> asyncio.subprocess.Process:
        inherited = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return await asyncio.create_subprocess_exec(
            *command,
            cwd=self.work,
            env={**inherited, "HOME": str(self.home), **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=2**24,
            start_new_session=True,
        )


def kill(process: asyncio.subprocess.Process) -> None:
    """With what it has started: an agent is a launcher and a program."""
    os.killpg(process.pid, signal.SIGKILL)


@pytest_asyncio.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    conductor = Conductor()
    engine = ScriptedEngine(
        script=conductor.next,
        tool_call_parser="hermes",
        reasoning_parser=None,
        context_length=200_000,
        max_prompt_tokens=199_000,
    )
    conductor.engine = engine
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    async with serve(engine, SERVED_MODEL_NAME="local-model") as running:
        yield Stage(running, conductor, home, work)
