"""The chat, in Chromium."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from app.types import Picture, Text
from tests.page.server import CALL, SAID, Answers, Background, said, saying, until
from tests.support.scripted import ScriptedEngine

Opened = Callable[..., Any]
Served = Callable[..., Background]
ANSWER = ".message.assistant:last-of-type"


def ask(page: Any, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")


def answered(page: Any, text: str) -> None:
    page.wait_for_selector(f"{ANSWER}:not(.streaming) > .body:has-text({json.dumps(text)})")


def test_a_question_is_answered_and_the_next_one_has_both_before_it(
    opened: Opened, served: Served
) -> None:
    engine = saying("Hello", " there")
    page = opened(served(engine).url)
    ask(page, "one")
    answered(page, "Hello there")
    ask(page, "two")
    until(page, "document.querySelectorAll('.message.assistant .foot').length === 2")
    answered(page, "Hello there")
    turns = ["".join(part.text for part in turn.parts) for turn in engine.chats[-1].messages]
    assert turns == ["one", "Hello there", "two"]
    assert "2 tokens" in page.inner_text(f"{ANSWER} .foot")


def test_an_answer_is_shown_while_it_is_written_and_escape_stops_it(
    opened: Opened, served: Served
) -> None:
    engine = saying("begun ", asyncio.Event(), "never")
    server = served(engine)
    page = opened(server.url)
    ask(page, "go")
    page.wait_for_selector(f"{ANSWER}.streaming > .body:has-text('begun')")
    page.keyboard.press("Escape")
    page.wait_for_selector(f"{ANSWER}:not(.streaming) .foot:has-text('stopped')")
    until(page, "document.activeElement.id === 'text'")
    while server.running.gate.in_flight:
        page.wait_for_timeout(10)
    assert engine.aborted == 1


def test_the_conversation_survives_a_reload_in_the_middle_of_an_answer(
    opened: Opened, served: Served
) -> None:
    engine = Answers(lambda prompt: ["half ", asyncio.Event()] if prompt == "go" else ["whole"])
    page = opened(served(engine).url)
    page.fill("[name=system]", "Be short.")
    ask(page, "first")
    page.wait_for_selector(f"{ANSWER}:not(.streaming) .foot")
    page.fill("[name=system]", "")
    page.click("#new-chat")
    ask(page, "go")
    page.wait_for_selector(f"{ANSWER}.streaming > .body:has-text('half')")
    page.reload()
    page.wait_for_selector(f"{ANSWER}:not(.streaming) .foot:has-text('stopped')")
    assert page.inner_text(f"{ANSWER} > .body").strip() == "half"
    ask(page, "?")
    answered(page, "whole")
    assert [turn.role for turn in engine.chats[0].messages] == ["system", "user"]
    assert [turn.role for turn in engine.chats[-1].messages] == ["user", "assistant", "user"]


def test_a_message_is_edited_and_an_answer_tried_again(opened: Opened, served: Served) -> None:
    engine = Answers(lambda prompt: [f"to {prompt[-3:]}, number {len(engine.calls)}"])
    page = opened(served(engine).url)
    ask(page, "one")
    answered(page, "to one, number 1")
    page.click(f"{ANSWER} button:has-text('Try again')")
    answered(page, "to one, number 2")
    page.click(".message.user button:has-text('Edit')")
    page.fill(".message.user textarea", "two")
    page.press(".message.user textarea", "Enter")
    answered(page, "to two, number 3")
    assert page.locator(".message").count() == 2
    page.click(".message.user button:has-text('Edit')")
    page.press(".message.user textarea", "Escape")
    assert page.inner_text(".message.user .body") == "two"


def test_an_edit_is_not_sent_into_an_answer_and_is_not_lost(opened: Opened, served: Served) -> None:
    engine = Answers(lambda prompt: ["half ", asyncio.Event()] if prompt.endswith("go") else ["x"])
    page = opened(served(engine).url)
    ask(page, "one")
    answered(page, "x")
    page.click(".message.user button:has-text('Edit')")
    page.fill(".message.user textarea", "two")
    ask(page, "go")
    page.wait_for_selector(f"{ANSWER}.streaming > .body:has-text('half')")
    page.press(".message.user textarea", "Enter")
    assert page.input_value(".message.user textarea") == "two"
    assert page.locator(".message").count() == 4
    page.click("#stop")
    page.wait_for_selector(f"{ANSWER}:not(.streaming)")
    page.press(".message.user textarea", "Enter")
    answered(page, "x")
    assert page.locator(".message").count() == 2
    assert len(engine.calls) == 3


def test_enter_during_an_answer_says_once_that_the_model_still_answers(
    opened: Opened, served: Served
) -> None:
    page = opened(served(saying("half ", asyncio.Event())).url)
    ask(page, "go")
    page.wait_for_selector(f"{ANSWER}.streaming > .body:has-text('half')")
    page.evaluate(
        """() => {
          window.changes = 0;
          const seen = new MutationObserver((all) => (window.changes += all.length));
          seen.observe(document.querySelector("#said"), { childList: true, characterData: true });
        }"""
    )
    for _ in range(3):
        ask(page, "and then")
    assert said(page) == "The model still answers."
    assert page.input_value("#text") == "and then"
    assert page.evaluate("window.changes") == 1
    page.click("#stop")
    page.wait_for_selector(f"{ANSWER}:not(.streaming)")
    assert said(page) == ""


def test_enter_on_a_server_that_is_not_ready_says_so(opened: Opened, served: Served) -> None:
    page = opened(served(None, ready=False).url)
    page.wait_for_selector("#phase[data-kind=busy]")
    ask(page, "go")
    assert said(page).startswith("The model is not ready")
    assert page.input_value("#text") == "go"


def test_an_answer_begins_right_below_its_question_and_nothing_moves_at_its_end(
    opened: Opened, served: Served
) -> None:
    def top(selector: str) -> float:
        at: float = page.locator(selector).first.bounding_box()["y"]
        return at

    page = opened(served(saying("half ", asyncio.Event())).url)
    ask(page, "go")
    page.wait_for_selector(f"{ANSWER}.streaming > .body:has-text('half')")
    began = top(f"{ANSWER} > .body")
    copy = page.locator(".message.user .actions button", has_text="Copy")
    assert copy.is_visible()
    assert copy.is_enabled()
    assert page.is_disabled(".message.user button:has-text('Edit')")
    page.click("#stop")
    page.wait_for_selector(f"{ANSWER}:not(.streaming)")
    assert top(f"{ANSWER} > .body") == began
    assert page.is_enabled(".message.user button:has-text('Edit')")


def test_thinking_is_folded_and_not_sent_back(opened: Opened, served: Served) -> None:
    engine = saying("<think>", "hm, ", "hm", "</think>", "Yes.")
    page = opened(served(engine).url)
    ask(page, "sure?")
    answered(page, "Yes.")
    assert not page.is_visible(".thought")
    page.click(".fold summary")
    assert page.inner_text(".thought").strip() == "hm, hm"
    ask(page, "really?")
    until(page, "document.querySelectorAll('.message.assistant .foot').length === 2")
    parts = [part for turn in engine.chats[-1].messages for part in turn.parts]
    assert not any("hm" in part.text for part in parts if isinstance(part, Text))


def test_a_call_of_a_tool_is_shown_and_its_result_sent(opened: Opened, served: Served) -> None:
    engine = Answers(lambda prompt: ["It rains."] if "rain" in prompt else [CALL])
    page = opened(served(engine).url, viewport={"width": 1300, "height": 900})
    page.fill("[name=tools]", "[{")
    assert "no JSON" in page.inner_text("#tools-fault")
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
    page.fill("[name=tools]", json.dumps([tool]))
    assert page.inner_text("#tools-fault") == ""
    ask(page, "weather?")
    page.wait_for_selector(".calls .code:has-text('Oslo')")
    assert "get_weather" in page.inner_text(".calls")
    page.reload()
    page.fill(".results textarea", "rain")
    page.click("button:has-text('Send results')")
    answered(page, "It rains.")
    roles = [turn.role for turn in engine.chats[-1].messages]
    assert roles == ["user", "assistant", "tool"]


def test_a_call_whose_result_nobody_gave_is_not_sent_back(opened: Opened, served: Served) -> None:
    engine = Answers(lambda prompt: ["Fine."] if "never mind" in prompt else [CALL])
    page = opened(served(engine).url)
    page.fill("[name=tools]", '[{"type": "function", "function": {"name": "get_weather"}}]')
    ask(page, "weather?")
    page.wait_for_selector(".results")
    ask(page, "never mind")
    answered(page, "Fine.")
    assert not page.locator(".results").count()
    assert [turn.role for turn in engine.chats[-1].messages] == ["user", "user"]


def test_the_options_reach_the_engine_and_an_empty_one_is_left_out(
    opened: Opened, served: Served
) -> None:
    engine = saying("x")
    page = opened(served(engine).url, viewport={"width": 1300, "height": 900})
    page.fill("[name=temperature]", "0.25")
    page.fill("[name=max_tokens]", "7")
    page.fill("[name=seed]", "11")
    ask(page, "go")
    answered(page, "x")
    _, sampling, _, _ = engine.calls[0]
    assert (sampling.temperature, sampling.max_tokens, sampling.seed) == (0.25, 7, 11)
    page.click(f"{ANSWER} button:has-text('Its request')")
    shown = page.inner_text("#as-curl pre")
    assert '"temperature": 0.25' in shown
    assert "top_p" not in shown


PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAIAAAD8GO2jAAAAKElEQVR4nO3NsQ0AAAzCMP5/"
    "un0CNkuZ41wybXsHAAAAAAAAAAAAxR4yw/wuPL6QkAAAAABJRU5ErkJggg=="
)


def test_a_picture_is_sent_to_a_model_that_takes_them(opened: Opened, served: Served) -> None:
    import base64

    engine = saying("A square.", takes_pictures=True, picture_marker="\ufffc")
    page = opened(served(engine).url)
    page.wait_for_selector("#attach:not([hidden])")
    png = base64.b64decode(PIXEL.partition(",")[2])
    file = {"name": "a.png", "mimeType": "image/png", "buffer": png}
    page.set_input_files("#file", files=[file])
    page.wait_for_selector("#attached img")
    ask(page, "what is it?")
    answered(page, "A square.")
    parts = engine.chats[0].messages[0].parts
    assert [type(part) for part in parts] == [Picture, Text]
    assert page.locator(".message.user .pictures img").count() == 1


def test_a_file_that_is_no_picture_is_named_to_all(opened: Opened, served: Served) -> None:
    page = opened(served(saying("x", takes_pictures=True, picture_marker="\ufffc")).url)
    page.wait_for_selector("#attach:not([hidden])")
    file = {"name": "odd.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.set_input_files("#file", files=[file])
    page.wait_for_selector(f"{SAID}:has-text('odd.png is no picture')")


def test_a_model_without_pictures_offers_none(opened: Opened, served: Served) -> None:
    page = opened(served(saying("x")).url)
    page.wait_for_selector("#phase[data-kind=good]")
    assert not page.is_visible("#attach")


def test_an_error_is_said_and_the_question_can_be_asked_again(
    opened: Opened, served: Served
) -> None:
    from app.errors import InvalidRequest

    faults = [InvalidRequest("The question is too odd.")]
    engine = Answers(lambda _: [faults.pop()] if faults else ["fine"])
    page = opened(served(engine).url)
    ask(page, "odd")
    page.wait_for_selector(f"{ANSWER} .fault:has-text('The question is too odd.')")
    page.click(f"{ANSWER} button:has-text('Try again')")
    answered(page, "fine")


def test_a_lost_connection_is_said(opened: Opened, served: Served) -> None:
    server = served(saying("begun ", asyncio.Event()))
    page = opened(server.url)
    ask(page, "go")
    page.wait_for_selector(f"{ANSWER}.streaming > .body:has-text('begun')")
    server.stop()
    page.wait_for_selector(f"{ANSWER} .fault:not([hidden])")
    page.wait_for_selector("#phase:has-text('no connection')")
    assert "no connection" in page.get_attribute("#text", "placeholder").lower()


def test_everything_is_done_by_keyboard(opened: Opened, served: Served) -> None:
    page = opened(served(saying("fine")).url)
    page.wait_for_selector("#phase[data-kind=good]")
    seen = []
    page.evaluate("document.querySelector('.skip').focus()")
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "(document.activeElement.id || document.activeElement.name ||"
                " document.activeElement.textContent)"
            )
        )
        visible = "getComputedStyle(document.activeElement).outlineStyle !== 'none'"
        assert page.evaluate(visible) or seen[-1] in ("file", "main"), seen[-1]
        if seen[-1] == "text":
            break
    assert {"to-chat", "to-state", "text"} <= set(seen)
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    answered(page, "fine")
    assert page.inner_text(".message.user .body") == "one\ntwo"


def test_a_model_that_makes_vectors_takes_no_questions(opened: Opened, served: Served) -> None:
    page = opened(served(ScriptedEngine(embedding_size=4, dimensions=())).url)
    page.wait_for_selector("#phase[data-kind=good]")
    assert page.is_disabled("#send")
    assert "writes no text" in page.get_attribute("#text", "placeholder")
