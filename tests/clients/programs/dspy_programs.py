"""DSPy: a language model, a signature (as a JSON schema), its stream and a call of a tool.

DSPy asks for JSON schemas only of models that it knows: the server is declared to it as a provider.
"""

import asyncio
import json
import os
from importlib.metadata import version

import dspy
from dspy import lm15

URL = os.environ["BASE_URL"] + "/v1"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}

access = lm15.AccessPolicy(provider="local", base_url=URL)
lm15.register_provider(
    lm15.ProviderDefinition.chat(access, compat=lm15.OpenAIChatCompat()),
    supports=lm15.ModelSupport(function_calling=True, response_schema=True),
)


async def streamed() -> str:
    program = dspy.streamify(
        dspy.Predict("question -> answer"),
        stream_listeners=[dspy.streaming.StreamListener("answer")],
    )
    return "".join(
        [
            each.chunk
            async for each in program(question="hello")
            if isinstance(each, dspy.streaming.StreamResponse)
        ]
    )


model = dspy.LM("local/scripted", api_key="none", cache=False)
dspy.configure(lm=model, adapter=dspy.JSONAdapter())
(called,) = model("hello", tools=[TOOL], tool_choice="required")
(call,) = called["tool_calls"]
responses = dspy.LM(
    "openai/scripted", model_type="responses", api_base=URL, api_key="none", cache=False
)
(response,) = responses("hello")
print(
    json.dumps(
        {
            "version": version("dspy"),
            "chat": model("hello")[0],
            "signature": dspy.Predict("question -> answer")(question="hello").answer,
            "stream": asyncio.run(streamed()),
            "call": [call["function"]["name"], json.loads(call["function"]["arguments"])],
            "response": response["text"],
        }
    )
)
