"""sglang-router in front of two servers of this program: cache-aware; then one is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live.conftest import LiveServer

pytestmark = [pytest.mark.live, pytest.mark.rare]
REQUESTS, AT_ONCE = int(os.environ.get("ROUTER_REQUESTS", "120")), 16
CONVERSATIONS, TURNS = 8, 3
TOPICS = ("rivers", "bread", "chess", "rain", "trains", "salt", "glass", "wool", "bees", "maps",
          "ice", "rope")  # fmt: skip


class Router:
    """sglang-router as deploy/router/ starts it, with shorter intervals."""

    def __init__(self, folder: Path, *workers: str) -> None:
        self.port, metrics = _free_port(), _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._out = (folder / "router.log").open("wb")
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "sglang_router.launch_router", "--host", "127.0.0.1",
                "--port", str(self.port), "--worker-urls", *workers, "--policy", "cache_aware",
                "--health-check-endpoint", "/health", "--health-check-interval-secs", "2",
                "--health-failure-threshold", "2", "--retry-max-retries", "2",
                "--cb-failure-threshold", "3", "--cb-timeout-duration-secs", "30",
                "--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics),
            ],
            stdout=self._out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def wait_ready(self, workers: int, within_s: float = 300) -> None:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            try:
                workers_seen = httpx.get(self.url + "/workers", timeout=5).json()["workers"]
                if sum(bool(each["is_healthy"]) for each in workers_seen) == workers:
                    return
            except (httpx.TransportError, KeyError, ValueError):
                pass
            time.sleep(0.1)
        pytest.fail(f"the router did not find {workers} healthy servers")

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._out.close()


@dataclass
class Tally:
    served: int = 0
    failed: list[tuple[float, str]] = field(default_factory=list)
    """Of every failure: when the request began, and its error."""
    cached: list[tuple[int, int]] = field(default_factory=list)
    """Of every later turn: tokens found in the cache, tokens of the prompt."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def two(live: LiveServer, start: Callable[..., LiveServer], tmp_path: Path) -> Iterator[Any]:
    other = start(model="demo").ready()
    router = Router(tmp_path, live.url, other.url)
    try:
        router.wait_ready(2)
        yield router, other
    finally:
        router.stop()


async def test_conversations_stay_with_their_cached_prefix_and_a_kill_fails_only_requests_in_flight(
    two: tuple[Router, LiveServer],
) -> None:
    router, other = two
    async with httpx.AsyncClient(base_url=router.url, timeout=300) as client:
        talks = await _talk(client)
        shares = [cached / prompt for cached, prompt in talks.cached]
        print(f"later turns: {sum(shares) / len(shares):.2f} of the prompt was cached")
        assert not talks.failed
        assert sum(shares) / len(shares) > 0.7
        assert other.metric("serve_prompt_tokens_total") > 0, "the router used one server only"

        tally, killed_at, in_flight = await _storm(client, other)
    print(f"{tally.served} served, {len(tally.failed)} failed, {in_flight} in flight when killed")
    assert tally.served + len(tally.failed) == REQUESTS
    assert len(tally.failed) <= AT_ONCE
    assert not [error for began, error in tally.failed if began > killed_at]


async def _talk(client: httpx.AsyncClient) -> Tally:
    """Conversations: the prompt of each turn begins with that of the turn before."""
    tally = Tally()

    async def one(topic: str) -> None:
        text = f"Let us talk about {topic}. " * 12
        messages = [{"role": "user", "content": text}]
        for turn in range(TURNS):
            answer = await _ask(client, messages, tally)
            if answer is None:
                return
            usage = answer["usage"]
            if turn:
                cached = usage["prompt_tokens_details"]["cached_tokens"]
                tally.cached.append((cached, usage["prompt_tokens"]))
            messages.append(answer["choices"][0]["message"] | {"role": "assistant"})
            messages.append({"role": "user", "content": f"More about {topic}, please."})

    await asyncio.gather(*(one(topic) for topic in TOPICS[:CONVERSATIONS]))
    return tally


async def _storm(client: httpx.AsyncClient, victim: LiveServer) -> tuple[Tally, float, int]:
    """Many requests, the victim killed half-way. Returns also when, and its requests in flight."""
    tally = Tally()
    turn = asyncio.Semaphore(AT_ONCE)
    halfway = asyncio.Event()

    async def one(no: int) -> None:
        async with turn:
            if no == REQUESTS // 2:
                halfway.set()
            prompt = f"{TOPICS[no % len(TOPICS)]}, number {no}:"
            await _ask(client, [{"role": "user", "content": prompt}], tally)

    async def kill() -> tuple[float, int]:
        await halfway.wait()
        in_flight = int(victim.get("/health").json()["in_flight"])
        os.kill(victim.process.pid, signal.SIGKILL)
        return time.monotonic(), in_flight

    killing = asyncio.create_task(kill())
    await asyncio.gather(*(one(no) for no in range(REQUESTS)))
    return tally, *await killing


async def _ask(client: httpx.AsyncClient, messages: list[Any], tally: Tally) -> Any:
    body = {"model": "default", "messages": messages, "max_tokens": 4, "temperature": 0}
    began = time.monotonic()
    try:
        answer = await client.post("/v1/chat/completions", json=body)
    except httpx.TransportError as error:
        tally.failed.append((began, repr(error)))
        return None
    if answer.status_code != 200:
        tally.failed.append((began, f"{answer.status_code} {answer.text[:200]}"))
        return None
    tally.served += 1
    return answer.json()
