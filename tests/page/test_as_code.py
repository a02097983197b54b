"""The chat's requests as curl and as Python: which of them the page shows, in Chromium."""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Callable
from typing import Any

from tests.page.server import CALL, Answers, Background, saying

Opened = Callable[..., Any]
Served = Callable[..., Background]
ANSWER = ".message.assistant:last-of-type"


def ask(page: Any, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")
    page.wait_for_selector(f"{ANSWER}:not(.streaming) .foot")


def shown(page: Any, button: str = "#show-request") -> dict[str, Any]:
    """The body of the request that a button shows."""
    page.click(button)
    command = shlex.split(page.evaluate("document.querySelector('#as-curl code').textContent"))
    page.click("#close-request")
    body: dict[str, Any] = json.loads(command[command.index("-d") + 1])
    return body


def roles(body: dict[str, Any]) -> list[str]:
    return [each["role"] for each in body["messages"]]


def test_the_request_as_curl_and_as_python_is_right(opened: Opened, served: Served) -> None:
    page = opened(served(saying("x"), SERVED_MODEL_NAME="tiny").url)
    page.wait_for_selector("#phase[data-kind=good]")
    text = 'it\'s "quoted" \\ and $HOME `x` 🌦 \u2028 end\nline'
    page.fill("#text", text)
    body = shown(page)
    assert body["messages"] == [{"role": "user", "content": text}]
    tree = ast.parse(page.evaluate("document.querySelector('#as-python code').textContent"))
    (create,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".create")
    )
    fields = {each.arg: ast.literal_eval(each.value) for each in create.keywords}
    assert fields == {"model": "tiny", "messages": body["messages"], "stream": True}


def test_with_an_empty_field_the_request_is_the_last_one_that_was_sent(
    opened: Opened, served: Served
) -> None:
    page = opened(served(saying("fine")).url)
    ask(page, "one")
    assert roles(shown(page)) == ["user"]
    ask(page, "two")
    assert roles(shown(page)) == ["user", "assistant", "user"]
    assert "last request" in page.text_content("#request-title")
    page.fill("#text", "three")
    assert shown(page)["messages"][-1] == {"role": "user", "content": "three"}
    assert "message" in page.text_content("#request-title")


def test_the_last_request_of_a_call_without_a_result_ends_with_the_question(
    opened: Opened, served: Served
) -> None:
    page = opened(served(Answers(lambda _: [CALL])).url, viewport={"width": 1300, "height": 900})
    page.fill("[name=tools]", '[{"type": "function", "function": {"name": "get_weather"}}]')
    ask(page, "weather?")
    page.wait_for_selector(".results")
    assert roles(shown(page)) == ["user"]


def test_a_request_that_was_sent_is_shown_with_the_options_that_it_had(
    opened: Opened, served: Served
) -> None:
    page = opened(served(saying("x")).url, viewport={"width": 1300, "height": 900})
    page.fill("[name=temperature]", "0.25")
    ask(page, "one")
    page.fill("[name=temperature]", "0.75")
    page.fill("[name=system]", "Be short.")
    for button in ("#show-request", f"{ANSWER} button:has-text('Its request')"):
        body = shown(page, button)
        assert (body["temperature"], roles(body)) == (0.25, ["user"])
    page.fill("#text", "two")
    assert shown(page)["temperature"] == 0.75


def test_a_picture_without_a_word_is_a_message_of_its_own(opened: Opened, served: Served) -> None:
    import base64

    from tests.page.test_chat import PIXEL

    engine = saying("A square.", takes_pictures=True, picture_marker="\ufffc")
    page = opened(served(engine).url)
    ask(page, "one")
    page.wait_for_selector("#attach:not([hidden])")
    png = base64.b64decode(PIXEL.partition(",")[2])
    page.set_input_files("#file", files=[{"name": "a.png", "mimeType": "image/png", "buffer": png}])
    page.wait_for_selector("#attached img")
    body = shown(page)
    assert roles(body) == ["user", "assistant", "user"]
    kinds = [part["type"] for part in body["messages"][-1]["content"]]
    assert kinds == ["image_url", "text"]
