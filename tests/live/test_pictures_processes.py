"""Pictures beside what happens to processes: several that serve, clients that leave, a scheduler
that stands still, a server that is killed, a full /dev/shm. `make test-vlm` runs them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench import vision
from tests.live.conftest import LiveServer
from tests.live.test_pictures import PATH, Seeing, picture, scores, segments, text
from tests.support import processes
from tests.support.machine import allowed

pytestmark = [pytest.mark.live, pytest.mark.rare]
FAMILY = "qwen2_5_vl"
LEAVES_AFTER_S = (0.001, 0.005, 0.02, 0.05, 0.2)


def _server(folder: Path, **options: Any) -> LiveServer:
    return LiveServer(
        folder, "--model-path", str(vision.find(FAMILY)), model=None, ADMIN_API_KEY="admin",
        LOG_FORMAT="json", **options,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["1", "2"])
def serving(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    server = _server(tmp_path_factory.mktemp("pictures"), TOKENIZER_WORKERS=request.param)
    try:
        yield Serving(server.ready(), int(request.param))
    finally:
        server.stop()


class Serving(Seeing):
    def __init__(self, server: LiveServer, processes: int) -> None:
        super().__init__(FAMILY, server)
        self.processes = processes


def _eventually(holds: Any) -> None:
    deadline = time.monotonic() + allowed(30)
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)  # metrics and /dev/shm are looked at


def _asked(server: LiveServer, colour: str, name: str) -> Any:
    """On a connection of its own, which any of the processes may take."""
    body = {"messages": [{"role": "user", "content": [picture(colour), text()]}],
            "max_tokens": 6, "temperature": 0, "logprobs": True}  # fmt: skip
    answer = httpx.post(server.url + PATH, json=body, headers={"x-request-id": name}, timeout=300)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_each_process_sees_the_same(serving: Serving) -> None:
    colours = ["red", "blue", "green", "white"] * 4
    names = [f"seen-{no}" for no in range(len(colours))]
    alone = {
        colour: scores(_asked(serving.server, colour, f"alone-{colour}")) for colour in colours[:4]
    }
    assert len({tuple(each) for each in alone.values()}) == 4
    with ThreadPoolExecutor(8) as pool:
        answers = [
            *pool.map(lambda each: _asked(serving.server, *each), zip(colours, names, strict=True))
        ]
    assert [scores(each) for each in answers] == [alone[colour] for colour in colours]
    cached = [each["usage"]["prompt_tokens_details"]["cached_tokens"] for each in answers]
    assert min(cached) > 0
    lines = [json.loads(line) for line in serving.server.log.splitlines() if line.startswith("{")]
    by = {line.get("process") for line in lines if line.get("request_id") in names}
    assert len(by) == serving.processes
    assert segments() == []


def test_several_choices_and_turned_pictures_are_told_apart(serving: Serving) -> None:
    whole = serving.answer(picture("cyan"), text(), n=3)
    assert len({choice["message"]["content"] for choice in whole["choices"]}) == 1
    wide, tall = (picture("grey", size) for size in ((224, 112), (112, 224)))
    alone = serving.answer(tall, text())
    serving.flush()
    serving.answer(wide, text())
    assert scores(serving.answer(tall, text())) == scores(alone)


def test_clients_that_leave_take_their_pictures_along(serving: Serving) -> None:
    """While it is decoded, prepared, sent, begun."""
    for no, after_s in enumerate(LEAVES_AFTER_S * 2):
        shown = picture("red", (900 + no, 900))
        body = {"messages": [{"role": "user", "content": [shown, text()]}], "max_tokens": 500,
                "ignore_eos": True, "n": 2}  # fmt: skip
        with suppress(httpx.TimeoutException):
            httpx.post(
                serving.server.url + PATH, json=body, timeout=httpx.Timeout(30, read=after_s)
            )
    _eventually(lambda: serving.server.metric("serve_in_flight_requests") == 0)
    _eventually(lambda: segments() == [])
    serving.flush()
    serving.answer(picture(), text())
    assert segments() == []


def _ask(server: LiveServer, no: int) -> httpx.Response:
    content = [picture("red", (300 + no, 300)), text()]
    body = {"messages": [{"role": "user", "content": content}]}
    return httpx.post(server.url + PATH, json=body, timeout=120)


def _left(pid: int) -> int:
    return sum(f"_{pid}_" in name for name in segments())


def test_what_a_killed_server_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    killed = _server(tmp_path / "killed")
    pid = killed.process.pid
    try:
        killed.ready().child("sglang::scheduler").suspend()
        with ThreadPoolExecutor(5) as pool:
            asked = [pool.submit(_ask, killed, no) for no in range(5)]
            try:
                _eventually(lambda: _left(pid) == 5)
            finally:
                processes.kill(killed.process)
            for each in asked:
                with pytest.raises(httpx.TransportError):
                    each.result()
    finally:
        killed.stop()
    assert _left(pid) == 5
    following = _server(tmp_path / "next")
    try:
        following.ready()
        assert segments() == []
    finally:
        following.stop()


def test_pictures_of_a_stopped_scheduler_are_removed_when_the_server_ends(tmp_path: Path) -> None:
    server = _server(tmp_path, ENGINE_STALL_TIMEOUT="5")
    try:
        server.ready().child("sglang::scheduler").suspend()
        answer = _ask(server, 0)
        assert answer.status_code == 503, answer.text
        assert server.exit_code(60) == 73
        assert segments() == []
    finally:
        server.stop()


def test_a_full_shared_memory_costs_a_warning(tmp_path: Path) -> None:
    server = _server(tmp_path, shared_megabytes=12)
    try:
        seen = Seeing(FAMILY, server.ready())
        with_room = seen.answer(picture("red", (400, 400)), text())
        seen.flush()
        its_own = Path(f"/proc/{server.process.pid}/root/dev/shm")
        with (its_own / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(4096))
        without = seen.answer(picture("red", (400, 400)), text())
        assert scores(without) == scores(with_room)
        assert "shared memory for multimodal" in server.log
        seen.answer(picture(), text())
    finally:
        server.stop()
