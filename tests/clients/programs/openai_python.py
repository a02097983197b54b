"""The OpenAI SDK: chat completions and responses."""

import json
import os

import openai

client = openai.OpenAI(base_url=os.environ["BASE_URL"] + "/v1", api_key="none")
MODEL = "scripted"
HELLO = [{"role": "user", "content": "hello"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}

answer = client.chat.completions.create(model=MODEL, messages=HELLO)
with client.chat.completions.stream(model=MODEL, messages=HELLO) as stream:
    deltas = [event.delta for event in stream if event.type == "content.delta"]
called = client.chat.completions.create(
    model=MODEL,
    messages=HELLO,
    tools=[{"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}],
    tool_choice="required",
)
(call,) = called.choices[0].message.tool_calls

response = client.responses.create(model=MODEL, input="hello")
with client.responses.stream(model=MODEL, input="hello") as stream:
    pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
requested = client.responses.create(
    model=MODEL,
    input="hello",
    tools=[{"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": True}],
    tool_choice="required",
)
(item,) = requested.output

print(
    json.dumps(
        {
            "version": openai.__version__,
            "chat": answer.choices[0].message.content,
            "stream": "".join(deltas),
            "call": [call.function.name, json.loads(call.function.arguments)],
            "response": response.output_text,
            "response stream": "".join(pieces),
            "response call": [item.name, json.loads(item.arguments)],
        }
    )
)
