"""pydantic-ai: chat completions, responses and messages. An output type is a tool it requires."""

import asyncio
import json
import os
from importlib.metadata import version

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

URL = os.environ["BASE_URL"]


class Place(BaseModel):
    city: str


async def tried(model) -> dict:
    answer = await Agent(model).run("hello")
    async with Agent(model).run_stream("hello") as stream:
        pieces = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]
    typed = await Agent(model, output_type=Place).run("hello")
    (call,) = (
        part
        for message in typed.all_messages()
        for part in message.parts
        if isinstance(part, ToolCallPart)
    )
    return {
        "chat": answer.output,
        "stream": "".join(pieces),
        "call": [call.tool_name, typed.output.model_dump()],
    }


async def main() -> None:
    openai = OpenAIProvider(base_url=URL + "/v1", api_key="none")
    anthropic = AnthropicProvider(base_url=URL, api_key="none")
    made = {"version": version("pydantic-ai-slim")}
    for prefix, model in (
        ("", OpenAIChatModel("scripted", provider=openai)),
        ("response ", OpenAIResponsesModel("scripted", provider=openai)),
        ("anthropic ", AnthropicModel("scripted", provider=anthropic)),
    ):
        made |= {prefix + key: value for key, value in (await tried(model)).items()}
    print(json.dumps(made))


asyncio.run(main())
