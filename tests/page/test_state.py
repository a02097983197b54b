"""The server's state, its key, and what outlives the server, in Chromium."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.errors import InvalidRequest
from app.web.page import sampler
from tests.page.server import Answers, Background, said, saying, until
from tests.support import processes
from tests.support.serving import HANGS_S, PLAIN

SERVER = Path(__file__).parents[2] / "serve_hathora.py"
Opened = Callable[..., Any]
Served = Callable[..., Background]


def figure(page: Any, title: str, pattern: str) -> None:
    """Wait until the card of this title has a text."""
    cards = "[...document.querySelectorAll('.card')]"
    text = f"{cards}.find((card) => card.querySelector('h2').textContent === '{title}').innerText"
    until(page, f"/{pattern}/.test({text})")


def chat(server: Background, count: int = 1) -> list[int]:
    body = {"messages": [{"role": "user", "content": "x"}]}
    url = f"{server.url}v1/chat/completions"
    return [httpx.post(url, json=body, verify=PLAIN).status_code for _ in range(count)]


def test_the_figures_are_those_of_the_metrics(opened: Opened, served: Served) -> None:
    server = served(saying("a ", 0.02, "b ", 0.02, "c"))
    page = opened(f"{server.url}#state")
    figure(page, "In flight", r"\b0\b")
    assert set(chat(server, 5)) == {200}
    figure(page, "Time to first token", "last minute")
    figure(page, "Between tokens", "ms")
    answered = httpx.get(f"{server.url}metrics", verify=PLAIN).text
    figure(page, "Answered", f"^Answered\\n+{_all_posts(answered)}\\b")
    facts = page.inner_text("#facts")
    assert "4,000,000 tokens" in facts


def test_the_time_to_the_first_token_of_one_request_is_its_own(
    opened: Opened, served: Served
) -> None:
    server = served(saying(0.3, "x"))
    page = opened(f"{server.url}#state")
    figure(page, "In flight", r"\b0\b")
    before = _first_tokens(server)
    assert chat(server) == [200]
    figure(
        page,
        "Time to first token",
        rf"^Time to first token\n+{_mean(server, before, 1)}\n+1 request",
    )
    assert chat(server) == [200]
    figure(
        page,
        "Time to first token",
        rf"\n{_mean(server, before, 2)}\n+mean of 2 requests · last minute",
    )
    assert set(chat(server, 10)) == {200}
    shown = r"≈ (\d+ ms|\d\.\d+ s)"
    figure(page, "Time to first token", rf"{shown}\n+p99 {shown} · last minute")


def _first_tokens(server: Background) -> tuple[float, float]:
    """Sum of seconds, and count, by the metrics, which other servers of this process share."""
    metrics = httpx.get(f"{server.url}metrics", verify=PLAIN).text
    name = "serve_time_to_first_token_seconds"
    total, count = (
        sum(map(float, re.findall(rf"^{name}_{kind}(?:{{.*}})? (.*)$", metrics, re.MULTILINE)))
        for kind in ("sum", "count")
    )
    return total, count


def _mean(server: Background, before: tuple[float, float], requests: int) -> str:
    """Of the requests since then, once all are counted, as the page writes it."""
    latest, total, count = time.monotonic() + HANGS_S, 0.0, before[1]
    while count != before[1] + requests:
        assert time.monotonic() < latest
        total, count = _first_tokens(server)
    mean_ms = (total - before[0]) / requests * 1e3
    return f"{mean_ms:.0f} ms" if mean_ms < 1000 else f"{mean_ms / 1e3:.1f} s"


def _all_posts(metrics: str) -> int:
    counts = re.findall(r'serve_requests_total{.*method="(?:POST|DELETE)".*} ([\d.]+)', metrics)
    return int(sum(map(float, counts)))


def test_a_request_in_flight_is_counted_while_it_runs(opened: Opened, served: Served) -> None:
    page = opened(served(saying("x", asyncio.Event())).url)
    page.fill("#text", "go")
    page.press("#text", "Enter")
    page.wait_for_selector(".streaming .body:has-text('x')")
    page.wait_for_selector("#glance:has-text('1 in flight')")
    page.keyboard.press("Escape")
    page.wait_for_selector("#glance:has-text('0 in flight')")


def test_the_last_errors_are_shown_without_what_the_client_sent(
    opened: Opened, served: Served
) -> None:
    server = served(Answers(lambda _: [InvalidRequest("a secret word", code="odd_code")]))
    page = opened(f"{server.url}#state")
    assert chat(server) == [400]
    row = page.locator("#errors tr", has_text="odd_code")
    row.wait_for()
    assert "/v1/chat/completions" in row.inner_text()
    assert "secret" not in page.inner_text("#state")


def test_while_the_server_starts_the_phase_and_the_bytes_are_shown(
    opened: Opened, served: Served
) -> None:
    server = served(None, ready=False)
    server.running.lifecycle.fetched = 120_000_000, 400_000_000
    page = opened(server.url)
    page.wait_for_selector("#notice:has-text('120 MB of 400 MB')")
    page.wait_for_selector("#phase[data-kind=busy]")
    assert page.is_disabled("#send")
    page.click("#to-state")
    page.wait_for_selector("#download-bar")  # a hash is followed a moment later
    assert "s" in page.inner_text("#phases [aria-current]")


def test_with_a_key_nothing_is_shown_before_it_is_right(opened: Opened, served: Served) -> None:
    page = opened(served(saying("open"), API_KEY="right", SERVED_MODEL_NAME="hush-hush").url)
    page.wait_for_selector("#key-form:not([hidden])")
    assert "hush-hush" not in page.content()
    page.fill("#key", "wrong")
    page.press("#key", "Enter")
    page.wait_for_selector("#notice:has-text('does not take this key')")
    assert not page.is_visible("#ask")
    page.fill("#key", "right")
    page.press("#key", "Enter")
    page.wait_for_selector("#phase[data-kind=good]")
    page.fill("#text", "go")
    page.press("#text", "Enter")
    page.wait_for_selector(".message.assistant .body:has-text('open')")
    page.click("#show-request")
    assert "$API_KEY" in page.inner_text("#as-curl")
    assert "right" not in page.inner_text("#request")
    page.reload()
    page.wait_for_selector("#phase[data-kind=good]")
    assert page.evaluate("Object.values(localStorage).length") == 0


def test_the_page_finds_the_server_again_when_it_is_back(opened: Opened) -> None:
    with ExitStack() as servers:
        first = servers.enter_context(Background(saying("x")))
        port = str(first.running.port)
        page = opened(first.url)
        page.wait_for_selector("#phase[data-kind=good]")
        first.stop()
        page.wait_for_selector("#phase:has-text('no connection')")
        page.wait_for_selector("#notice:has-text('Trying again')")
        servers.enter_context(Background(saying("y"), PORT=port))
        page.wait_for_selector("#phase[data-kind=good]")
        assert not page.is_visible("#notice")


def test_the_field_for_a_message_and_the_phase_say_the_same(opened: Opened, served: Served) -> None:
    server = served(saying("x"))
    page = opened(server.url, faulty=True)
    page.wait_for_selector("#phase:has-text('ready')")
    assert page.get_attribute("#text", "placeholder") == "Message"
    server.running.lifecycle.asleep = server.running.lifecycle.refuses = True
    page.wait_for_selector("#phase:has-text('asleep')")
    assert page.get_attribute("#text", "placeholder") == "The model is not ready (asleep)"
    page.fill("#text", "go")
    page.press("#text", "Enter")
    assert said(page) == "The model is not ready (asleep)."
    server.running.lifecycle.asleep = server.running.lifecycle.refuses = False
    page.wait_for_selector("#phase:has-text('ready')")
    assert said(page) == ""
    server.stop()
    page.wait_for_selector("#phase:has-text('no connection')")
    assert page.get_attribute("#text", "placeholder") == "No connection to the server"


def test_a_page_that_may_not_watch_has_a_connection_and_a_chat(
    opened: Opened, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "MOST_WATCHERS", 0)
    page = opened(served(saying("fine")).url)
    page.wait_for_selector("#notice:has-text('0 pages watch this server already')")
    assert page.inner_text("#phase") == "state unknown"
    assert page.get_attribute("#text", "placeholder") == "Message"
    page.fill("#text", "go")
    page.press("#text", "Enter")
    page.wait_for_selector(".message.assistant .body:has-text('fine')")


def test_a_proxy_without_a_server_behind_it_is_no_connection(
    opened: Opened, served: Served
) -> None:
    page = opened(served(saying("fine")).url)
    page.route("**/ui/events", lambda asked: asked.fulfill(status=502, body="bad gateway"))
    page.reload()
    page.wait_for_selector("#notice:has-text('The server does not answer.')")
    assert page.inner_text("#phase") == "no connection"
    assert page.get_attribute("#text", "placeholder") == "No connection to the server"
    page.unroute("**/ui/events")
    refused = '{"error": {"message": "so many watch"}}'
    page.route("**/ui/events", lambda asked: asked.fulfill(status=503, body=refused))
    page.wait_for_selector("#phase:has-text('state unknown')")
    assert page.get_attribute("#text", "placeholder") == "Message"


@pytest.fixture
def two_processes(tmp_path: Path) -> Iterator[str]:
    """A server of two processes; its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    settings = {
        "TOKENIZER_WORKERS": "2", "HOST": "127.0.0.1", "PORT": port, "LOG_FORMAT": "json",
        "ENGINE": "scripted", "ENGINE_ARGS": '{"words": 400, "token_s": 0.05}', "LOG_FILE": "",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, str(SERVER)], env={**os.environ, **settings}, cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + HANGS_S
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{url}readyz", verify=PLAIN).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        yield url
    finally:
        processes.stop(process)


def test_several_processes_add_up(opened: Opened, two_processes: str) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True}
    wrong = {"messages": "x"}
    with ExitStack() as streams:
        # Each on its own connection: the kernel spreads them over the processes.
        for _ in range(6):
            client = streams.enter_context(httpx.Client(verify=PLAIN, timeout=HANGS_S))
            url = f"{two_processes}v1/chat/completions"
            assert client.post(url, json=wrong).status_code == 400
            streams.enter_context(client.stream("POST", url, json=body))
        page = opened(f"{two_processes}#state")
        page.wait_for_selector("#glance:has-text('6 in flight')")
        figure(page, "Answered", r"6 refused")
        until(page, "document.querySelectorAll('#errors tbody tr').length === 6")
        assert re.search(r"Serving processes\s*2", page.inner_text("#facts"))


HIDDEN = """() => {
  const later = setTimeout;
  window.setTimeout = (call, ms) => later(call, ms === 30_000 ? 50 : ms);
  Object.defineProperty(document, "hidden", { get: () => window.away });
}"""


def test_a_page_that_nobody_sees_stops_watching(opened: Opened, served: Served) -> None:
    server = served(saying("x"))
    page = opened(server.url)
    page.wait_for_selector("#phase[data-kind=good]")
    assert server.watched
    page.evaluate(HIDDEN)
    for away in (True, False):
        page.evaluate("(away) => { window.away = away; }", away)
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        deadline = time.monotonic() + HANGS_S
        while server.watched is away:
            assert time.monotonic() < deadline
            page.wait_for_timeout(20)


def test_a_page_that_is_closed_leaves_no_connection(opened: Opened, served: Served) -> None:
    server = served(saying("x"))
    page = opened(server.url)
    page.wait_for_selector("#phase[data-kind=good]")
    assert server.running.connections
    page.context.close()
    deadline = time.monotonic() + HANGS_S
    while server.running.connections and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not server.running.connections


def test_the_first_paint_is_within_half_a_second(opened: Opened, served: Served) -> None:
    server = served(saying("x"))
    opened(server.url)  # the files are read
    times = []
    for _ in range(5):
        page = opened(server.url)
        page.wait_for_selector("#phase[data-kind=good]")
        paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        times.append(page.evaluate(paint))
        page.context.close()
    print(json.dumps(times))
    assert min(times) < 500
