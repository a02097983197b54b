"""A model behind SGLang's public API only: by the operator's choice, or as something has moved."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from app.engine.sglang.moved import TRUSTED, installed
from tests.live.conftest import HANGS_S, LiveServer

pytestmark = pytest.mark.live
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    # Of another release it is found out at the start.
    chosen = {"ENGINE": "sglang-public"} if installed() == TRUSTED else {}
    running = LiveServer(tmp_path_factory.mktemp("public"), **chosen)
    try:
        yield running.ready()
    finally:
        running.process.terminate()
        ended = running.exit_code(60)
        running.stop()
    assert ended == 0, running.log[-2000:]


def chat(server: LiveServer, **fields: Any) -> Any:
    body = {"messages": [{"role": "user", "content": "Name a city."}], "max_tokens": 24,
            "temperature": 0} | fields  # fmt: skip
    answer = server.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_streamed_answer_is_the_whole_one(server: LiveServer) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    asked: Any = {
        "model": "default", "max_tokens": 60, "temperature": 0,
        "messages": [{"role": "user", "content": "Write one sentence on ducks: \U0001f986 é."}],
    }  # fmt: skip
    whole = client.chat.completions.create(**asked)
    stream = client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    text, finish, usage = "", None, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert text == whole.choices[0].message.content
    assert finish == whole.choices[0].finish_reason
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens > 3


def test_several_choices_come_with_their_log_probabilities(server: LiveServer) -> None:
    answer = chat(server, n=3, temperature=1, logprobs=True, top_logprobs=3)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    for choice in answer["choices"]:
        scored = choice["logprobs"]["content"]
        told = b"".join(bytes(token["bytes"]) for token in scored).decode(errors="replace")
        assert told.startswith(choice["message"]["content"])
        assert all(len(token["top_logprobs"]) == 3 for token in scored)
    assert answer["usage"]["completion_tokens"] >= sum(
        len(choice["logprobs"]["content"]) for choice in answer["choices"]
    )


def test_a_prompt_is_scored(server: LiveServer) -> None:
    body = {"prompt": "The capital of France is", "max_tokens": 1, "echo": True, "logprobs": 1}
    scored = server.http.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]
    assert scored["tokens"][:5] == ["The", " capital", " of", " France", " is"]
    assert scored["token_logprobs"][0] is None
    assert all(value < 0 for value in scored["token_logprobs"][1:])


def test_a_schema_and_a_required_call_are_kept_and_what_cannot_be_is_refused_by_name(
    server: LiveServer,
) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA}}
    person = json.loads(
        chat(server, response_format=form, max_tokens=80)["choices"][0]["message"]["content"]
    )
    assert person.keys() == {"name", "age"}
    assert 0 <= person["age"] <= 120
    message = chat(server, tools=[WEATHER], tool_choice="required", max_tokens=120)["choices"][0]
    called = message["message"]["tool_calls"][0]["function"]
    assert called["name"] == "weather"
    assert json.loads(called["arguments"]).keys() == {"city"}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [{"role": "user", "content": [picture]}]
    refused = server.http.post("/v1/chat/completions", json={"messages": messages})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"].startswith("messages[0].content[0]")


def test_a_prompt_that_is_too_long_and_a_bad_value_are_refused(server: LiveServer) -> None:
    long = server.http.post("/v1/completions", json={"prompt": "word " * 9000})
    assert long.json()["error"]["code"] == "context_length_exceeded"
    bad = server.http.post("/v1/completions", json={"prompt": "a", "temperature": 3})
    assert bad.json()["error"]["param"] == "temperature"


def test_a_client_that_leaves_frees_its_place_in_the_engine(server: LiveServer) -> None:
    body = {"prompt": "Count: 1, 2, 3,", "max_tokens": 7000, "ignore_eos": True, "stream": True}
    with (
        httpx.Client(base_url=server.url, timeout=HANGS_S) as client,
        client.stream("POST", "/v1/completions", json=body) as answer,
    ):
        next(answer.iter_lines())
    # The scheduler says so when a batch that it decoded is gone; another request would run with it.
    short = server.http.post("/v1/completions", json={"prompt": "a", "max_tokens": 50,
                                                      "ignore_eos": True})  # fmt: skip
    assert short.status_code == 200
    assert server.metric("sglang:num_aborted_requests_total") == 1


def test_a_schema_that_would_end_the_engine_does_not_reach_it(server: LiveServer) -> None:
    least = -(2**63)
    schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": least,
                                                     "maximum": least}}}  # fmt: skip
    tool = {"type": "function", "function": {"name": "note", "parameters": schema}}
    answer = server.http.post("/v1/chat/completions", json={
        "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20, "tools": [tool],
        "tool_choice": "required"})  # fmt: skip
    assert answer.status_code in (200, 400)
    assert chat(server, max_tokens=2)["choices"]


def test_caches_are_kept_apart(server: LiveServer) -> None:
    messages = [{"role": "user", "content": "A prompt whose cache is one client's alone. " * 8}]
    cached = [
        chat(server, messages=messages, cache_salt=salt, max_tokens=1)["usage"][
            "prompt_tokens_details"
        ]["cached_tokens"]
        for salt in ("one", "two", "one")
    ]
    assert cached[1] <= 1 < cached[2]


def test_a_conversation_with_calls_is_shown_to_the_model(server: LiveServer) -> None:
    messages = [
        {"role": "user", "content": "Weather in Oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function",
             "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain, 7 degrees"},
    ]  # fmt: skip
    without = chat(server, messages=messages[:1], tools=[WEATHER], max_tokens=1)
    shown = chat(server, messages=messages, tools=[WEATHER], max_tokens=1)
    assert shown["usage"]["prompt_tokens"] > without["usage"]["prompt_tokens"] + 15


def test_a_release_in_which_something_has_moved_is_served_by_its_public_api(
    start: Callable[..., LiveServer], tmp_path: Path
) -> None:
    if installed() != TRUSTED:
        pytest.skip("what has moved there is real")
    spec = importlib.util.find_spec("sglang")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    subprocess.run(["cp", "-rs", str(package), str(tmp_path / "sglang")], check=True)
    streamer = "srt/managers/scheduler_components/output_streamer.py"
    (tmp_path / "sglang" / streamer).unlink()
    renamed = (package / streamer).read_text().replace("push_generation", "push_tokens")
    (tmp_path / "sglang" / streamer).write_text(renamed)
    release = tmp_path / "sglang-9.9.9.dist-info"
    shutil.copytree(next(package.parent.glob("sglang-*.dist-info")), release)
    metadata = (release / "METADATA").read_text()
    (release / "METADATA").write_text(metadata.replace(f"Version: {TRUSTED}", "Version: 9.9.9"))
    server = start(model="tiny", PYTHONPATH=str(tmp_path)).ready()
    assert "something has moved in SGLang" in server.log
    assert "contract.py:" in server.log
    assert chat(server)["choices"][0]["finish_reason"] == "length"
    assert server.get("/server_info").json()["version"]
