"""Chromium, and servers with scripted engines that it opens the page of."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.page.server import Background

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
    # Nothing but loopback has an address.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/page/" in item.path.as_posix():
            item.add_marker(pytest.mark.page)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """`opened(url, **options of the context)`: the page. In the end: it has asked no other host,
    and the browser has reported no error, such as a break of the page's policy."""
    asked: list[str] = []
    faults: list[str] = []
    with ExitStack() as contexts:

        def opens(url: str, *, faulty: bool = False, **options: Any) -> Any:
            context = browser.new_context(**options)
            contexts.callback(context.close)
            context.on("request", lambda request: asked.append(request.url))
            page = context.new_page()
            page.set_default_timeout(20_000)
            if not faulty:
                page.on("pageerror", lambda error: faults.append(str(error)))
                page.on("console", lambda line: _note(line, faults))
            page.goto(url)
            return page

        yield opens
    own = ("http://127.0.0.1:", "data:", "blob:http://127.0.0.1:")
    assert [url for url in asked if not url.startswith(own)] == []
    assert faults == []


def _note(line: Any, faults: list[str]) -> None:
    # What the server refuses is shown to the user; the browser reports it, too.
    if line.type == "error" and "Failed to load resource" not in line.text:
        faults.append(line.text)


@pytest.fixture
def served() -> Iterator[Callable[..., Background]]:
    """`served(engine, **settings)`: a server in this process."""
    with ExitStack() as running:
        yield lambda engine, **settings: running.enter_context(Background(engine, **settings))
