"""Pictures on the real engine: a tiny random model of each family that is known to work.

Two families in CI; `make test-vlm` has all.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench import vision
from tests.live.conftest import LiveServer
from tests.support import hostile_pictures, sse, standstill
from tests.support.machine import allowed
from tests.support.pictures import encoded

pytestmark = pytest.mark.live
PATH = "/v1/chat/completions"
MARKERS = {
    "qwen2_5_vl": ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"],
    "qwen3_vl": ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"],
    "gemma3": ["<image_soft_token>", "<start_of_image>", "<end_of_image>"],
    "pixtral": ["[IMG]"],
    "idefics3": ["<image>"],
}
TOKENS = {"qwen2_5_vl": 16, "qwen3_vl": 16, "gemma3": 4, "pixtral": 72, "idefics3": 4}
"""Of a picture of 112 pixels, which is what `usage` tells."""
IN_CI = ("qwen2_5_vl", "gemma3")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(family, marks=() if family in IN_CI else pytest.mark.rare)
        for family in vision.FAMILIES
    ],
)
def seeing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Seeing]:
    model = vision.find(request.param)
    server = LiveServer(
        tmp_path_factory.mktemp("vision"), "--model-path", str(model), model=None,
        ADMIN_API_KEY="admin",
    )  # fmt: skip
    try:
        yield Seeing(request.param, server.ready())
    finally:
        server.stop()


class Seeing:
    def __init__(self, family: str, server: LiveServer) -> None:
        self.family, self.server = family, server

    def ask(self, *content: Any, **fields: Any) -> Any:
        body = {
            "messages": [{"role": "user", "content": list(content)}], "max_tokens": 6,
            "temperature": 0, "logprobs": True, **fields,
        }  # fmt: skip
        return self.server.http.post(PATH, json=body)

    def answer(self, *content: Any, **fields: Any) -> Any:
        answered = self.ask(*content, **fields)
        assert answered.status_code == 200, answered.text
        return answered.json()

    def flush(self) -> None:
        flushed = self.server.http.post(
            "/flush_cache", headers={"authorization": "Bearer admin"}, params={"timeout": 20}
        )
        assert flushed.status_code == 200, flushed.text


def text(said: str = "What is it?") -> dict[str, Any]:
    return {"type": "text", "text": said}


def picture(colour: str = "red", size: tuple[int, int] = (112, 112), **more: Any) -> dict[str, Any]:
    data = base64.b64encode(encoded(Image.new("RGB", size, colour))).decode()
    url = f"data:image/png;base64,{data}"
    return {"type": "image_url", "image_url": {"url": url, **more}}


def scores(answer: Any) -> list[float]:
    return [round(token["logprob"], 3) for token in answer["choices"][0]["logprobs"]["content"]]


def segments() -> list[str]:
    return [name for name in os.listdir("/dev/shm") if name.startswith("sgl_shm_mm")]


def test_a_picture_is_seen_and_has_its_tokens(seeing: Seeing) -> None:
    alone = seeing.answer(text())
    red, blue = (seeing.answer(picture(colour), text()) for colour in ("red", "blue"))
    assert scores(red) != scores(blue)
    counted = red["usage"]["prompt_tokens"] - alone["usage"]["prompt_tokens"]
    around = {"qwen2_5_vl": 2, "qwen3_vl": 2, "gemma3": 6, "idefics3": 3}.get(seeing.family, 0)
    assert counted == TOKENS[seeing.family] + around
    assert blue["usage"] == red["usage"]
    again = seeing.answer(text())
    assert scores(again) == scores(alone)


def test_the_same_picture_is_found_in_the_cache_and_another_is_not(seeing: Seeing) -> None:
    if seeing.family == "idefics3":
        pytest.skip("the Transformers backend has no prefix cache")
    first = seeing.answer(picture("green"), text())
    again = seeing.answer(picture("green"), text())
    assert scores(again) == scores(first)
    cached = again["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached >= again["usage"]["prompt_tokens"] - 1
    other = seeing.answer(picture("yellow"), text())
    usage = other["usage"]
    before_it = usage["prompt_tokens"] - TOKENS[seeing.family]
    assert usage["prompt_tokens_details"]["cached_tokens"] < before_it


def test_pictures_of_swapped_sides_are_not_taken_for_each_other(seeing: Seeing) -> None:
    """SGLang's own identities are of the features' bytes, which are equal here."""
    wide, tall = (picture("grey", size) for size in ((224, 112), (112, 224)))
    alone = seeing.answer(tall, text())
    seeing.flush()
    seeing.answer(wide, text())
    after = seeing.answer(tall, text())
    assert scores(after) == scores(alone)


def test_the_order_of_pictures_counts(seeing: Seeing) -> None:
    orders = [("red", "blue"), ("blue", "red"), ("red", "red")]
    seen = [
        scores(seeing.answer(*map(picture, order), text("Which is which?"))) for order in orders
    ]
    assert len({tuple(each) for each in seen}) == 3


def test_a_stream_and_several_choices_are_as_the_whole_answer(seeing: Seeing) -> None:
    whole = seeing.answer(picture("cyan"), text(), n=3)
    answers = [choice["message"]["content"] for choice in whole["choices"]]
    assert len(set(answers)) == 1
    streamed = seeing.ask(
        picture("cyan"), text(), stream=True, stream_options={"include_usage": True}
    )
    *frames, usage, done = sse.frames(streamed.text)
    assert done == "[DONE]"
    said = "".join(frame["choices"][0]["delta"].get("content") or "" for frame in frames)
    assert said == answers[0]
    assert usage["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]
    assert segments() == []


def test_at_once_each_is_answered_as_alone(seeing: Seeing) -> None:
    asked = [(text(f"Number {no}"),) for no in range(4)]
    asked += [(picture(colour), text()) for colour in ("red", "blue", "white", "black")]  # type: ignore[list-item,misc]
    alone = [seeing.answer(*each)["choices"][0]["message"]["content"] for each in asked]
    with ThreadPoolExecutor(8) as pool:
        together = [*pool.map(lambda each: seeing.answer(*each), asked)]
    assert [each["choices"][0]["message"]["content"] for each in together] == alone


def test_each_special_token_beside_a_picture_is_text_or_refused(seeing: Seeing) -> None:
    """Some of them would end the scheduler, or never return."""
    config = json.loads((vision.find(seeing.family) / "tokenizer.json").read_text())
    special = [token["content"] for token in config["added_tokens"]] + ["<image>"]
    refused = set()
    for token in special:
        halves = text(token[:3]), text(token[3:])
        for content in (
            (picture(), text(token)), (text(token), picture()), (picture(), text(f"a {token} b")),
            (picture(), *halves), (*halves, picture()),
        ):  # fmt: skip
            answer = seeing.ask(*content, max_tokens=1)
            assert answer.status_code in (200, 400), answer.text
            if answer.status_code == 400:
                refused.add(token)
        assert seeing.ask(text(token), max_tokens=1).status_code == 200
    assert refused >= set(MARKERS[seeing.family])
    seeing.answer(picture(), text())


@pytest.mark.parametrize(
    ("size", "colour"), [((1, 1), "red"), ((1, 300), "red"), ((5000, 30), "red"), ((4, 4), "red")]
)
def test_odd_pictures_harm_nothing(seeing: Seeing, size: tuple[int, int], colour: str) -> None:
    answer = seeing.ask(picture(colour, size), text())
    assert answer.status_code in ((200, 400) if size == (4, 4) else (400,)), answer.text
    seeing.answer(text())


def test_no_hostile_picture_reaches_the_engine(seeing: Seeing) -> None:
    for name, (made, code) in hostile_pictures.refused().items():
        if len(data := made()) < 2**20:
            url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
            answer = seeing.ask({"type": "image_url", "image_url": {"url": url}}, text())
            assert answer.status_code == 400, name
            told = answer.json()["error"]
            assert told["param"] == "messages[0].content[0].image_url.url", name
            assert told["code"] in (code, "invalid_base64" if not data else code), name
    seeing.answer(picture(), text())


def test_little_detail_costs_fewer_tokens(seeing: Seeing) -> None:
    usages = [
        seeing.answer(picture("red", (2000, 1500), detail=detail), text())["usage"]
        for detail in ("low", "high")
    ]
    low, high = (usage["prompt_tokens"] for usage in usages)
    assert low <= high


def test_too_many_pictures_for_the_context_are_refused_before_the_engine(seeing: Seeing) -> None:
    answer = seeing.ask(
        *[picture("red", (600, 600 + no)) for no in range(16)], text("x " * 1960), max_tokens=1
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_pictures_in_responses_and_messages_are_the_same_pictures(seeing: Seeing) -> None:
    red = picture()["image_url"]["url"]
    chat = seeing.answer(picture(), text(), max_tokens=4)
    http = seeing.server.http
    body = {"model": "default", "max_output_tokens": 4, "temperature": 0, "input": [
        {"role": "user", "content": [{"type": "input_image", "image_url": red},
                                     {"type": "input_text", "text": "What is it?"}]}]}  # fmt: skip
    response = http.post("/v1/responses", json=body).json()
    assert response["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]
    data = red.partition(",")[2]
    source = {"type": "base64", "media_type": "image/png", "data": data}
    message = http.post(
        "/v1/messages",
        json={"model": "default", "max_tokens": 4, "temperature": 0, "messages": [
            {"role": "user", "content": [{"type": "image", "source": source}, text()]}]},
    ).json()  # fmt: skip
    usage = message["usage"]
    assert (
        usage["input_tokens"] + usage["cache_read_input_tokens"] == (chat["usage"]["prompt_tokens"])
    )
    said = chat["choices"][0]["message"]["content"]
    assert message["content"][0]["text"] == said
    assert response["output"][-1]["content"][0]["text"] == said
    follows = {"model": "default", "max_output_tokens": 4, "input": "And now?",
               "previous_response_id": response["id"]}  # fmt: skip
    more = http.post("/v1/responses", json=follows).json()
    assert more["usage"]["input_tokens"] > response["usage"]["input_tokens"]


def test_nothing_is_left_in_shared_memory_and_the_cache_can_be_emptied(seeing: Seeing) -> None:
    seeing.flush()
    assert segments() == []
    assert Path("/dev/shm").is_dir()


@pytest.mark.rare
def test_four_pictures_of_three_megapixels_do_not_hold_the_event_loop(seeing: Seeing) -> None:
    noise = Image.effect_noise((2000, 1500), 60).convert("RGB")
    bodies = [
        base64.b64encode(encoded(noise.rotate(90 * no), "JPEG", quality=90)).decode()
        for no in range(4)
    ]
    pictures = [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{each}"}}
        for each in bodies
    ]
    asked = seeing.ask(*pictures, text(), max_tokens=1)  # what is done once
    assert asked.status_code in (200, 400), asked.text
    quiet = max(standstill.longest(seeing.server, lambda: time.sleep(1)) for _ in range(3))
    gaps = []
    for _ in range(5):
        seeing.flush()
        gaps.append(
            standstill.longest(seeing.server, lambda: seeing.ask(*pictures, text(), max_tokens=1))
        )
    megabytes = sum(map(len, bodies)) / 2**20
    print(
        f"{seeing.family}: {megabytes:.1f} MB of base64, status {asked.status_code}; longest gap "
        f"quiet {quiet * 1e3:.0f} ms, with pictures {[round(gap * 1e3) for gap in gaps]} ms"
    )
    assert sorted(gaps)[2] < quiet + allowed(0.05)
