"""smolagents: OpenAIModel, and an agent that answers by the tool it always has."""

import contextlib
import io
import json
import os
from importlib.metadata import version

from smolagents import OpenAIModel, ToolCallingAgent, tool


@tool
def get_weather(city: str) -> str:
    """The forecast for a city.

    Args:
        city: its name
    """
    return f"sunny in {city}"


model = OpenAIModel("scripted", api_base=os.environ["BASE_URL"] + "/v1", api_key="none")
hello = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
called = model.generate(hello, tools_to_call_from=[get_weather])
(call,) = called.tool_calls
arguments = call.function.arguments
with contextlib.redirect_stdout(io.StringIO()):  # it draws what it does
    ended = ToolCallingAgent([], model, max_steps=2).run("hello")
print(
    json.dumps(
        {
            "version": version("smolagents"),
            "chat": model.generate(hello).content,
            "stream": "".join(part.content or "" for part in model.generate_stream(hello)),
            "call": [
                call.function.name,
                json.loads(arguments) if isinstance(arguments, str) else arguments,
            ],
            "agent": ended,
        }
    )
)
