"""Frameworks over the SDKs, and a proxy: a chat, its stream and a call, in each API they speak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.clients.environments import pins, printed
from tests.clients.test_sdks import CALL, HELLO, OPENAI, each, spoken

pytestmark = pytest.mark.clients
PLACE = {"city": "text"}
AFTER_CALL = "You said: sunny in text"
AGENT = {"after call": AFTER_CALL, "response after call": AFTER_CALL}
INSTRUCTOR = {"chat": PLACE, "stream": PLACE, "call": ["Place", PLACE], "response": PLACE}
# DSPy hands on the pieces of a JSON answer as they are.
DSPY = {
    "chat": HELLO,
    "signature": "text",
    "stream": '"text"',
    "call": CALL,
    "response": HELLO,
}
INSPECT = {
    f"{api}{what}": value
    for api in ("", "stream ", "response ", "anthropic ")
    for what, value in (("chat", HELLO), ("call", CALL))
}


@pytest.mark.parametrize(
    ("program", "package", "expected"),
    [
        each("agents/openai_agents.py", "openai-agents", spoken("", "response") | AGENT),
        each(
            "agents/pydantic_agents.py",
            "pydantic-ai-slim",
            spoken("", "response", "anthropic", call=["final_result", PLACE]),
        ),
        each("agents/inspect_models.py", "inspect-ai", INSPECT),
        each("frameworks/instructor_models.py", "instructor", INSTRUCTOR),
        each(
            "frameworks/llama_index_models.py",
            "llama-index-llms-openai-like",
            spoken("", "response"),
        ),
        each("frameworks/haystack_generators.py", "haystack-ai", spoken("", "response")),
        each("frameworks/dspy_programs.py", "dspy", DSPY),
        each("frameworks/smolagents_models.py", "smolagents", spoken("") | {"agent": "text"}),
        each(
            "frameworks/litellm_proxy.py",
            "litellm",
            OPENAI | spoken("anthropic") | {"message": HELLO},
        ),
    ],
)
def test_it_answers_streams_and_calls(
    server: str, tmp_path: Path, program: str, package: str, expected: dict[str, Any]
) -> None:
    got = printed(program, tmp_path, BASE_URL=server)
    assert got.pop("version") == pins(program.partition("/")[0])[package]
    assert got == expected
