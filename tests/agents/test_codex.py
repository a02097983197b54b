"""Codex CLI: it edits, runs, answers, and goes on over every fault of its server."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from app.errors import Draining, InternalError, Overloaded
from app.types import ChatPrompt
from tests.agents.conftest import FOLDER, RUNS, Script, Stage, called, kill, said
from tests.support.serving import eventually

pytestmark = [pytest.mark.agents, pytest.mark.parametrize("run", range(RUNS))]
CODEX = str(FOLDER / "node_modules" / ".bin" / "codex")
CONFIG = """
model = "local-model"
model_provider = "local"
model_context_window = 150000
model_catalog_json = "{home}/catalog.json"
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false
[model_providers.local]
name = "Local server"
base_url = "{url}/v1"
wire_api = "responses"
[analytics]
enabled = false
"""
CATALOG = {
    "models": [
        {
            "slug": "local-model", "display_name": "Local", "description": "d",
            "default_reasoning_level": "medium",
            "supported_reasoning_levels": [{"effort": "medium", "description": "m"}],
            "shell_type": "shell_command", "visibility": "list", "supported_in_api": True,
            "priority": 1, "base_instructions": "You are a coding agent.",
            "apply_patch_tool_type": "freeform", "supports_reasoning_summaries": True,
            "support_verbosity": False, "truncation_policy": {"mode": "bytes", "limit": 10000},
            "supports_parallel_tool_calls": True, "experimental_supported_tools": [],
            "context_window": 150000, "upgrade": None, "default_verbosity": None,
            "input_modalities": ["text"],
        }
    ]
}  # fmt: skip
PATCH = """*** Begin Patch
*** Update File: colours.txt
@@
-red
+green
 blue
*** End Patch
"""


@pytest_asyncio.fixture
async def codex(stage: Stage) -> Stage:
    home = stage.home / ".codex"
    home.mkdir()
    (home / "config.toml").write_text(CONFIG.format(home=home, url=stage.url))
    (home / "catalog.json").write_bytes(orjson.dumps(CATALOG))
    (stage.work / "colours.txt").write_text("red\nblue\n")
    return stage


def shell(command: str) -> Any:
    """A call of whatever tool runs commands in this release."""

    def saying(chat: ChatPrompt) -> Script:
        assert chat.tool_use is not None
        names = {tool.name for tool in chat.tool_use.tools}
        if "exec_command" in names:
            return called(("exec_command", {"cmd": command}))
        return called(("shell_command", {"command": command}))

    return saying


def patch(text: str = PATCH) -> Script:
    return called(("apply_patch", {"input": text}))


async def execute(stage: Stage, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit code, and the events that Codex tells of."""
    code, out, err = await stage.run(
        CODEX, "exec", *arguments[:-1], "--skip-git-repo-check", "--json", arguments[-1],
        CODEX_HOME=str(stage.home / ".codex"),
    )  # fmt: skip
    events = [orjson.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert events, err
    return code, events


def last_message(events: list[dict[str, Any]]) -> str:
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    return str([item["text"] for item in items if item["type"] == "agent_message"][-1])


async def test_it_edits_a_file_runs_a_command_and_answers(codex: Stage, run: int) -> None:
    codex.conductor.will_say(
        patch(), shell("cat colours.txt > copy.txt"), said("The first colour is green now.")
    )
    code, events = await execute(codex, "make the first colour green, and copy the file")
    assert code == 0
    assert last_message(events) == "The first colour is green now."
    assert (codex.work / "colours.txt").read_text() == "green\nblue\n"
    assert (codex.work / "copy.txt").read_text() == "green\nblue\n"
    assert events[-1]["type"] == "turn.completed"
    assert events[-1]["usage"]["input_tokens"] > 1000


async def test_it_is_cut_off_and_resumes_with_all_that_was_said(codex: Stage, run: int) -> None:
    hangs = asyncio.Event()
    codex.conductor.will_say(shell("echo one > one.txt"), ["I am ", hangs])
    process = await codex.start(
        CODEX, "exec", "--skip-git-repo-check", "--json", "make one.txt",
        CODEX_HOME=str(codex.home / ".codex"),
    )  # fmt: skip
    await eventually(lambda: len(codex.running.engine.calls) == 2)
    kill(process)
    await process.communicate()
    await eventually(lambda: codex.running.gate.in_flight == 0)
    codex.conductor.will_say(said("It was made before."))
    code, events = await execute(codex, "resume", "--last", "go on")
    assert code == 0
    assert last_message(events) == "It was made before."
    texts = codex.shown
    assert "make one.txt" in texts
    assert texts[-1] == "go on"
    assert any(message.calls for message in codex.running.engine.chats[-1].messages)


def refused() -> float:
    samples = REGISTRY.get_sample_value("serve_refused_total", {"reason": Overloaded.code})
    return samples or 0.0


async def test_it_waits_for_a_server_that_is_full(codex: Stage, run: int) -> None:
    gate = codex.running.gate
    tickets = []
    for no in range(gate._limit):
        ticket = await gate.admit(f"other {no}").__aenter__()
        ticket.arrive()
        tickets.append(ticket)
    codex.conductor.will_say(said("Here I am."))
    running = asyncio.create_task(execute(codex, "are you there?"))
    before = refused()
    await eventually(lambda: refused() > before)
    for ticket in tickets:
        await ticket.__aexit__(None, None, None)
    code, events = await running
    assert code == 0
    assert last_message(events) == "Here I am."


async def test_it_goes_on_after_a_failure_in_the_middle_of_an_answer(
    codex: Stage, run: int
) -> None:
    codex.conductor.will_say(
        ["I think ", InternalError("The engine stumbled.")],
        patch(),
        ["And ", Draining("This server is shutting down and could not wait any longer.")],
        said("It is done."),
    )
    code, events = await execute(codex, "make the first colour green")
    assert code == 0
    assert last_message(events) == "It is done."
    assert (codex.work / "colours.txt").read_text() == "green\nblue\n"
    assert len(codex.running.engine.calls) == 4


async def test_it_says_that_a_context_is_full_and_does_not_ask_again(
    codex: Stage, run: int
) -> None:
    (codex.work / "long.txt").write_text("all work and no play " * 400)
    engine = codex.running.engine
    engine.info = type(engine.info)(
        **{name: getattr(engine.info, name) for name in engine.info.__struct_fields__}
        | {"max_prompt_tokens": 500, "context_length": 510}
    )
    model = codex.running.serving.host.model
    assert model is not None
    model.info, model.limit = engine.info, 510
    code, events = await execute(codex, "hello")
    assert code == 1
    failed = [event for event in events if event["type"] == "turn.failed"]
    assert "context window" in failed[0]["error"]["message"]
    assert len(engine.calls) == 0
