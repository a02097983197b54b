"""`ENGINE=scripted`: every endpoint answers without a model, deterministically."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from app.dialects.openai.embeddings import EMBEDDINGS
from app.dialects.routes import DIALECTS
from app.engine.json_examples import example
from app.engine.stand_in import Options, StandIn, engine_of
from app.errors import ConfigError
from tests.support import sse
from tests.support.serving import PLAIN, Running, serve, settings

ROOT = Path(__file__).parents[2]
SCHEMA = {
    "type": "object",
    "required": ["city", "days"],
    "properties": {
        "city": {"type": "string", "maxLength": 3},
        "days": {"type": "integer", "minimum": 2},
        "note": {"type": "string"},
    },
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    async with serve(StandIn(Options(token_s=0))) as server:
        yield server


async def test_a_chat_repeats_the_last_message_word_by_word(running: Running) -> None:
    whole = (await running.chat("good morning")).json()["choices"][0]
    assert whole["message"]["content"] == "You said: good morning"
    assert whole["finish_reason"] == "stop"
    frames = sse.frames((await running.chat("good morning", stream=True)).text)[:-1]
    assert sse.text_of(frames, 0) == "You said: good morning"
    assert sum(bool(f["choices"][0]["delta"].get("content")) for f in frames if f["choices"]) == 4


async def test_max_tokens_and_stop_end_an_answer_as_with_a_model(running: Running) -> None:
    cut = (await running.chat("a b c", max_tokens=3)).json()
    assert cut["choices"][0]["message"]["content"] == "You said: a "
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 3
    stopped = (await running.chat("a b c", stop=["b"])).json()["choices"][0]
    assert (stopped["message"]["content"], stopped["finish_reason"]) == ("You said: a ", "stop")


async def test_a_schema_and_a_required_tool_are_answered_with_json_that_fits(
    running: Running,
) -> None:
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    answer = (await running.chat(response_format=format)).json()["choices"][0]["message"]
    assert json.loads(answer["content"]) == {"city": "tex", "days": 2}
    called = (await running.chat(tools=[TOOL], tool_choice="required")).json()["choices"][0]
    (call,) = called["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "tex", "days": 2}
    assert called["finish_reason"] == "tool_calls"


async def test_what_only_a_model_can_do_is_refused_by_name(running: Running) -> None:
    async with serve(StandIn(Options(token_s=0)), ALLOW_GRAMMARS="true") as server:
        answer = await server.chat(regex="[a-z]+")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "regex"
    assert "ENGINE=scripted" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "a b", "logprobs": 1, "echo": True}),
        ("/v1/completions", {"prompt": "def f(", "suffix": "return x"}),
        ("/generate", {"text": "a b", "sampling_params": {"max_new_tokens": 2}}),
        *((dialect.path, dialect.example) for dialect in DIALECTS if dialect is not EMBEDDINGS),
    ],
)
async def test_every_endpoint_that_generates_answers(
    running: Running, path: str, body: dict[str, Any]
) -> None:
    answer = await running.client.post(path, json=body)
    assert answer.status_code == 200, answer.text


async def test_every_described_route_answers(running: Running) -> None:
    paths = (await running.client.get("/openapi.json")).json()["paths"]
    for path, methods in paths.items():
        if "get" in methods and "{" not in path and path != "/v1/files":  # off by default
            answer = await running.client.get(path)
            assert answer.status_code == 200, (path, answer.text)


async def test_it_embeds_if_it_is_told_to() -> None:
    async with serve(StandIn(Options(embedding_size=4))) as server:
        answer = await server.client.post("/v1/embeddings", json={"input": ["a", "b"]})
    assert [len(each["embedding"]) for each in answer.json()["data"]] == [4, 4]


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"token_s, loading_s, .*`tokens_s`"):
        engine_of(settings(ENGINE="scripted", ENGINE_ARGS='{"tokens_s": 1}'))


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
        ({"enum": ["b", "a"]}, "b"),
        ({"const": 7}, 7),
        ({"type": ["null", "string"]}, None),
        ({"anyOf": [{"type": "number", "maximum": -2}]}, -2),
        ({"$defs": {"a/b": {"const": 1}}, "$ref": "#/$defs/a~1b"}, 1),
        ({"$ref": "#/nowhere"}, "text"),
        ({"type": "string", "minLength": 6}, "texttt"),
        (True, "text"),
    ],
)
def test_an_example_fits_its_schema(schema: Any, value: object) -> None:
    assert example(schema) == value


def test_a_schema_that_refers_to_itself_ends() -> None:
    loop = {"type": "object", "required": ["next"], "properties": {"next": {"$ref": "#"}}}
    assert "next" in example(loop)


# -- the program ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, float]]:
    """Base URL, the log so far, and the seconds until the first answer."""
    folder = tmp_path_factory.mktemp("try")
    out = folder / "out.log"
    began = time.monotonic()
    with out.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "serve_hathora.py", "--engine", "scripted", "--port", "0"],
            cwd=ROOT,
            env={**os.environ, "LOG_FILE": "", "LOG_FORMAT": "json", "HOST": "127.0.0.1"},
            stdout=file,
            stderr=file,
        )
    try:
        port = _port(out, process)
        url = f"http://127.0.0.1:{port}"
        while httpx.get(url + "/readyz", verify=PLAIN).status_code != 200:
            assert process.poll() is None, out.read_text()
        yield url, out.read_text(), time.monotonic() - began
    finally:
        process.terminate()
        assert process.wait(30) == 0


def _port(out: Path, process: subprocess.Popen[bytes]) -> int:
    while True:
        for line in out.read_text().splitlines():
            if '"listening"' in line:
                return int(json.loads(line)["port"])
        assert process.poll() is None, out.read_text()
        time.sleep(0.01)  # its log is a file: there is nothing to wait on


def test_the_openai_client_talks_to_it_unchanged(server: tuple[str, str, float]) -> None:
    client = openai.OpenAI(base_url=server[0] + "/v1", api_key="none")
    answer = client.chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": "hello"}]
    )
    assert answer.choices[0].message.content == "You said: hello"
    assert [model.id for model in client.models.list()] == ["scripted"]


def test_it_says_everywhere_that_no_model_is_behind_it(server: tuple[str, str, float]) -> None:
    url, log, _ = server
    assert httpx.get(url + "/", verify=PLAIN).json()["engine"] == "scripted"
    assert "no model" in httpx.get(url + "/health", verify=PLAIN).json()["engine"]
    assert "no model is served" in log


def test_the_engine_with_a_model_is_the_default() -> None:
    assert settings().engine == "sglang"
    with pytest.raises(ConfigError, match="ENGINE"):
        settings(ENGINE="script")


def test_it_loads_neither_sglang_nor_torch() -> None:
    code = (
        "import sys; from tests.support.serving import settings; from app.engine import stand_in;"
        "stand_in.Options.of(settings()); import app.web.server, app.workers.parent;"
        "print({'sglang', 'torch', 'transformers', 'numpy'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
