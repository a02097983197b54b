"""The Anthropic SDK: messages."""

import json
import os

import anthropic

client = anthropic.Anthropic(base_url=os.environ["BASE_URL"], api_key="none")
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
asked = {
    "model": "scripted",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "hello"}],
}

answer = client.messages.create(**asked)
with client.messages.stream(**asked) as stream:
    streamed = "".join(stream.text_stream)
called = client.messages.create(
    **asked,
    tools=[{"name": "get_weather", "input_schema": PARAMETERS}],
    tool_choice={"type": "any"},
)
(block,) = called.content

print(
    json.dumps(
        {
            "version": anthropic.__version__,
            "chat": answer.content[0].text,
            "stream": streamed,
            "call": [block.name, block.input],
        }
    )
)
