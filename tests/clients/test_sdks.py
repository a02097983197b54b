"""The SDKs and their wrappers: a chat, its stream and a call of a tool, in each API they speak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.clients.environments import pins, printed

pytestmark = pytest.mark.clients
HELLO = "You said: hello"
CALL = ["get_weather", {"city": "text"}]


def spoken(*apis: str, call: list[Any] = CALL) -> dict[str, Any]:
    """What a program prints that has tried these APIs; chat completions have no name."""
    made: dict[str, Any] = {}
    for api in apis:
        prefix = f"{api} ".lstrip()
        made |= {f"{prefix}chat": HELLO, f"{prefix}stream": HELLO, f"{prefix}call": call}
    return made


def each(program: str, package: str, expected: dict[str, Any]) -> Any:
    """A case that has the program's name."""
    return pytest.param(program, package, expected, id=Path(program).stem)


OPENAI = {
    "chat": HELLO,
    "stream": HELLO,
    "call": CALL,
    "response": HELLO,
    "response stream": HELLO,
    "response call": CALL,
}


@pytest.mark.parametrize(
    ("program", "package", "expected"),
    [
        each("sdks/openai_python.py", "openai", OPENAI),
        each("sdks/anthropic_python.py", "anthropic", spoken("")),
        each("sdks/langchain_python.py", "langchain-openai", spoken("", "response", "anthropic")),
        each("sdks/litellm_library.py", "litellm", OPENAI | spoken("anthropic")),
        each("node/openai_node.mjs", "openai", OPENAI),
        each("node/anthropic_node.mjs", "@anthropic-ai/sdk", spoken("")),
        each("node/ai_sdk.mjs", "ai", spoken("", "response", "compatible", "anthropic")),
        each("node/langchain_node.mjs", "@langchain/openai", spoken("", "response")),
    ],
)
def test_it_answers_streams_and_calls(
    server: str, tmp_path: Path, program: str, package: str, expected: dict[str, Any]
) -> None:
    got = printed(program, tmp_path, BASE_URL=server)
    assert got.pop("version") == pins(program.partition("/")[0])[package]
    assert got == expected
