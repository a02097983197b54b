"""No request, however costly, makes the others wait for the event loop for long."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bench import models
from tests.live.conftest import LiveServer
from tests.support import standstill
from tests.support.machine import allowed

pytestmark = [pytest.mark.live, pytest.mark.rare, pytest.mark.timeout(1800)]
CONTEXT = 140_000
LONGEST_S = 0.1
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The tiny model with a large context, and bounds that let through what is measured."""
    folder = tmp_path_factory.mktemp("roomy")
    model = shutil.copytree(models.find("tiny"), folder / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT}))
    server = LiveServer(
        folder / "server", "--model-path", str(model), "--dtype", "float32",
        model=None, KV_POOL_TOKENS=str(CONTEXT), MAX_TOOLS="2000", MAX_PROMPT_CHARS="4000000",
    )  # fmt: skip
    try:
        yield server.ready()
    finally:
        server.stop()


def _tool(no: int) -> dict[str, Any]:
    properties = {f"field_{name}": {"type": "string", "description": "x" * 40} for name in "abcd"}
    parameters = {"type": "object", "properties": properties, "required": ["field_a"]}
    return {
        "type": "function",
        "function": {
            "name": f"tool_{no}",
            "description": "does it " * 12,
            "parameters": parameters,
        },
    }


def _response_tool(no: int) -> dict[str, Any]:
    return {"type": "function", **_tool(no)["function"]}


def _messages_tool(no: int) -> dict[str, Any]:
    function = _tool(no)["function"]
    return {"name": function["name"], "description": function["description"],
            "input_schema": function["parameters"]}  # fmt: skip


def _words(count: int) -> str:
    return models.prompts(models.find("tiny"), 1, count, seed=1)[0]


REQUESTS: dict[str, tuple[str, Any, int]] = {
    "2,000 tools": ("/v1/chat/completions", lambda: {
        "messages": HI, "max_tokens": 2, "tools": [*map(_tool, range(2000))]}, 400),
    "2,000 tools, one of them required": ("/v1/chat/completions", lambda: {
        "messages": HI, "max_tokens": 2, "tools": [*map(_tool, range(2000))],
        "tool_choice": "required"}, 400),
    "2,000 tools of Responses": ("/v1/responses", lambda: {
        "model": "default", "input": "hi", "max_output_tokens": 16, "store": False,
        "tools": [*map(_response_tool, range(2000))]}, 400),
    "2,000 tools of Messages": ("/v1/messages", lambda: {
        "model": "default", "messages": HI, "max_tokens": 2,
        "tools": [*map(_messages_tool, range(2000))]}, 400),
    "a message of 4 MB": ("/v1/chat/completions", lambda: {
        "messages": [{"role": "user", "content": "a b " * 990_000}], "max_tokens": 2}, 400),
    "8,000 messages of 4 MB": ("/v1/chat/completions", lambda: {
        "messages": [{"role": "user", "content": "words " * 70}] * 8000, "max_tokens": 2}, 400),
    "400,000 token ids": ("/v1/completions", lambda: {
        "prompt": [7] * 400_000, "max_tokens": 2}, 400),
    "4 MB of text to count": ("/tokenize", lambda: {"prompt": "a b " * 990_000}, 200),
    "log-probabilities of a prompt of 128,000 tokens": ("/generate", lambda: {
        "text": _words(128_000), "return_logprob": True, "logprob_start_len": 0,
        "top_logprobs_num": 6, "sampling_params": {"max_new_tokens": 1}}, 200),
    "log-probabilities of eight answers of 5,000 tokens": ("/v1/chat/completions", lambda: {
        "messages": HI, "n": 8, "max_tokens": 5000, "ignore_eos": True, "logprobs": True,
        "top_logprobs": 20}, 200),
}  # fmt: skip
"""Path, body and status. 2,000 tools are a million tokens of this vocabulary, which is refused once
they have been rendered and counted."""


@pytest.mark.parametrize("name", REQUESTS)
def test_other_clients_wait_less_than_a_tenth_of_a_second(roomy: LiveServer, name: str) -> None:
    path, body, status = REQUESTS[name]
    content = json.dumps(body()).encode()
    statuses = []

    def ask() -> None:
        answer = roomy.http.post(
            path, content=content, headers={"content-type": "application/json"}, timeout=900
        )
        statuses.append(answer.status_code)
        assert answer.status_code == status, answer.text[:500]

    quiet = standstill.longest(roomy, lambda: time.sleep(1))
    gaps = sorted(standstill.longest(roomy, ask) for _ in range(1 if "128,000" in name else 3))
    print(
        f"{name}: {len(content) / 2**20:.1f} MB, status {statuses[0]}; longest gap quiet "
        f"{quiet * 1e3:.0f} ms, with it {[round(gap * 1e3) for gap in gaps]} ms"
    )
    assert gaps[len(gaps) // 2] < quiet + allowed(LONGEST_S)
