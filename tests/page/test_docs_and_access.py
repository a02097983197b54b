"""`/docs` without the internet, and the page's accessibility, in Chromium."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.page.server import CALL, Answers, Background, saying, until

Opened = Callable[..., Any]
Served = Callable[..., Background]

ANSWER = """\
<think>,Thinking about **this**.,</think>,# A title

Text with a [link](https://example.com), `code` and

1. a list
2. of two

> a quote

| a | table |
|---|---|
| 1 | 2 |

```python
print("code")
```
"""


def violations(page: Any, within: str | None = None) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    # Put in by the debugger's protocol: the page's policy takes no script from elsewhere.
    response = Axe().run(page, context=within).response
    assert len(response["passes"]) > (2 if within else 10)
    found = response["violations"]
    return [
        f"{each['id']}: {each['help']}: {[node['html'][:200] for node in each['nodes'][:4]]}"
        for each in found
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1300, 380])
def test_no_view_of_the_page_breaks_a_rule_of_accessibility(
    opened: Opened, served: Served, scheme: str, width: int
) -> None:
    pytest.importorskip("axe_playwright_python")
    engine = Answers(lambda prompt: [CALL] if prompt.endswith("tool") else ANSWER.split(","))
    server = served(engine)
    page = opened(
        server.url, color_scheme=scheme, viewport={"width": width, "height": 850}, faulty=True
    )
    page.wait_for_selector("#phase[data-kind=good]")
    assert violations(page) == []
    for text in ("go", "tool"):
        page.fill("#text", text)
        page.press("#text", "Enter")
        page.wait_for_selector(".message.assistant:last-of-type:not(.streaming) .foot")
    page.click(".fold summary >> nth=0")
    page.click(".message.user button:has-text('Edit') >> nth=0")
    assert violations(page) == []
    page.click("#show-request")
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.click("#to-state")
    until(page, "document.querySelector('.value').textContent.match(/[0-9]/)")
    assert violations(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_question_for_a_key_breaks_no_rule_either(
    opened: Opened, served: Served, scheme: str
) -> None:
    pytest.importorskip("axe_playwright_python")
    page = opened(served(saying("x"), API_KEY="k").url, color_scheme=scheme, faulty=True)
    page.wait_for_selector("#key-form:not([hidden])")
    assert violations(page) == []


def test_the_description_is_shown_without_the_internet(opened: Opened, served: Served) -> None:
    page = opened(f"{served(saying('x')).url}docs")
    page.wait_for_selector("[data-path='/v1/chat/completions']")
    assert not page.is_visible(".auth-wrapper .authorize")
    page.click("[data-path='/v1/tokenize']")
    page.wait_for_selector(".opblock.is-open >> text=Responses")


def test_from_the_description_a_link_and_one_step_back_lead_to_the_chat(
    opened: Opened, served: Served
) -> None:
    pytest.importorskip("axe_playwright_python")
    page = opened(served(saying("x")).url)
    page.click("text=API")
    for path in ("/v1/tokenize", "/v1/completions"):
        page.click(f"[data-path='{path}']")
    page.wait_for_selector(".opblock.is-open >> text=Responses")
    page.go_back()
    page.wait_for_selector("#phase[data-kind=good]")
    page.click("text=API")
    page.wait_for_selector("[data-path='/v1/tokenize']")
    assert violations(page, "nav") == []
    page.click("a:has-text('← Chat')")
    page.wait_for_selector("#phase[data-kind=good]")


def test_with_a_key_the_description_has_a_button_for_it_and_sends_it(
    opened: Opened, served: Served
) -> None:
    page = opened(f"{served(saying('x'), API_KEY='right').url}docs")
    page.click(".auth-wrapper .authorize")
    page.fill(".modal-ux input", "right")
    page.click(".modal-ux button.authorize")
    page.click(".modal-ux .btn-done")
    page.click("[data-path='/v1/models']")
    page.click("text=Try it out")
    page.click("text=Execute")
    page.wait_for_selector(".live-responses-table >> text=max_model_len")


def with_script(opened: Opened, url: str, script: str, *, faulty: bool = False) -> Any:
    """The page, with a script that runs before its own."""
    page = opened("about:blank", faulty=faulty)
    page.add_init_script(script)
    page.goto(url)
    return page


@pytest.mark.parametrize(
    ("pasted", "named"), [("right\u200b", "U+200B"), ("\u201cright", "U+201C")]
)
def test_a_key_that_no_header_can_have_is_refused_by_its_character(
    opened: Opened, served: Served, pasted: str, named: str
) -> None:
    page = opened(served(saying("x"), API_KEY="right").url)
    page.wait_for_selector("#key-form:not([hidden])")
    page.fill("#key", pasted)
    page.press("#key", "Enter")
    page.wait_for_selector(f"#notice:has-text('{named}')")
    page.fill("#key", "right\ufeff ")
    page.press("#key", "Enter")
    page.wait_for_selector("#phase[data-kind=good]")
    assert not page.is_visible("#notice")


def test_a_browser_that_keeps_nothing_of_the_site_shows_the_page(
    opened: Opened, served: Served
) -> None:
    blocked = """Object.defineProperty(window, "sessionStorage", {
        get() { throw new DOMException("Access is denied.", "SecurityError"); }
    });"""
    page = with_script(opened, served(saying("fine"), API_KEY="right").url, blocked)
    page.wait_for_selector("#key-form:not([hidden])")
    page.fill("#key", "right")
    page.press("#key", "Enter")
    page.wait_for_selector("#phase[data-kind=good]")
    page.fill("#text", "go")
    page.press("#text", "Enter")
    page.wait_for_selector(".message.assistant:not(.streaming) .body:has-text('fine')")
    page.click("#new-chat")
    page.wait_for_selector(".message", state="detached")


def test_a_fault_of_the_page_is_shown_as_it_is(opened: Opened, served: Served) -> None:
    broken = """const parse = JSON.parse;
    JSON.parse = (text) => {
        if (text.includes('"point"')) throw new TypeError("figures of no kind");
        return parse(text);
    };"""
    page = with_script(opened, served(saying("x")).url, broken, faulty=True)
    page.wait_for_selector("#notice:has-text('figures of no kind')")
    assert "does not answer" not in page.inner_text("#notice")


def test_a_server_that_is_gone_does_not_answer(opened: Opened, served: Served) -> None:
    server = served(saying("x"))
    page = opened(server.url, faulty=True)
    page.wait_for_selector("#phase[data-kind=good]")
    server.stop()
    page.wait_for_selector("#notice:has-text('The server does not answer. Trying again.')")
