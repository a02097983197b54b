"""Claude Code: tools, several at once, conversations that go on, and their summary."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import pytest_asyncio

from app.errors import InternalError
from tests.agents.conftest import FOLDER, RUNS, Stage, called, said

pytestmark = [pytest.mark.agents, pytest.mark.parametrize("run", range(RUNS))]
# The launcher in .bin is replaced by a script of the installation, which is not run.
PROGRAM = str(
    next(iter((FOLDER / "node_modules" / "@anthropic-ai").glob("claude-code-linux-*/claude")), "")
)
TOOLS = ("--allowedTools", "Bash,Read,Edit")


@pytest_asyncio.fixture
async def claude(stage: Stage) -> Stage:
    (stage.work / "colours.txt").write_text("red\nblue\n")
    return stage


async def ask(stage: Stage, prompt: str, *options: str) -> tuple[int, Any]:
    """Exit code, and the result that it prints."""
    code, out, err = await stage.run(
        PROGRAM, "-p", prompt, "--output-format", "json", *options,
        ANTHROPIC_BASE_URL=stage.url,
        ANTHROPIC_AUTH_TOKEN="any",
        ANTHROPIC_MODEL="local-model",
        ANTHROPIC_DEFAULT_OPUS_MODEL="local-model",
        ANTHROPIC_DEFAULT_SONNET_MODEL="local-model",
        ANTHROPIC_DEFAULT_HAIKU_MODEL="local-model",
        CLAUDE_CODE_MAX_CONTEXT_TOKENS="150000",
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
    )  # fmt: skip
    assert out.strip(), err
    return code, orjson.loads(out)


async def go_on(stage: Stage, prompt: str) -> tuple[int, Any]:
    return await ask(stage, prompt, "--continue")


async def test_it_runs_reads_and_edits(claude: Stage, run: int) -> None:
    file = str(claude.work / "colours.txt")
    claude.conductor.will_say(
        called(("Bash", {"command": "echo hi > hi.txt", "description": "greets"})),
        called(("Read", {"file_path": file})),
        called(("Edit", {"file_path": file, "old_string": "red", "new_string": "green"})),
        said("The first colour is green now."),
    )
    code, result = await ask(claude, "greet, and make the first colour green", *TOOLS)
    assert (code, result["is_error"]) == (0, False)
    assert result["result"] == "The first colour is green now."
    assert (claude.work / "hi.txt").read_text() == "hi\n"
    assert (claude.work / "colours.txt").read_text() == "green\nblue\n"


async def test_two_tools_at_once_have_both_their_results(claude: Stage, run: int) -> None:
    file = str(claude.work / "colours.txt")
    claude.conductor.will_say(
        called(
            ("Read", {"file_path": file}),
            ("Bash", {"command": "echo two", "description": "prints"}),
            before="Let me look.\n",
        ),
        said("Both are done."),
    )
    code, result = await ask(claude, "look and print", *TOOLS)
    assert (code, result["result"]) == (0, "Both are done.")
    messages = claude.running.engine.chats[-1].messages
    results = [message for message in messages if message.role == "tool"]
    assert len(results) == 2
    texts = ["".join(part.text for part in message.parts) for message in results]
    assert "blue" in texts[0]
    assert "two" in texts[1]


async def test_a_conversation_goes_on_and_is_summarised(claude: Stage, run: int) -> None:
    claude.conductor.will_say(said("Nice to meet you, Ada."))
    code, _ = await ask(claude, "my name is Ada")
    assert code == 0
    claude.conductor.will_say(said("Ada it is."))
    code, result = await go_on(claude, "what is my name?")
    assert (code, result["result"]) == (0, "Ada it is.")
    texts = claude.shown
    assert any("Nice to meet you, Ada." in text for text in texts)
    summary = said("<summary>The user is called Ada.</summary>")
    claude.conductor.aside = "<summary>The user is called Ada.</summary>"
    claude.conductor.will_say(summary)
    code, result = await go_on(claude, "/compact")
    assert (code, result["is_error"]) == (0, False)
    claude.conductor.sayings.clear()
    claude.conductor.will_say(said("Still Ada."))
    code, result = await go_on(claude, "and now?")
    assert (code, result["result"]) == (0, "Still Ada.")
    texts = claude.shown
    assert any("The user is called Ada." in text for text in texts)


async def test_it_goes_on_after_a_failure_in_the_middle_of_an_answer(
    claude: Stage, run: int
) -> None:
    claude.conductor.will_say(
        ["I think ", InternalError("The engine stumbled.")], said("Here I am.")
    )
    code, result = await ask(claude, "are you there?")
    assert (code, result["result"]) == (0, "Here I am.")
