"""Tools, texts that call them, and the message of a whole answer, for the tests beside."""

from __future__ import annotations

from typing import Any

from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve


def function_tool(name: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object"}, **more},
    }


def call_text(name: str, arguments: str = "{}") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>\n'


TOOLS = [function_tool("first"), function_tool("second")]


NAMED = {"type": "function", "function": {"name": "second"}}


async def message_of(engine: ScriptedEngine, **fields: Any) -> tuple[dict[str, Any], str]:
    async with serve(engine) as running:
        answer = (await running.chat(**fields)).raise_for_status().json()
    (choice,) = answer["choices"]
    return choice["message"], choice["finish_reason"]


def tool_names(message: dict[str, Any]) -> list[str]:
    return [call["function"]["name"] for call in message.get("tool_calls", ())]
