"""LangChain: ChatOpenAI on chat completions and on responses, and ChatAnthropic."""

import json
import os
from importlib.metadata import version

from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

URL = os.environ["BASE_URL"]


@tool
def get_weather(city: str) -> str:
    """The forecast for a city."""
    return f"sunny in {city}"


def tried(model, choice: str) -> dict:
    called = model.bind_tools([get_weather], tool_choice=choice).invoke("hello")
    (call,) = called.tool_calls
    return {
        "chat": model.invoke("hello").text,
        "stream": "".join(chunk.text for chunk in model.stream("hello")),
        "call": [call["name"], call["args"]],
    }


openai = {"model": "scripted", "base_url": URL + "/v1", "api_key": "none"}
chat = tried(ChatOpenAI(**openai), "required")
responses = tried(ChatOpenAI(**openai, use_responses_api=True), "required")
messages = tried(ChatAnthropic(model="scripted", base_url=URL, api_key="none"), "any")

print(
    json.dumps(
        {
            "version": version("langchain-openai"),
            **chat,
            **{f"response {key}": value for key, value in responses.items()},
            **{f"anthropic {key}": value for key, value in messages.items()},
        }
    )
)
