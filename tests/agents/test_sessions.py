"""Twenty turns of each agent: nothing that was said before changes from turn to turn.

RECORD=1 make test-agents ARGS="-k sessions"        writes tests/agents/sessions/
"""

from __future__ import annotations

import os
import platform
from itertools import pairwise
from typing import Any

import orjson
import pytest

from app.dialects.answering import Answering
from tests.agents import test_claude_code, test_codex
from tests.agents.conftest import Stage, called, said
from tests.agents.test_claude_code import claude as claude_
from tests.agents.test_codex import codex as codex_
from tests.support import sessions

pytestmark = pytest.mark.agents
claude, codex = claude_, codex_
Bodies = list[dict[str, Any]]


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch) -> Bodies:
    """Of the requests with tools, in their order: those without are for titles."""
    seen: Bodies = []
    answer = Answering.answer

    def recorded(self: Answering, dialect: Any, raw: bytes, **rest: Any) -> Any:
        body = orjson.loads(raw)
        if body.get("tools"):
            seen.append(body)
        return answer(self, dialect, raw, **rest)

    monkeypatch.setattr(Answering, "answer", recorded)
    return seen


async def test_sessions_of_codex_change_nothing_said_before(codex: Stage, bodies: Bodies) -> None:
    shell = test_codex.shell
    first = [shell(f"echo {'line ' * no}; ls") for no in range(8)]
    codex.conductor.will_say(*first, test_codex.patch(), said("The file is changed."))
    code, _ = await test_codex.execute(codex, "look around, then change the file")
    assert code == 0
    for no in range(4):
        codex.conductor.will_say(
            shell(f"cat colours.txt # {no}"), shell("seq 1 40"), said(f"This was number {no}. " * 9)
        )
        code, _ = await test_codex.execute(codex, "resume", "--last", f"and now number {no}")
        assert code == 0
    _check_and_record(codex, "codex", "/v1/responses", bodies)


async def test_sessions_of_claude_code_change_nothing_said_before(
    claude: Stage, bodies: Bodies
) -> None:
    file = str(claude.work / "colours.txt")

    def bash(command: str) -> tuple[str, dict[str, Any]]:
        return "Bash", {"command": command, "description": "does it"}

    first = [called(bash(f"echo {'line ' * no}; ls"), before="I look.\n") for no in range(6)]
    claude.conductor.will_say(
        *first,
        called(("Read", {"file_path": file}), bash("seq 1 30")),
        called(("Edit", {"file_path": file, "old_string": "red", "new_string": "green"})),
        said("The file is changed."),
    )
    tools = test_claude_code.TOOLS
    code, _ = await test_claude_code.ask(claude, "look around, change the file", *tools)
    assert code == 0
    for no in range(4):
        claude.conductor.will_say(
            called(bash(f"cat colours.txt # {no}")), called(bash("seq 1 40")),
            said(f"This was number {no}. " * 9),
        )  # fmt: skip
        code, _ = await test_claude_code.ask(claude, f"and now number {no}", "--continue", *tools)
        assert code == 0
    _check_and_record(claude, "claude_code", "/v1/messages", bodies)


def _check_and_record(stage: Stage, name: str, path: str, bodies: Bodies) -> None:
    assert len(bodies) >= 20
    chats = [chat for chat in stage.running.engine.chats if chat.tool_use and chat.tool_use.tools]
    assert len(chats) == len(bodies)
    for before, after in pairwise(chats):
        assert after.tool_use == before.tool_use
        assert list(after.messages[: len(before.messages)]) == list(before.messages)
    if os.environ.get("RECORD"):
        text = orjson.dumps(bodies).decode()
        for ours, any_ones in (
            (str(stage.home), "/home/user"), (str(stage.work), "/home/user/project"),
            (platform.release(), "6.1.0"),
        ):  # fmt: skip
            text = text.replace(ours, any_ones)
        sessions.write(name, path, [sessions.veiled(body) for body in orjson.loads(text)])
