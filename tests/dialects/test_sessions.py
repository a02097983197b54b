"""What agents send turn after turn leaves what was said before as it was, so that it is cached.

tests/live/test_sessions.py shows the same on the real engine.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.support import sessions
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve

pytestmark = pytest.mark.full


@pytest.mark.parametrize("name", ["codex", "claude_code"])
async def test_a_turn_of_an_agent_begins_as_the_one_before_it(name: str) -> None:
    path, bodies = sessions.read(name)
    engine = ScriptedEngine(
        "x", tool_call_parser="hermes", context_length=200_000, max_prompt_tokens=199_000
    )
    async with serve(engine, SERVED_MODEL_NAME="local-model") as running:
        for body in bodies:
            answer = await running.client.post(path, json=body)
            assert answer.status_code == 200
    assert len(engine.chats) == len(bodies) >= 20
    for before, after in pairwise(engine.chats):
        assert after.tool_use == before.tool_use
        assert after.messages[: len(before.messages)] == before.messages
        assert len(after.messages) > len(before.messages)
