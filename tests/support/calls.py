"""How many functions the serving layer calls for a request and for each of its tokens.

    python -m tests.support.calls            a table, and the functions that a token calls
    python -m tests.support.calls --json     for tests/test_serving_cost.py

Everything from uvicorn's connection to the last write is real; the socket discards what is written,
the engine is the benchmark's. A request is counted twice, with few and with many tokens: the
difference is the tokens', the rest the request's. Resuming a task counts as a call of each of its
nested coroutines.

To be run as a process of its own: imports, patches and tasks of other tests would be counted.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from types import CodeType, FrameType
from typing import Any

_FEW, _MANY = 20, 220
_CASES = {
    "chat, streamed": ("/v1/chat/completions", True),
    "completions, streamed": ("/v1/completions", True),
    "responses, streamed": ("/v1/responses", True),
    "messages, streamed": ("/v1/messages", True),
    "chat, whole": ("/v1/chat/completions", False),
    "responses, whole": ("/v1/responses", False),
}


@dataclass
class Cost:
    token_calls: float
    token_writes: float
    request_calls: float
    """Of the whole request, less those of its tokens."""
    by_function: dict[str, float]
    """The calls of one token by function, most first."""


class DiscardingTransport(asyncio.Transport):
    """Counts writes and keeps nothing; `answered` is set once an answer is complete."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.writes = 0
        self.answered = asyncio.Event()

    def write(self, data: Any) -> None:
        self.writes += 1
        if data.endswith((b"0\r\n\r\n", b"}")):
            self.answered.set()

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


class Calls:
    """A profile function: counts the functions called in this thread, except itself."""

    def __init__(self) -> None:
        self.counts: Counter[str | CodeType] = Counter()

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            self.counts[frame.f_code] += 1
        elif event == "c_call":
            self.counts[arg.__qualname__] += 1


async def measure() -> dict[str, Cost]:
    async with _connection() as (connection, transport):
        costs = {}
        for case, (path, stream) in _CASES.items():
            await _counted(connection, transport, _request(path, _MANY, stream))  # warms caches up
            few, few_writes = await _usual(connection, transport, _request(path, _FEW, stream))
            many, many_writes = await _usual(connection, transport, _request(path, _MANY, stream))
            tokens = _MANY - _FEW
            token_calls = (many.total() - few.total()) / tokens
            many.subtract(few)
            costs[case] = Cost(
                token_calls=token_calls,
                token_writes=(many_writes - few_writes) / tokens,
                request_calls=few.total() - _FEW * token_calls,
                by_function={
                    _name(each): count / tokens for each, count in many.most_common() if count > 0
                },
            )
        return costs


async def _usual(
    connection: Any, transport: DiscardingTransport, request: bytes
) -> tuple[Counter[str | CodeType], int]:
    """The fewest of nine: what the store does on the loop beside some of them is not theirs."""
    counted = [await _counted(connection, transport, request) for _ in range(9)]
    return min(counted, key=lambda each: each[0].total())


async def _counted(
    connection: Any, transport: DiscardingTransport, request: bytes
) -> tuple[Counter[str | CodeType], int]:
    calls = Calls()
    transport.writes = 0
    transport.answered.clear()
    gc.collect()
    sys.setprofile(calls)
    try:
        connection.data_received(request)
        await transport.answered.wait()
        await asyncio.gather(*connection.tasks)
    finally:
        sys.setprofile(None)
    return calls.counts, transport.writes


@asynccontextmanager
async def _connection() -> AsyncIterator[tuple[Any, DiscardingTransport]]:
    """One connection to the application, which is ready; without a server and its timer."""
    from uvicorn.server import ServerState

    from app.engine.stepped import SteppedEngine
    from app.lifecycle import Phase
    from app.web.connection import bounded
    from tests.support.serving import assembled, eventually, settings, uvicorn_config

    configured = settings()

    async def launch(_: Any) -> SteppedEngine:
        return SteppedEngine()

    serving = assembled(configured, launch)
    config = uvicorn_config(serving)
    config.load()
    serving.host.start()
    await eventually(lambda: serving.lifecycle.phase is Phase.READY)
    connection = bounded(configured)(config, ServerState(), {})
    transport = DiscardingTransport()
    connection.connection_made(transport)
    try:
        yield connection, transport
    finally:
        connection.connection_lost(None)
        await serving.host.close()


def _request(path: str, tokens: int, stream: bool) -> bytes:
    limit = "max_output_tokens" if "responses" in path else "max_tokens"
    body: dict[str, Any] = {"model": "default", limit: tokens, "stream": stream}
    prompt = f"{1000:>32}"
    if "responses" in path:
        body["input"] = prompt
    elif "chat" in path or "messages" in path:
        body["messages"] = [{"role": "user", "content": prompt}]
    else:
        body["prompt"] = prompt
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


def _name(called: str | CodeType) -> str:
    if isinstance(called, str):
        return called
    place = called.co_filename.rsplit("site-packages/", 1)[-1].rsplit("python3.11/", 1)[-1]
    return f"{called.co_qualname} ({os.path.relpath(place) if place.startswith('/') else place})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        # As in tests/conftest.py: before prometheus_client is imported.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        import uvloop

        from app.logs import setup as logs
        from tests.support.serving import settings

        gc.disable()
        with redirect_stdout(nowhere):
            logs.configure(settings(LOG_FILE=f"{folder}/server.log"))
            costs = uvloop.run(measure())
            logs.flush()
    if as_json:
        print(json.dumps({case: asdict(cost) for case, cost in costs.items()}))
        return
    print(f"{'':<24}{'a token':>10}{'writes':>10}{'a request':>12}")
    for case, cost in costs.items():
        print(
            f"{case:<24}{cost.token_calls:>10.2f}{cost.token_writes:>10.2f}"
            f"{cost.request_calls:>12.0f}"
        )
    for case, cost in costs.items():
        print(f"\n{case}: calls of a token")
        for function, count in cost.by_function.items():
            print(f"{count:>8.2f}  {function}")


if __name__ == "__main__":
    main()
