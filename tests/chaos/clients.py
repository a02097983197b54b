"""Clients of a server that faults are done to, each of which knows what a right answer is.

What an answer must be is said by a schema that allows one value only, so that every byte of it is
known, whatever the model.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support import sse

CHAT = "/v1/chat/completions"
LETTERS = 'abc "\\\n\té🌦️{}[]<>:,0123456789'
ENDED = ("engine_dead", "shutting_down", "draining", "overloaded", "not_ready", "server_error")
REFUSED = (429, 503)
"""Statuses with which a server that is full or ends may answer."""


@dataclass
class Report:
    """What the clients have seen, in all."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def table(self) -> str:
        rows = [f"  {count:>8}  {outcome}" for outcome, count in sorted(self.outcomes.items())]
        rows += [f"  {len(self.wrong):>8}  wrong answers", f"  {len(self.hung):>8}  hung"]
        return "\n".join([*rows, f"  {self.slowest_s:>7.1f}s  slowest request"])


class Clients:
    """All clients of one server. `bound_s`: after it a request has hung."""

    def __init__(self, url: str, report: Report, chance: random.Random, *, bound_s: float) -> None:
        unbounded = httpx.Limits(max_connections=None)
        self._http = httpx.AsyncClient(base_url=url, timeout=None, limits=unbounded)
        self._report, self._chance, self._bound_s = report, chance, bound_s
        self._tasks: list[asyncio.Task[None]] = []
        self.served = 0
        """Requests that were answered whole."""

    def begin(self, *, each: int, hostile_per_s: float) -> None:
        """`each`: clients of each kind, of which each sends one request after another."""
        kinds = (self._streams, self._whole, self._calls, self._leaves, self._reads_slowly)
        for kind in kinds:
            self._tasks += [asyncio.create_task(self._again(kind)) for _ in range(each)]
        self._tasks.append(asyncio.create_task(self._attack(hostile_per_s)))

    async def end(self) -> None:
        """Let each finish the request that it has sent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    async def _again(self, kind: Callable[[], Awaitable[str]]) -> None:
        while True:
            await asyncio.shield(self._bounded(kind.__name__.strip("_"), kind))
            await asyncio.sleep(0.02)

    async def _attack(self, per_s: float) -> None:
        """At this rate, however long the answers take."""
        running: set[asyncio.Task[None]] = set()
        while True:
            if len(running) < 200:
                task = asyncio.create_task(self._bounded("hostile", self._hostile))
                running.add(task)
                task.add_done_callback(running.discard)
            await asyncio.sleep(1 / per_s)

    async def _bounded(self, kind: str, request: Callable[[], Awaitable[str]]) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._bound_s):
                outcome = await request()
        except TimeoutError:
            self._report.hung.append(kind)
            outcome = "hung"
        except httpx.TransportError:  # the server is gone, or was killed
            outcome = "no connection"
            await asyncio.sleep(0.5)
        except Exception as error:
            self._report.wrong.append(f"{kind}: {error!r}"[:500])
            outcome = "wrong"
        self._report.outcomes[f"{kind}: {outcome}"] += 1
        self._report.slowest_s = max(self._report.slowest_s, time.monotonic() - began)
        self.served += outcome == "right"

    # -- kinds --------------------------------------------------------------------------------

    def _value(self, most: int = 24) -> str:
        return "".join(self._chance.choices(LETTERS, k=self._chance.randint(1, most)))

    def _body(self, value: Any, **fields: Any) -> dict[str, Any]:
        schema = {"name": "x", "schema": {"const": value}}
        format = {"type": "json_schema", "json_schema": schema}
        turns = [{"role": "user", "content": self._value(200)}]
        return {"messages": turns, "max_tokens": 300, "response_format": format, **fields}

    async def _streams(self) -> str:
        value = self._value()
        async with self._http.stream("POST", CHAT, json=self._body(value, stream=True)) as answer:
            text = (await answer.aread()).decode()
            if answer.status_code != 200:
                return _refused(answer.status_code, text)
            return _whole_stream(text, value)

    async def _whole(self) -> str:
        value = self._value()
        answer = await self._http.post(CHAT, json=self._body(value))
        if answer.status_code != 200:
            return _refused(answer.status_code, answer.text)
        (choice,) = answer.json()["choices"]
        assert json.loads(choice["message"]["content"]) == value, answer.text
        return "right"

    async def _calls(self) -> str:
        value = self._value()
        parameters = {"type": "object", "properties": {"x": {"const": value}}, "required": ["x"]}
        tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
        turns = [{"role": "user", "content": "hi"}]
        body = {"messages": turns, "max_tokens": 300, "tools": [tool], "tool_choice": "required",
                "parallel_tool_calls": False}  # fmt: skip
        answer = await self._http.post(CHAT, json=body)
        if answer.status_code != 200:
            return _refused(answer.status_code, answer.text)
        (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"x": value}, answer.text
        return "right"

    async def _leaves(self) -> str:
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 500,
                "ignore_eos": True, "stream": True}  # fmt: skip
        async with self._http.stream("POST", CHAT, json=body) as answer:
            async for _ in answer.aiter_bytes():
                if self._chance.random() < 0.3:
                    return "left"
        return "ended first"

    async def _reads_slowly(self) -> str:
        value = self._value(60)
        async with self._http.stream("POST", CHAT, json=self._body(value, stream=True)) as answer:
            text = ""
            async for piece in answer.aiter_text(64):
                text += piece
                await asyncio.sleep(0.01)
            if answer.status_code != 200:
                return _refused(answer.status_code, text)
            return _whole_stream(text, value)

    async def _hostile(self) -> str:
        path, content, headers = self._chance.choice(HOSTILE)()
        answer = await self._http.post(path, content=content, headers=headers)
        status = answer.status_code
        assert status < 500 or status in REFUSED, (status, answer.text)
        if status >= 400:
            message = answer.json()["error"]["message"]
            for insides in ("Traceback", "/site-packages/", "object at 0x"):
                assert insides not in message, message
        return str(status)


def _refused(status: int, text: str) -> str:
    error = json.loads(text)["error"]
    assert status in REFUSED or error["code"] == "engine_dead", text
    return f"refused ({error['code']})"


def _whole_stream(text: str, value: str) -> str:
    """Each event is one, in order, and they make the value; or the last tells why they do not."""
    *events, last = sse.frames(text)
    assert last == "[DONE]", text[-300:]
    if events and "error" in events[-1]:
        assert events[-1]["error"]["code"] in ENDED, events[-1]
        pieces = sse.text_of(events[:-1])
        assert json.dumps(value, ensure_ascii=False).startswith(pieces[:1]), text
        return f"told ({events[-1]['error']['code']})"
    assert json.loads(sse.text_of(events)) == value, text
    return "right"


# -- requests that are meant to harm ---------------------------------------------------------------
# What of them is valid generates a token: the machine must be able to answer the others.

Attack = Callable[[], tuple[str, bytes, dict[str, str]]]


def _json(path: str, body: Any, **headers: str) -> Attack:
    content = json.dumps(body).encode()
    return lambda: (path, content, {"content-type": "application/json", **headers})


def _schema(schema: Any) -> Attack:
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return _json(CHAT, {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1,
                        "response_format": format})  # fmt: skip


def _new_schema() -> tuple[str, bytes, dict[str, str]]:
    """Slow to compile, and another one each time."""
    return _schema({"type": "integer", "multipleOf": random.randrange(10_001, 99_999)})()


HOSTILE: list[Attack] = [
    lambda: (CHAT, b"{" * 10_000, {}),
    lambda: (CHAT, b"[" * 100_000, {}),
    lambda: (CHAT, b"\xff\xfe", {}),
    lambda: (CHAT, b"", {"content-encoding": "gzip"}),
    _json(CHAT, {"messages": [{"role": "user", "content": "x" * 300_000}]}),
    _json(CHAT, {"messages": [{"role": "user", "content": "x"}] * 3000}),
    _json(CHAT, {"messages": [{"role": "user", "content": "x"}], "n": 10**9}),
    _json(CHAT, {"messages": [{"role": "user", "content": "x"}], "logit_bias": {"0": 1e308}}),
    _json(CHAT, {"messages": [{"role": "\0", "content": None}]}),
    _json("/v1/completions", {"prompt": [2**40]}),
    _json("/v1/completions", {"prompt": ["a"] * 10_000}),
    _json("/generate", {"text": "a", "sampling_params": {"regex": "(a+)+$", "max_new_tokens": 1}}),
    _json("/tokenize", {"prompt": "a" * 200_000}),
    _schema({"$ref": "#"}),
    _schema({"type": "string", "pattern": "^([a-z]+ ?){1,200}$"}),
    _schema({"const": -(2**63)}),
    _schema({"type": "object", "properties": {f"p{no}": {} for no in range(400)}}),
    _new_schema,
    _json("/v1/embeddings", {"input": ["x"] * 5000}),
    _json("/nowhere", {}),
]
