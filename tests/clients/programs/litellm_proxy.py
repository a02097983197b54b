"""LiteLLM's proxy in front of the server: what its own clients get, in each API.

Run by the interpreter that has the proxy: it starts one, asks it as its clients do, and ends it.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import httpx
import openai

URL = os.environ["BASE_URL"]
KEY = f"sk-{secrets.token_hex(32)}"  # it starts only with a key of its own
CONFIG = {
    "model_list": [
        {
            "model_name": "local",
            "litellm_params": {
                "model": "openai/scripted",
                "api_base": URL + "/v1",
                "api_key": "none",
            },
        },
        {
            "model_name": "claude-local",
            "litellm_params": {
                "model": "anthropic/scripted",
                "api_base": URL,
                "api_key": "none",
            },
        },
    ]
}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
HELLO = [{"role": "user", "content": "hello"}]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def chats(client: openai.OpenAI, model: str) -> dict:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
    answer = client.chat.completions.create(model=model, messages=HELLO)
    stream = client.chat.completions.create(model=model, messages=HELLO, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    called = client.chat.completions.create(
        model=model, messages=HELLO, tools=[tool], tool_choice="required"
    )
    (call,) = called.choices[0].message.tool_calls
    return {
        "chat": answer.choices[0].message.content,
        "stream": "".join(pieces),
        "call": [call.function.name, json.loads(call.function.arguments)],
    }


def responses(client: openai.OpenAI) -> dict:
    tool = {"type": "function", "name": "get_weather", "parameters": PARAMETERS}
    response = client.responses.create(model="local", input="hello")
    with client.responses.stream(model="local", input="hello") as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
    requested = client.responses.create(
        model="local", input="hello", tools=[tool], tool_choice="required"
    )
    (item,) = requested.output
    return {
        "response": response.output_text,
        "response stream": "".join(pieces),
        "response call": [item.name, json.loads(item.arguments)],
    }


def message(url: str) -> str:
    body = {"model": "claude-local", "max_tokens": 100, "messages": HELLO}
    answer = httpx.post(url + "/v1/messages", json=body, headers={"x-api-key": KEY})
    return answer.json()["content"][0]["text"]


config = Path.home() / "config.json"
config.write_text(json.dumps(CONFIG))
port = free_port()
url = f"http://127.0.0.1:{port}"
program = Path(sys.executable).with_name("litellm")
proxy = subprocess.Popen(
    [program, "--config", config, "--host", "127.0.0.1", "--port", str(port)],
    env={**os.environ, "LITELLM_MASTER_KEY": KEY},
    stdout=sys.stderr,
)
try:
    while True:
        assert proxy.poll() is None
        try:
            httpx.get(url + "/health/readiness", timeout=10).raise_for_status()
            break
        except httpx.HTTPError:
            time.sleep(0.1)  # it says nowhere else that it is ready
    client = openai.OpenAI(base_url=url + "/v1", api_key=KEY)
    made = {
        "version": version("litellm"),
        **chats(client, "local"),
        **responses(client),
        **{f"anthropic {key}": value for key, value in chats(client, "claude-local").items()},
        "message": message(url),
    }
finally:
    proxy.terminate()
    proxy.wait()
print(json.dumps(made))
