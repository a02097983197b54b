"""Haystack: OpenAIChatGenerator and OpenAIResponsesChatGenerator."""

import json
import os
from importlib.metadata import version

from haystack.components.generators.chat import OpenAIChatGenerator, OpenAIResponsesChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import tool
from haystack.utils import Secret

server = {
    "model": "scripted",
    "api_base_url": os.environ["BASE_URL"] + "/v1",
    "api_key": Secret.from_token("none"),
}
hello = [ChatMessage.from_user("hello")]


@tool
def get_weather(city: str) -> str:
    """The forecast for a city."""
    return f"sunny in {city}"


def tried(kind) -> dict:
    pieces: list[str] = []
    generator = kind(**server)
    (answer,) = generator.run(hello)["replies"]
    generator.run(hello, streaming_callback=lambda chunk: pieces.append(chunk.content))
    required = {"tool_choice": "required"}
    (called,) = generator.run(hello, tools=[get_weather], generation_kwargs=required)["replies"]
    (call,) = called.tool_calls
    return {
        "chat": answer.text,
        "stream": "".join(pieces),
        "call": [call.tool_name, call.arguments],
    }


chat = tried(OpenAIChatGenerator)
responses = tried(OpenAIResponsesChatGenerator)
print(
    json.dumps(
        {
            "version": version("haystack-ai"),
            **chat,
            **{f"response {key}": value for key, value in responses.items()},
        }
    )
)
