"""The page's routes: who gets what, with which headers, and who may watch. The page itself, in a
browser: tests/page."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from app.engine.base import Load
from app.life import load_reading
from app.lifecycle import Phase
from app.web.page import sampler
from app.web.page.figures import Figures, Spread
from tests.support.scripted import ScriptedEngine
from tests.support.serving import PLAIN, Running, eventually, serve
from tests.web.test_health_check import free_port
from tests.web.test_sglang_routes import Mute

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
STATIC = Path(__file__).parents[2] / "app" / "web" / "page" / "static"


async def files_of(running: Running) -> list[str]:
    """Addresses that the page names."""
    page = (await running.client.get("/", headers=BROWSER)).text
    return [part.split('"')[0] for part in page.split('="')[1:] if part.startswith("ui/files/")]


class Watcher:
    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        # Held, since its end would be that of the connection.
        self.lines = answer.aiter_lines()

    async def events(self, count: int) -> list[tuple[str, Any]]:
        """The next events."""
        found: list[tuple[str, Any]] = []
        name = ""
        while len(found) < count:
            line = await anext(self.lines)
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                found.append((name, json.loads(line[6:])))
        return found


@asynccontextmanager
async def watch(running: Running, headers: dict[str, str] | None = None) -> AsyncIterator[Watcher]:
    async with running.client.stream("GET", "/ui/events", headers=headers) as answer:
        yield Watcher(answer)


async def test_a_browser_gets_the_page_and_every_other_client_the_json() -> None:
    async with serve(ScriptedEngine("x")) as running:
        page = await running.client.get("/", headers=BROWSER)
        for accept in ("*/*", "application/json", ""):
            other = await running.client.get("/", headers={"accept": accept})
            assert other.json()["service"] == "serve_hathora"
            assert other.headers["vary"] == "accept"
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["vary"] == "accept"
    assert "<noscript>" in page.text


@pytest.mark.parametrize(("path", "key"), [("/v1", ""), ("/v1/", ""), ("/v1", "k")])
async def test_a_browser_at_the_base_url_is_sent_to_the_page_and_no_other_client(
    path: str, key: str
) -> None:
    async with serve(ScriptedEngine("x"), API_KEY=key) as running:
        page = await running.client.get(path, headers=BROWSER, follow_redirects=True)
        answers = [
            await running.client.get(path),
            await running.client.post(path, headers=BROWSER, content=b""),
        ]
    assert page.url.path == "/"
    assert "<noscript>" in page.text
    assert [each.status_code for each in answers] == [404, 404]
    async with serve(ScriptedEngine("x"), UI="false") as running:
        assert (await running.client.get(path, headers=BROWSER)).status_code == 404


async def test_ui_false_switches_the_page_off_and_leaves_the_docs() -> None:
    async with serve(ScriptedEngine("x"), UI="false") as running:
        root = await running.client.get("/", headers=BROWSER)
        watching = await running.client.get("/ui/events")
        docs = await running.client.get("/docs")
        known = await running.client.get("/docs", headers={"if-none-match": docs.headers["etag"]})
    async with serve(ScriptedEngine("x")) as running:
        # It is another document: with the page there is a way to it.
        with_page = await running.client.get(
            "/docs", headers={"if-none-match": docs.headers["etag"]}
        )
    assert 'href="./"' in with_page.text
    assert 'href="./"' not in docs.text
    assert known.status_code == 304
    assert root.json()["phase"] == "ready"
    assert watching.status_code == 404
    assert docs.status_code == 200


async def test_the_page_is_not_on_the_health_port() -> None:
    port = free_port()
    async with serve(ScriptedEngine("x"), PORT_HEALTH=str(port)) as running:
        names = ["/", "/docs", "/favicon.ico", "/ui/events", f"/{(await files_of(running))[0]}"]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", verify=PLAIN) as health:
            for name in names:
                assert (await health.get(name, headers=BROWSER)).status_code == 404


async def test_every_file_has_headers_that_let_it_do_nothing_else() -> None:
    async with serve(ScriptedEngine("x")) as running:
        paths = ["/", "/docs", "/favicon.ico", *await files_of(running)]
        for path in paths:
            answer = await running.client.get(path, headers=BROWSER)
            assert answer.status_code == 200, path
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'")
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"


async def test_files_are_kept_for_ever_and_documents_are_asked_for_again() -> None:
    async with serve(ScriptedEngine("x")) as running:
        page = await running.client.get("/", headers=BROWSER)
        again = await running.client.get(
            "/", headers={**BROWSER, "if-none-match": f'"a", W/{page.headers["etag"]}'}
        )
        name = next(each for each in await files_of(running) if each.endswith("page.js"))
        file = await running.client.get(name)
        known = await running.client.get(name, headers={"if-none-match": file.headers["etag"]})
        old = await running.client.get("/ui/files/0123456789abcdef/page.js")
    assert page.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")
    assert "immutable" in file.headers["cache-control"]
    assert known.status_code == 304
    assert (old.content, old.headers["cache-control"]) == (file.content, "no-cache")


@pytest.mark.parametrize(
    "name", ["", "index.html", "../files.py", "..%2ffiles.py", "docs/NOTICE", "%00", "docs/x.js"]
)
async def test_nothing_but_the_pages_files_is_below_their_folder(name: str) -> None:
    async with serve(ScriptedEngine("x"), API_KEY="k") as running:
        url = f"http://127.0.0.1:{running.port}/ui/files/x/{name}"
        answer = await running.client.get(httpx.URL(url))
    assert answer.status_code in (401, 404)


async def test_with_a_key_the_files_are_open_and_the_events_are_not() -> None:
    async with serve(ScriptedEngine("x"), API_KEY="right", SERVED_MODEL_NAME="hush") as running:
        for path in ("/", "/docs", "/favicon.ico", *await files_of(running)):
            answer = await running.client.get(path, headers=BROWSER)
            assert answer.status_code == 200
            assert b"hush" not in answer.content
        for key in ({}, {"authorization": "Bearer wrong"}):
            assert (await running.client.get("/ui/events", headers=key)).status_code == 401
        key = {"authorization": "Bearer right"}
        async with watch(running, key) as watcher:
            ((name, about),) = await watcher.events(1)
    assert (name, about["names"]) == ("about", ["hush"])


async def test_without_a_key_nobody_fills_the_last_errors() -> None:
    async with serve(ScriptedEngine("x"), API_KEY="right") as running:
        for path in ("/", "/docs", "/openapi.json", "/favicon.ico", "/health", "/ui/files/x/y"):
            for method in ("POST", "PUT", "OPTIONS"):
                answer = await running.client.request(
                    method, path, headers={"x-request-id": "mine"}, content=b"x"
                )
                assert answer.status_code == 405, path
        assert "mine" not in [each.id for each in running.serving.recent_errors.last()]


@pytest.mark.parametrize("path", ["/ui/events", "/metrics"])
async def test_a_wrong_key_is_in_the_log_even_where_requests_are_not(path: str) -> None:
    with capture_logs() as lines:
        async with serve(ScriptedEngine("x"), API_KEY="right") as running:
            assert (await running.client.get(path)).status_code == 401
    (end,) = (each for each in lines if each["event"] == "request finished")
    assert (end["log_level"], end["path"], end["status"]) == ("info", path, 401)


@pytest.mark.parametrize("path", ["/docs/", "/docs//", "//docs/"])
async def test_the_docs_are_where_their_relative_addresses_begin(path: str) -> None:
    async with serve(ScriptedEngine("x"), API_KEY="right") as running:
        url = httpx.URL(f"http://127.0.0.1:{running.port}{path}")
        moved = await running.client.get(url)
    assert moved.status_code == 308
    assert url.join(moved.headers["location"]).path.replace("//", "/") == "/docs"


def test_the_page_is_small() -> None:
    own = [path for path in STATIC.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in own) < 100_000


def test_the_page_makes_no_html_of_text_and_names_no_other_host() -> None:
    for path in (path for path in STATIC.rglob("*") if path.is_file()):
        text = path.read_text()
        if path.name.startswith("swagger-ui") or path.name in ("LICENSE", "NOTICE"):
            continue
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in text, (path.name, word)
        hosts = {part.split("/")[0] for part in text.split("://")[1:]}
        assert hosts <= {"www.w3.org"}, path.name


async def test_a_watcher_gets_what_the_server_is_and_then_what_it_does() -> None:
    async with serve(ScriptedEngine("a", "b"), SERVED_MODEL_NAME="tiny") as running:
        async with watch(running) as watcher:
            assert watcher.answer.headers["content-type"].startswith("text/event-stream")
            first, past, sample = await watcher.events(3)
        await running.chat(n=129)
        await running.chat()
        async with watch(running) as watcher:
            *_, (_, later) = await watcher.events(3)
    assert first[0] == "about"
    assert (first[1]["names"], first[1]["model"]["context"]) == (["tiny"], 1000)
    assert past == ("past", [])
    assert sample[0] == "sample"
    assert later["totals"]["answered"] == sample[1]["totals"]["answered"] + 2
    assert later["totals"]["refused"] == sample[1]["totals"]["refused"] + 1
    assert later["totals"]["completion_tokens"] - sample[1]["totals"]["completion_tokens"] == 2
    (error,) = (each for each in later["errors"] if each["route"] == "/v1/chat/completions")
    assert (error["status"], error["code"]) == (400, "integer_above_max_value")


async def test_head_asks_for_the_headers_of_the_events_and_watches_nothing() -> None:
    async with serve(ScriptedEngine("x")) as running:
        answer = await running.client.head("/ui/events")
        assert not tasks()
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_nothing_is_sampled_while_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    read = Figures.read

    def counted() -> Figures:
        reads.append(1)
        return read()

    monkeypatch.setattr(Figures, "read", counted)
    monkeypatch.setattr(sampler, "INTERVAL_S", 0.01)
    async with serve(ScriptedEngine("x")) as running:
        await running.chat()
        assert not reads
        async with watch(running) as watcher:
            await watcher.events(5)
        await eventually(lambda: not tasks())
        seen = len(reads)
        await asyncio.sleep(0.1)
        assert len(reads) == seen


def tasks() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == "page-sampler"]


async def test_watchers_share_one_sampler_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "MOST_WATCHERS", 3)
    watchers: list[Watcher] = []
    async with serve(ScriptedEngine("x")) as running, AsyncExitStack() as watching:
        for _ in range(3):
            watchers.append(await watching.enter_async_context(watch(running)))
            await watchers[-1].events(3)
        assert len(tasks()) == 1
        refused = await running.client.get("/ui/events")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "server_is_overloaded"
        await watching.aclose()
        await eventually(lambda: not tasks())
        async with watch(running) as watcher:
            assert (await watcher.events(3))[0][0] == "about"


async def test_one_who_comes_as_the_last_one_leaves_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampler, "INTERVAL_S", 0.01)
    async with serve(ScriptedEngine("x")) as running:
        for _ in range(20):
            async with watch(running) as watcher:
                names = [name for name, _ in await watcher.events(5)]
            assert names[-3:] == ["sample"] * 3


async def test_an_engine_that_does_not_say_its_load_is_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampler, "INTERVAL_S", 0.01)
    monkeypatch.setattr(load_reading, "LONGEST_S", 0.05)
    engine = Mute()
    async with serve(engine) as running:
        engine.asked = 0  # the start has asked, too
        engine.says.clear()
        for _ in range(3):
            async with watch(running) as watcher:
                *_, (_, sample) = await watcher.events(5)
            assert sample["kv"] == [0, 0]
        assert engine.asked == 1
        engine.says.set()
        async with watch(running) as watcher:
            *_, (_, sample) = await watcher.events(5)
    assert sample["kv"][1] > 0


async def test_the_queue_is_of_requests_however_many_sequences_each_has() -> None:
    goes_on = asyncio.Event()

    class Busy(ScriptedEngine):
        async def loads(self) -> list[Load]:
            return [Load(0, 8, 0, 128, 4096, 0.0, 0)]  # each choice is a sequence

    bounds = {"MAX_CONCURRENCY": "8", "MAX_SEQUENCES_PER_REQUEST": "8"}
    async with serve(Busy(goes_on, "x"), **bounds) as running:
        asking = [asyncio.create_task(running.chat(n=8)) for _ in range(8)]
        await eventually(lambda: running.serving.gauges().waiting == 7)
        async with watch(running) as watcher:
            *_, (_, sample) = await watcher.events(3)
        metrics = (await running.client.get("/metrics")).text
        goes_on.set()
        assert {answer.status_code for answer in await asyncio.gather(*asking)} == {200}
        assert running.serving.gauges().waiting == 0
    assert (sample["point"][2:4], sample["running"]) == ([8, 7], 8)
    assert "serve_waiting_requests 7.0" in metrics


async def test_a_watcher_leaves_when_the_server_drains() -> None:
    async with serve(ScriptedEngine("x")) as running:
        async with watch(running) as watcher:
            await watcher.events(3)
            running.lifecycle.enter(Phase.DRAINING)
            rest = [line async for line in watcher.lines]
        refused = await running.client.get("/ui/events")
    assert any('"phase":"draining"' in line for line in rest)
    assert refused.json()["error"]["code"] == "server_shutting_down"


async def test_a_watcher_that_does_not_read_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, no_kernel_timeout: None, cut_off: list[Any]
) -> None:
    monkeypatch.setattr(sampler, "INTERVAL_S", 0.0001)
    async with serve(ScriptedEngine("x"), WRITE_TIMEOUT="0.3") as running:
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", running.port))
            deaf.sendall(b"GET /ui/events HTTP/1.1\r\nhost: x\r\n\r\n")
            await eventually(lambda: bool(cut_off))
            await eventually(lambda: not tasks())


async def test_a_fault_of_the_sampler_ends_the_watchers_and_is_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> Figures:
        raise RuntimeError("the files are odd")

    monkeypatch.setattr(Figures, "read", broken)
    with capture_logs() as lines:
        async with serve(ScriptedEngine("x")) as running:
            with pytest.raises(httpx.RemoteProtocolError):
                await running.client.get("/ui/events")
            assert (await running.client.get("/health")).status_code == 200
    assert [line for line in lines if line["event"] == "request failed"]


async def test_watching_leaves_no_lines_in_the_log_and_no_times_in_the_metrics() -> None:
    with capture_logs() as lines:
        async with serve(ScriptedEngine("x")) as running:
            async with watch(running) as watcher:
                await watcher.events(3)
            await running.client.get((await files_of(running))[0])
            await eventually(lambda: not tasks())
            scraped = (await running.client.get("/metrics")).text
    asked = [line for line in lines if "/ui/" in line.get("path", "")]
    assert {line["log_level"] for line in asked} == {"debug"}
    assert 'serve_request_duration_seconds_count{route="/ui/' not in scraped


def test_a_quantile_lies_between_the_bounds_of_its_bucket() -> None:
    spread = Spread({0.1: 50.0, 0.2: 49.0, 1.0: 1.0, float("inf"): 0.0}, 12.0)
    assert spread.quantile(0.25) == pytest.approx(0.05)
    assert spread.quantile(0.5) == pytest.approx(0.1)
    assert spread.quantile(0.99) == pytest.approx(0.2)
    assert Spread({0.1: 0.0, float("inf"): 3.0}, 9.0).quantile(0.5) == 0.1
    assert Spread({}, 0.0).shown() == {"p50": None, "p99": None, "mean": None, "count": 0}
    assert Spread({1.0: 0.0, 2.5: 10.0}, 18.0).shown()["p50"] == 1.75
    later = Spread({0.1: 51.0, 0.2: 49.0, 1.0: 4.0, float("inf"): 0.0}, 15.0)
    assert later.since(spread).shown()["count"] == 4


def test_a_few_observations_have_a_mean_and_no_percentiles() -> None:
    # A bucket is as wide as 2.5 to 5 s: between its bounds one request may be anywhere.
    one = Spread({2.5: 0.0, 5.0: 1.0}, 2.6)
    assert one.shown() == {"p50": None, "p99": None, "mean": 2.6, "count": 1}
    nine = Spread({2.5: 5.0, 5.0: 4.0}, 20.0)
    assert nine.shown()["p50"] is None
