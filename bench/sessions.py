"""Agents' loads: sessions of twenty turns over the Responses API or the Messages API.

Each turn sends the whole conversation again, which has grown by a call and its result, with tools
and instructions before it; the answer is streamed. The calls are not the model's, whose weights are
random, but the same for every server; the table has the tokens of prompts and answers, which must
be nearly the same. The client is in Python, on the same processors. SGLang's server in Rust has
neither API.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx

from bench import models
from bench.load import Load
from bench.servers import BenchError, Server
from bench.setup import MODEL_NAME

TURNS = 20
_RESULT_TOKENS, _INSTRUCTION_TOKENS = 40, 200
_WITHIN_S = 300
Json = dict[str, Any]


def _tools() -> list[Json]:
    """Name, description and parameters of what agents have."""
    path = {"path": {"type": "string", "description": "Path of the file."}}
    return [
        {
            "name": name,
            "description": description,
            "parameters": {"type": "object", "properties": path | more, "required": ["path"]},
        }
        for name, description, more in (
            ("read_file", "Read a file of the project.", {"first_line": {"type": "integer"}}),
            ("write_file", "Write a file of the project.", {"text": {"type": "string"}}),
            ("list_folder", "List what is in a folder.", {"depth": {"type": "integer"}}),
            ("search", "Find a pattern in files.", {"pattern": {"type": "string"}}),
            ("run", "Run a command and read its output.", {"command": {"type": "string"}}),
        )
    ]


@dataclass
class Answer:
    tokens: int
    prompt_tokens: int
    cached_tokens: int
    first_s: float
    """From the request to the first text."""
    whole_s: float


class Responses:
    """The turns of one session as bodies of `/v1/responses`."""

    path = "/v1/responses"

    def body(self, instructions: str, results: list[str], tokens: int) -> Json:
        items: list[Json] = [{"role": "user", "content": "Tidy this project up."}]
        for no, result in enumerate(results):
            call = {"type": "function_call", "call_id": f"call_{no}", "name": "read_file",
                    "arguments": json.dumps({"path": f"src/part_{no}.py"})}  # fmt: skip
            items += [call, {"type": "function_call_output", "call_id": f"call_{no}",
                             "output": result}]  # fmt: skip
        return {
            "model": MODEL_NAME, "stream": True, "instructions": instructions, "input": items,
            "tools": [{"type": "function", "strict": False} | tool for tool in _tools()],
            "max_output_tokens": tokens, "temperature": 0, "store": False,
        }  # fmt: skip

    def is_text(self, event: Json) -> bool:
        return bool(event["type"].endswith(".delta"))

    def usage(self, event: Json) -> tuple[int, int, int] | None:
        if event["type"] not in ("response.completed", "response.incomplete"):
            return None
        usage = event["response"]["usage"]
        cached = (usage.get("input_tokens_details") or {}).get("cached_tokens", 0)
        return usage["output_tokens"], usage["input_tokens"], cached


class Messages:
    """The turns of one session as bodies of `/v1/messages`."""

    path = "/v1/messages"

    def __init__(self) -> None:
        self._begun: Json = {}

    def body(self, instructions: str, results: list[str], tokens: int) -> Json:
        messages: list[Json] = [{"role": "user", "content": "Tidy this project up."}]
        for no, result in enumerate(results):
            use = {"type": "tool_use", "id": f"toolu_{no}", "name": "read_file",
                   "input": {"path": f"src/part_{no}.py"}}  # fmt: skip
            answer = {"type": "tool_result", "tool_use_id": f"toolu_{no}", "content": result}
            messages += [{"role": "assistant", "content": [use]},
                         {"role": "user", "content": [answer]}]  # fmt: skip
        tools = [{"name": tool["name"], "description": tool["description"],
                  "input_schema": tool["parameters"]} for tool in _tools()]  # fmt: skip
        return {
            "model": MODEL_NAME, "stream": True, "system": instructions, "messages": messages,
            "tools": tools, "max_tokens": tokens, "temperature": 0,
        }  # fmt: skip

    def is_text(self, event: Json) -> bool:
        return bool(event["type"] == "content_block_delta")

    def usage(self, event: Json) -> tuple[int, int, int] | None:
        if event["type"] == "message_start":
            self._begun = event["message"]["usage"]
        if event["type"] != "message_delta":
            return None
        usage = self._begun | {k: v for k, v in event["usage"].items() if v is not None}
        cached = usage.get("cache_read_input_tokens") or 0
        # Anthropic's count of input leaves out what was cached.
        return usage["output_tokens"], usage["input_tokens"] + cached, cached


APIS: dict[str, type[Responses] | type[Messages]] = {"responses": Responses, "messages": Messages}


@dataclass
class Driven:
    answers: list[Answer] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        first = [answer.first_s * 1e3 for answer in self.answers]
        whole = [answer.whole_s * 1e3 for answer in self.answers]
        prompts = sum(answer.prompt_tokens for answer in self.answers)
        cached = sum(answer.cached_tokens for answer in self.answers)
        # Nothing at all: the server does not tell.
        return ({"cached_share": cached / prompts} if cached else {}) | {
            "prompt_tokens": prompts / len(self.answers),
            "output_tokens": sum(answer.tokens for answer in self.answers) / len(self.answers),
            "ttft_p50_ms": median(first),
            "ttft_p99_ms": quantiles(first, n=100)[-1],
            "latency_p50_ms": median(whole),
            "latency_p99_ms": quantiles(whole, n=100)[-1],
        }


def is_served(load: Load, server: Server) -> bool:
    """Whether the server has the load's API."""
    path = APIS[load.answers].path
    return server.http.post(path, json={}).status_code not in (404, 405)


def drive(load: Load, server: Server, model: Path, *, seed: int, sessions: int) -> Driven:
    """`sessions` sessions at a time, all of their turns. Raises BenchError."""
    driven = Driven()
    asyncio.run(_all(load, server, model, seed, sessions, driven))
    return driven


async def _all(
    load: Load, server: Server, model: Path, seed: int, sessions: int, driven: Driven
) -> None:
    limits = httpx.Limits(max_connections=sessions)
    async with httpx.AsyncClient(base_url=server.url, timeout=_WITHIN_S, limits=limits) as http:
        every = (_session(load, http, model, seed + no, driven) for no in range(sessions))
        await asyncio.gather(*every)


async def _session(
    load: Load, http: httpx.AsyncClient, model: Path, seed: int, driven: Driven
) -> None:
    (instructions,) = models.prompts(model, 1, _INSTRUCTION_TOKENS, seed=seed)
    results = models.prompts(model, TURNS, _RESULT_TOKENS, seed=seed + 500_000)
    for turn in range(TURNS):
        api = APIS[load.answers]()
        body = api.body(instructions, results[:turn], load.output_tokens)
        driven.answers.append(await _answer(api, http, body))


async def _answer(api: Responses | Messages, http: httpx.AsyncClient, body: Json) -> Answer:
    begun = time.perf_counter()
    first_s, usage = 0.0, None
    async with http.stream("POST", api.path, json=body) as response:
        if response.status_code != 200:
            raise BenchError(f"{api.path}: {(await response.aread()).decode()[:500]}")
        async for event in _events(response):
            if not first_s and api.is_text(event):
                first_s = time.perf_counter() - begun
            usage = api.usage(event) or usage
    if usage is None or not first_s:
        raise BenchError(f"{api.path}: an answer ended without text or usage")
    return Answer(*usage, first_s, time.perf_counter() - begun)


async def _events(response: httpx.Response) -> AsyncIterator[Json]:
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line[6:])
