"""The OpenAI Agents SDK: an agent and its tool, on responses (its default) and chat completions.

Tracing is off, because it would send every run to OpenAI.
"""

import asyncio
import json
import os
from importlib.metadata import version

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

set_tracing_disabled(True)
asked: list[dict] = []


@function_tool
def get_weather(city: str) -> str:
    """The forecast for a city."""
    asked.append({"city": city})
    return f"sunny in {city}"


async def tried(model) -> dict:
    asked.clear()
    plain = Agent(name="plain", model=model)
    answer = await Runner.run(plain, "hello")
    stream = Runner.run_streamed(plain, "hello")
    deltas = [
        event.data.delta
        async for event in stream.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    able = Agent(
        name="able",
        model=model,
        tools=[get_weather],
        model_settings=ModelSettings(tool_choice="required"),
    )
    after_call = await Runner.run(able, "hello")
    return {
        "chat": answer.final_output,
        "stream": "".join(deltas),
        "call": ["get_weather", *asked],
        "after call": after_call.final_output,
    }


async def main() -> None:
    client = AsyncOpenAI(base_url=os.environ["BASE_URL"] + "/v1", api_key="none")
    chat = await tried(OpenAIChatCompletionsModel("scripted", client))
    responses = await tried(OpenAIResponsesModel("scripted", client))
    both = {**chat, **{f"response {key}": value for key, value in responses.items()}}
    print(json.dumps({"version": version("openai-agents"), **both}))


asyncio.run(main())
