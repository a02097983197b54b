"""The page on a phone, in Chromium."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from app.errors import InvalidRequest
from tests.page.server import Answers, Background, saying
from tests.page.test_chat import ANSWER, ask
from tests.page.test_docs_and_access import violations
from tests.page.test_state import chat

Opened = Callable[..., Any]
Served = Callable[..., Background]
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
}


def is_whole(page: Any, selector: str) -> bool:
    """No part of the text is cut, by its element, the screen, or what lies above it."""
    whole: bool = page.evaluate(
        """(selector) => {
          const seen = document.querySelector(selector);
          const box = seen.getBoundingClientRect();
          const inside = box.left >= 0 && box.right <= innerWidth && box.bottom <= innerHeight;
          const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
          const sides = [
            [box.left + 1, y], [box.right - 1, y], [x, box.top + 1], [x, box.bottom - 1],
          ];
          const above = sides.map(([x, y]) => document.elementFromPoint(x, y));
          return inside && seen.scrollWidth <= seen.clientWidth + 1
            && above.every((each) => seen.contains(each));
        }""",
        selector,
    )
    return whole


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_scrolling_to_the_side(
    opened: Opened, served: Served, scheme: str
) -> None:
    table = "| a | b |\n|---|---|\n" + f"| {'x' * 90} | {'y' * 90} |\n\n```\n{'z' * 300}\n```\n"
    page = opened(
        served(saying(table)).url,
        viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True,
    )  # fmt: skip
    ask(page, "a wide answer with_a_very_long_word_" + "w" * 200)
    page.wait_for_selector(f"{ANSWER}:not(.streaming) table")
    for view in ("chat", "state"):
        page.click(f"#to-{view}")
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, view
    page.click("#to-chat")
    page.wait_for_selector("#send")
    box = page.locator("#send").bounding_box()
    assert box["y"] + box["height"] <= 740
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 21, 24)" if scheme == "dark" else "rgb(251, 251, 249)")


def test_a_phone_shows_the_models_name_and_the_way_to_every_view(
    opened: Opened, served: Served
) -> None:
    page = opened(served(saying("x"), SERVED_MODEL_NAME="SmolLM2-135M-Instruct").url, **PHONE)
    page.wait_for_selector("#glance:has-text('in flight')")
    for selector in ("#model", "#phase", "#glance", "nav"):
        assert is_whole(page, selector), selector
    assert page.locator("header").bounding_box()["height"] < 90


def test_a_model_with_the_longest_name_leaves_room_for_the_phase(
    opened: Opened, served: Served
) -> None:
    page = opened(served(saying("x"), SERVED_MODEL_NAME="m" * 200).url, **PHONE)
    page.wait_for_selector("#phase[data-kind=good]")
    assert is_whole(page, "#phase")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_phone_shows_an_error_with_its_code_and_id(opened: Opened, served: Served) -> None:
    server = served(Answers(lambda _: [InvalidRequest("no", code="an_odd_and_long_code")]))
    page = opened(f"{server.url}#state", **PHONE, faulty=True)
    assert chat(server) == [400]
    page.wait_for_selector("#errors tbody tr")
    page.evaluate("document.querySelector('#errors').scrollIntoView({block: 'center'})")
    for cell in range(1, 6):
        assert is_whole(page, f"#errors tbody td:nth-child({cell})"), cell
    pytest.importorskip("axe_playwright_python")
    assert violations(page) == []


@pytest.mark.parametrize("touch", [True, False])
def test_only_who_has_a_keyboard_is_shown_its_keys(
    opened: Opened, served: Served, touch: bool
) -> None:
    page = opened(served(saying("x")).url, **(PHONE if touch else {}))
    page.wait_for_selector("#starters")
    assert page.is_visible("text=Shift+Enter") is not touch


@pytest.mark.parametrize("size", [(390, 844), (360, 640), (820, 1180)])
def test_options_that_are_open_cut_no_suggestion(
    opened: Opened, served: Served, size: tuple[int, int]
) -> None:
    width, height = size
    viewport = {"width": width, "height": height}
    page = opened(served(saying("x")).url, **{**PHONE, "viewport": viewport})
    page.click("#options summary")
    for no in range(1, 4):
        button = f"#starters button:nth-child({no})"
        assert not page.is_visible(button) or is_whole(page, button), button
    page.click("#options summary")
    assert is_whole(page, "#starters button:first-child")
