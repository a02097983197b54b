"""LlamaIndex: OpenAILike on chat completions, OpenAIResponses on responses."""

import json
import os
from importlib.metadata import version

from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAIResponses
from llama_index.llms.openai_like import OpenAILike

server = {
    "model": "scripted",
    "api_base": os.environ["BASE_URL"] + "/v1",
    "api_key": "none",
    "context_window": 32768,
}


def get_weather(city: str) -> str:
    """The forecast for a city."""
    return f"sunny in {city}"


def tried(model) -> dict:
    tool = FunctionTool.from_defaults(get_weather)
    called = model.chat_with_tools([tool], user_msg="hello", tool_required=True)
    (call,) = model.get_tool_calls_from_response(called)
    return {
        "chat": model.complete("hello").text,
        "stream": "".join(part.delta for part in model.stream_complete("hello")),
        "call": [call.tool_name, call.tool_kwargs],
    }


chat = tried(OpenAILike(is_chat_model=True, is_function_calling_model=True, **server))
responses = tried(OpenAIResponses(**server))
print(
    json.dumps(
        {
            "version": version("llama-index-llms-openai-like"),
            **chat,
            **{f"response {key}": value for key, value in responses.items()},
        }
    )
)
