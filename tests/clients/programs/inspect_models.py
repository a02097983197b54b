"""Inspect: the providers `openai-api` (chat completions, responses) and `anthropic`."""

import asyncio
import json
import os
from importlib.metadata import version

from inspect_ai.model import get_model
from inspect_ai.tool import tool

URL = os.environ["BASE_URL"]


@tool
def get_weather():
    async def execute(city: str) -> str:
        """The forecast for a city.

        Args:
            city: Its name.
        """
        return f"sunny in {city}"

    return execute


async def tried(name: str, url: str, **options) -> dict:
    model = get_model(name, base_url=url, api_key="none", **options)
    answer = await model.generate("hello")
    called = await model.generate("hello", tools=[get_weather()], tool_choice="any")
    (call,) = called.message.tool_calls
    return {"chat": answer.completion, "call": [call.function, call.arguments]}


async def main() -> None:
    made = {"version": version("inspect-ai")}
    for prefix, name, url, options in (
        ("", "openai-api/local/scripted", URL + "/v1", {}),
        ("stream ", "openai-api/local/scripted", URL + "/v1", {"stream": True}),
        ("response ", "openai-api/local/scripted", URL + "/v1", {"responses_api": True}),
        ("anthropic ", "anthropic/scripted", URL, {"streaming": True}),
    ):
        for key, value in (await tried(name, url, **options)).items():
            made[prefix + key] = value
    print(json.dumps(made))


asyncio.run(main())
