"""Two serving processes over the real engine answer and end as one does.

The server is started once; the last test that uses it ends it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from app.engine import demo
from tests.live.conftest import LiveServer
from tests.live.test_life_and_death import Streams, _nothing_left, story
from tests.support import processes, sse
from tests.support.machine import allowed

pytestmark = pytest.mark.live
Start = Callable[..., LiveServer]
CHAT = "/v1/chat/completions"
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
QUESTIONS: list[dict[str, Any]] = [
    {"messages": FRANCE},
    {"messages": FRANCE, "n": 2, "max_tokens": 6},
    {"messages": FRANCE, "stop": "Paris"},
    {"messages": FRANCE, "logprobs": True, "top_logprobs": 2, "max_tokens": 4},
    {
        "messages": [{"role": "user", "content": "Weather in Oslo?"}], "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
    },
]  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    server = LiveServer(
        tmp_path_factory.mktemp("two"), TOKENIZER_WORKERS="2", ADMIN_API_KEY="operator",
        LOG_FORMAT="json",
    )  # fmt: skip
    try:
        yield server.ready()
    finally:
        server.stop()


def _processes(server: LiveServer, names: set[str]) -> dict[str, int]:
    """By request id, the number of the process that answered it, from the log."""
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith('{"client"')]
    return {
        line["request_id"]: line["process"] for line in lines if line.get("request_id") in names
    }


def _ask(server: LiveServer, body: dict[str, Any], name: str) -> Any:
    """Choices without ids, and completion tokens. On a connection of its own."""
    body = {"temperature": 0, "max_tokens": 40, **body}
    headers = {"x-request-id": name}
    answer = httpx.post(server.url + CHAT, json=body, headers=headers, timeout=300)
    choices: list[dict[str, Any]] = answer.raise_for_status().json()["choices"]
    for choice in choices:
        for call in choice["message"].get("tool_calls") or ():
            del call["id"]
    return choices, answer.json()["usage"]["completion_tokens"]


def test_64_streams_are_complete_and_both_processes_serve(two: LiveServer) -> None:
    def read(no: int) -> list[Any]:
        headers = {"x-request-id": f"many-{no}"}
        body = story(24) | {"messages": [{"role": "user", "content": f"Count from {no}."}]}
        return sse.frames(httpx.post(two.url + CHAT, json=body, headers=headers, timeout=300).text)

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(read, range(64)))
    for frames in answers:
        assert frames[-1] == "[DONE]"
        assert frames[-2]["choices"][0]["finish_reason"] == "length"
    served = list(_processes(two, {f"many-{no}" for no in range(64)}).values())
    print(f"{served.count(0)} by the first process, {served.count(1)} by the second")
    assert len(served) == 64
    assert min(served.count(0), served.count(1)) >= 8


@pytest.mark.parametrize("question", range(len(QUESTIONS)))
def test_each_process_answers_as_a_single_process_server_does(
    live: LiveServer, two: LiveServer, question: int
) -> None:
    expected = _ask(live, QUESTIONS[question], "alone")
    names: set[str] = set()
    while set(_processes(two, names).values()) != {0, 1}:
        assert len(names) < 20, "one of the processes gets no request"
        names.add(name := f"same-{question}-{len(names)}")
        assert _ask(two, QUESTIONS[question], name) == expected


def test_only_the_serving_processes_hold_the_port(two: LiveServer) -> None:
    """Another holder, such as the process that tries grammars, would get connections, too."""
    _ask(two, QUESTIONS[-1], "grammar")

    def listens(process: psutil.Process) -> bool:
        return any(
            each.status == psutil.CONN_LISTEN and each.laddr.port == two.port
            for each in process.net_connections("tcp")
        )

    holders = [processes.title(each) for each in two.children() if listens(each)]
    assert len(holders) == 2
    assert all("--process" in each for each in holders)


def test_a_scrape_counts_the_requests_of_both_processes_once(two: LiveServer) -> None:
    series = (
        "serve_completion_tokens_total", "sglang:generation_tokens_total",
        "sglang:num_requests_total", "serve_time_to_first_token_seconds_count",
    )  # fmt: skip
    before = [two.metric(name) for name in series]
    names: set[str] = set()
    while set(_processes(two, names).values()) != {0, 1}:
        assert len(names) < 20, "one of the processes gets no request"
        names.add(name := f"counted-{len(names)}")
        body = {"messages": FRANCE, "ignore_eos": True, "max_tokens": 5}
        assert _ask(two, body, name)[1] == 5
    expected = [5 * len(names), 5 * len(names), len(names), len(names)]
    deadline = time.monotonic() + allowed(5)  # a request is counted once its answer has left
    while True:
        gained = [two.metric(name) - early for name, early in zip(series, before, strict=True)]
        if gained == expected:
            break
        assert time.monotonic() < deadline, f"{gained=} {expected=}"


async def test_disconnects_free_the_engine(two: LiveServer) -> None:
    async def disconnect() -> None:
        async with (
            httpx.AsyncClient(base_url=two.url, timeout=300) as client,
            client.stream("POST", CHAT, json=story(4000)) as answer,
        ):
            await anext(answer.aiter_lines())

    await asyncio.gather(*(disconnect() for _ in range(12)))
    deadline = time.monotonic() + allowed(3)
    # The engine shows its load with its steps: it may still show that of before.
    while (
        two.metric("serve_in_flight_requests")
        or two.metric("sglang:num_running_reqs")
        or any(load["num_running_reqs"] for load in two.get("/v1/loads").json()["loads"])
    ):
        assert time.monotonic() < deadline


def test_the_operators_routes_act_on_both_processes(two: LiveServer) -> None:
    streams = Streams(two, [story(4000)] * 12)
    streams.wait_begun(12)
    key = {"authorization": "Bearer operator"}
    answer = two.http.post("/abort_request", json={"abort_all": True}, headers=key)
    assert answer.json() == {"aborted": 12}
    for result in streams.join():
        assert sse.frames(result["text"])[-2]["error"]["code"] == "request_aborted"
    flushed = two.http.post("/flush_cache", params={"timeout": "5"}, headers=key)
    assert flushed.json()["success"]


def test_clients_of_both_processes_get_an_error_when_the_engine_is_killed(two: LiveServer) -> None:
    pids = [two.process.pid, *(each.pid for each in two.children())]
    streams = Streams(two, [story(4000)] * 12)
    streams.wait_begun(12)
    killed = time.monotonic()
    two.child("sglang::scheduler").kill()
    code = two.exit_code(within_s=10)
    out = time.monotonic() - killed
    results = streams.join()
    slowest = max(result["ended"] for result in results) - killed
    print(f"last client got its error after {slowest:.2f} s, exit {code} after {out:.2f} s")
    for result in results:
        *_, error, done = sse.frames(result["text"])
        assert done == "[DONE]"
        assert error["error"]["code"] == "engine_dead"
    assert slowest < allowed(2)
    assert code == 70
    _nothing_left(pids)
    assert not Path(f"/dev/shm/multi_tokenizer_args_{two.process.pid}").exists()


def test_a_drain_finishes_the_requests_of_both_processes(start: Start) -> None:
    server = start(TOKENIZER_WORKERS="2", DRAIN_TIMEOUT="300").ready()
    pids = [server.process.pid, *(each.pid for each in server.children())]
    # So long that they outlast what is asked meanwhile, on a busy machine too.
    streams = Streams(server, [story(1500)] * 16)
    streams.wait_begun(16)
    os.killpg(server.process.pid, signal.SIGINT)  # as a terminal does, to all processes
    deadline = time.monotonic() + allowed(3)
    # Each process has its own moment in which it learns of the signal; until then it serves.
    while (refused := httpx.post(server.url + CHAT, json=story(1))).status_code == 200:
        assert time.monotonic() < deadline
    assert refused.json()["error"]["code"] == "server_shutting_down"
    assert server.exit_code(within_s=320) == 0
    for result in streams.join():
        frames = sse.frames(result["text"])
        assert frames[-1] == "[DONE]"
        assert frames[-2]["choices"][0]["finish_reason"] == "length"
    _nothing_left(pids)
    assert "Traceback" not in server.log
    assert "leaked" not in server.log


def test_an_embedding_model_is_served_by_one_process(start: Start) -> None:
    model = demo.ensure(demo.default_cache(), demo.EMBEDDING, say=print)
    server = start(model=None, MODEL_PATH=str(model), TOKENIZER_WORKERS="2")
    assert server.exit_code(within_s=120) == 78
    assert "TOKENIZER_WORKERS" in server.log
