"""LiteLLM as a library: chat completions, responses, and messages to an Anthropic server."""

import json
import os
from importlib.metadata import version

import litellm

URL = os.environ["BASE_URL"]
HELLO = [{"role": "user", "content": "hello"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}


def tried(**server) -> dict:
    answer = litellm.completion(messages=HELLO, **server)
    stream = litellm.completion(messages=HELLO, stream=True, **server)
    streamed = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    called = litellm.completion(messages=HELLO, tools=[TOOL], tool_choice="required", **server)
    (call,) = called.choices[0].message.tool_calls
    return {
        "chat": answer.choices[0].message.content,
        "stream": "".join(streamed),
        "call": [call.function.name, json.loads(call.function.arguments)],
    }


openai = {"model": "openai/scripted", "api_base": URL + "/v1", "api_key": "none"}
chat = tried(**openai)
messages = tried(model="anthropic/scripted", api_base=URL, api_key="none")

response = litellm.responses(input="hello", **openai)
stream = litellm.responses(input="hello", stream=True, **openai)
pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
requested = litellm.responses(
    input="hello",
    tools=[{"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": True}],
    tool_choice="required",
    **openai,
)
(item,) = requested.output

print(
    json.dumps(
        {
            "version": version("litellm"),
            **chat,
            "response": response.output_text,
            "response stream": "".join(pieces),
            "response call": [item.name, json.loads(item.arguments)],
            **{f"anthropic {key}": value for key, value in messages.items()},
        }
    )
)
