"""Takes the pictures of docs/: `make pictures`.

The chat is with a scripted engine. The state is that of the server at --state-of, which gets some
load for two minutes; by default of the scripted one.
"""

from __future__ import annotations

import argparse
import itertools
import random
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import msgspec
from playwright.sync_api import sync_playwright

from app.engine.base import Chunk, Load, Question
from app.engine.scripted import Step
from tests.page.conftest import ARGUMENTS, CHROMIUM
from tests.page.server import Answers, Background
from tests.support.serving import HANGS_S, PLAIN

DOCS = Path(__file__).parents[2] / "docs"
LOAD_S = 120
THOUGHT = "A dictionary that maps each word to its count is enough; `Counter` is one."
ANSWER = """\
`collections.Counter` does that in one line:

```python
from collections import Counter

def most_frequent(text: str, count: int = 3) -> list[tuple[str, int]]:
    return Counter(text.lower().split()).most_common(count)
```

It reads the text **once**, so it takes linear time:

| text | words | time |
|---|---|---|
| a page | 500 | 0.1 ms |
| a novel | 100,000 | 14 ms |
"""
QUESTION = "How do I find the three most frequent words of a text in Python?"
LOADS = [
    "Tell me a story about a river.",
    "What is a prime number?",
    "Name five colours and say why you like them.",
]


class Measured(Answers):
    """Knows its own pace, and which prompts begin as an earlier one: the figures are true."""

    def __init__(self) -> None:
        super().__init__(script)
        self._spoken: deque[float] = deque(maxlen=5000)
        self._prompts: deque[list[int]] = deque(maxlen=20)

    async def generate(
        self, question: Question, *, id: str, choices: int
    ) -> AsyncGenerator[Chunk, None]:
        cached = max((_common(question.prompt, each) for each in self._prompts), default=0)
        self._prompts.append(question.prompt)
        async with aclosing(super().generate(question, id=id, choices=choices)) as chunks:
            async for chunk in chunks:
                self._spoken.append(time.monotonic())
                yield msgspec.structs.replace(chunk, cached_tokens=cached)

    async def loads(self) -> list[Load]:
        since = time.monotonic() - 2
        pace = sum(each > since for each in self._spoken) / 2
        (load,) = await super().loads()
        return [msgspec.structs.replace(load, tokens_per_s=pace, used_tokens=240 * self.running)]


def _common(prompt: list[int], earlier: list[int]) -> int:
    pairs = zip(prompt, earlier, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def script(prompt: str) -> Iterator[Step]:
    yield 0.03 + random.random() * 0.2
    for text in ("<think>", *_words(THOUGHT), "</think>", *_words(ANSWER)):
        yield text
        yield random.uniform(0.008, 0.016)


def _words(text: str) -> Iterator[str]:
    for line in text.splitlines(keepends=True):
        yield from (f"{word} " for word in line.split(" ")[:-1])
        yield line.split(" ")[-1]


def load(url: str, until: float) -> None:
    """Requests in waves of one to six, some alike; near the end one that is refused."""
    chance = random.Random(4)

    def one() -> None:
        body = {
            "messages": [
                {"role": "system", "content": "You are a patient teacher. " * 8},
                {"role": "user", "content": f"{chance.random()} {chance.choice(LOADS)}"},
            ],
            "max_tokens": chance.randint(30, 120),
        }
        httpx.post(f"{url}v1/chat/completions", json=body, verify=PLAIN, timeout=HANGS_S)

    fails_at = until - 20
    while time.monotonic() < until:
        if fails_at and time.monotonic() > fails_at:
            bad = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 10**7}
            httpx.post(f"{url}v1/chat/completions", json=bad, verify=PLAIN)
            fails_at = 0.0
        wave = [threading.Thread(target=one) for _ in range(chance.randint(1, 6))]
        for each in wave:
            each.start()
        for each in wave:
            each.join()
        time.sleep(chance.random())


def page_at(browser: Any, url: str, height: int) -> Any:
    page = browser.new_page(viewport={"width": 1240, "height": height}, color_scheme="light")
    page.goto(url)
    page.wait_for_selector("#phase[data-kind=good]")
    return page


def take_chat(browser: Any, url: str) -> None:
    page = page_at(browser, url, 880)
    page.fill("#text", QUESTION)
    page.press("#text", "Enter")
    page.wait_for_selector(".message.assistant:not(.streaming) .foot")
    page.click(".fold summary")
    page.wait_for_selector("#glance:has-text('0 in flight')")
    page.evaluate("scrollTo(0, 0)")
    page.evaluate("document.activeElement.blur()")
    page.screenshot(path=DOCS / "page-chat.png")


def take_state(browser: Any, url: str) -> None:
    page = page_at(browser, f"{url}#state", 900)
    working = threading.Thread(target=load, args=(url, time.monotonic() + LOAD_S))
    working.start()
    page.wait_for_selector("#errors tbody tr", timeout=1e3 * (LOAD_S + HANGS_S))
    page.wait_for_timeout(3000)
    page.screenshot(path=DOCS / "page-state.png")
    working.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state-of", metavar="URL")
    parser.add_argument("--only", choices=["chat", "state"])
    arguments = parser.parse_args()
    with (
        sync_playwright() as playwright,  # first: an engine wants an event loop in this thread
        Background(Measured(), SERVED_MODEL_NAME="my-model") as server,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        if arguments.only != "state":
            take_chat(browser, server.url)
        if arguments.only != "chat":
            take_state(browser, arguments.state_of or server.url)
        browser.close()
    for name in ("page-chat.png", "page-state.png"):
        print(name, (DOCS / name).stat().st_size)


if __name__ == "__main__":
    main()
