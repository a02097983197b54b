"""Pictures in chat completions, on an engine that takes them: each has its tokens and its place."""

from __future__ import annotations

import base64
import re
from typing import Any

import httpx
import pytest
from PIL import Image

from app.engine.scripted import PICTURE
from tests.support.pictures import BLACK, RED, encoded
from tests.support.scripted import ScriptedEngine
from tests.support.serving import Running, serve

PATH = "/v1/chat/completions"


def url(size: tuple[int, int] = (56, 56), colour: tuple[int, int, int] = RED) -> str:
    data = encoded(Image.new("RGB", size, colour))
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def image(source: str | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": source or url(), **more}}


def seeing(*steps: Any, **info: Any) -> ScriptedEngine:
    return ScriptedEngine(*(steps or ("x",)), takes_pictures=True, **info)


async def ask(running: Running, *content: Any, **fields: Any) -> httpx.Response:
    messages = [{"role": "user", "content": list(content)}]
    return await running.client.post(PATH, json={"messages": messages, **fields})


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


async def test_pictures_are_seen_in_their_places_and_count_as_tokens() -> None:
    async with serve(seeing("a", "b")) as running:
        answer = await ask(
            running, {"type": "text", "text": "one"}, image(), {"type": "text", "text": "two"},
            image(url((112, 56), BLACK)),
        )  # fmt: skip
        assert answer.status_code == 200
        prompt = running.engine.decode(running.engine.calls[0][0])
        assert prompt == "one" + 4 * PICTURE + "two" + 8 * PICTURE
        usage = answer.json()["usage"]
        assert usage["prompt_tokens"] == 3 + 4 + 3 + 8
        assert usage["prompt_tokens_details"] == {"cached_tokens": 0, "image_tokens": 12}
        metrics = (await running.client.get("/metrics")).text
        assert "serve_picture_tokens_total" in metrics
        seen = running.engine.inputs[0]
        assert [(each.width, each.height, each.pixels[:3]) for each in seen] == [
            (56, 56, bytes(RED)), (112, 56, bytes(BLACK)),
        ]  # fmt: skip


async def test_a_stream_and_several_choices_see_the_same() -> None:
    async with serve(seeing("a")) as running:
        whole = (await ask(running, image(), n=3)).json()
        assert len(whole["choices"]) == 3
        stream = await ask(
            running, image(), stream=True, stream_options={"include_usage": True}, n=3
        )
        assert f'"prompt_tokens":{whole["usage"]["prompt_tokens"]}' in stream.text


async def test_the_url_may_stand_alone_and_detail_makes_a_picture_smaller() -> None:
    async with serve(seeing()) as running:
        alone = await ask(running, {"type": "image_url", "image_url": url((1024, 512))})
        high = await ask(running, image(url((1024, 512)), detail="high"))
        low = await ask(running, image(url((1024, 512)), detail="low"))
        tokens = [each.json()["usage"]["prompt_tokens"] for each in (alone, high, low)]
        assert tokens == [668, 668, 167]
        assert refusal(await ask(running, image(detail="ultra"))) == (
            400, "invalid_value", "messages[0].content[0].image_url.detail",
        )  # fmt: skip


async def test_a_tools_result_may_have_pictures_and_other_roles_may_not() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    async with serve(seeing()) as running:
        messages: list[Any] = [
            {"role": "user", "content": "look"},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": [image()]},
        ]
        answer = await running.client.post(PATH, json={"messages": messages})
        assert answer.status_code == 200
        assert running.engine.decode(running.engine.calls[0][0]) == "look" + 4 * PICTURE
        for role in ("system", "assistant"):
            body = {"messages": [{"role": role, "content": [image()]}, messages[0]]}
            refused = await running.client.post(PATH, json=body)
            assert refusal(refused)[::2] == (400, "messages[0].content[0].image_url.url")


async def test_a_model_of_text_alone_takes_none() -> None:
    async with serve(ScriptedEngine("x")) as running:
        answer = await ask(running, {"type": "text", "text": "x"}, image())
        assert refusal(answer) == (
            400, "unsupported_parameter", "messages[0].content[1].image_url.url",
        )  # fmt: skip


URL = "messages[0].content[0].image_url.url"


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("file:///etc/hostname", "invalid_image_url"),
        ("/etc/hostname", "invalid_image_url"),
        ("https://example.com/a.png", "invalid_image_url"),
        ("data:text/plain;base64,eA==", "invalid_image_url"),
        ("data:image/png,x", "invalid_base64"),
        ("data:image/png;base64", "invalid_base64"),
        ("data:image/png;base64,", "invalid_image_format"),
        ("data:image/png;base64,!!", "invalid_base64"),
        ("data:image/png;base64,eA", "invalid_base64"),
        ("data:image/png;base64,eA==", "invalid_image_format"),
        (url((1, 1)), "image_too_small"),
        (url((300, 4)), "invalid_image_size"),
        (url((5000, 5000)), "image_too_large"),
        ("data:image/png;base64," + "A" * 40_000, "image_too_large"),
    ],
)
async def test_what_is_no_picture_is_refused_by_its_field(source: str, code: str) -> None:
    async with serve(seeing(), MEDIA_MAX_BYTES="28000") as running:
        answer = await ask(running, image(source))
        assert refusal(answer) == (400, code, URL)
        assert not any(each in answer.text for each in ("0x", "<_io", "/etc", "Traceback"))
        assert running.engine.calls == []


async def test_other_parts_are_refused_by_their_place() -> None:
    async with serve(seeing()) as running:
        for kind in ("video_url", "input_audio", "audio_url", "image_embeds"):
            answer = await ask(running, {"type": kind, kind: {"url": "x"}})
            assert refusal(answer) == (400, "unsupported_parameter", "messages[0].content[0]")
        for wrong in ({}, {"image_url": None}, {"image_url": {}}, {"image_url": {"url": ""}}):
            answer = await ask(running, {"type": "image_url", **wrong})
            assert answer.status_code == 400


async def test_blanks_inside_base64_are_taken() -> None:
    async with serve(seeing()) as running:
        broken = "\n".join([url()[:100], url()[100:]])
        assert (await ask(running, image(broken))).status_code == 200


async def test_pictures_are_bounded_in_number() -> None:
    async with serve(seeing(), MEDIA_MAX_IMAGES="2") as running:
        assert (await ask(running, image(), image())).status_code == 200
        answer = await ask(running, image(), image(), image())
        assert refusal(answer) == (400, "array_above_max_length", "messages")
        assert "MEDIA_MAX_IMAGES" in answer.json()["error"]["message"]


async def test_pictures_that_do_not_fit_into_the_context_are_not_decoded() -> None:
    async with serve(seeing()) as running:
        cut_off = encoded(Image.effect_noise((2000, 1000), 50))[:5000]
        source = f"data:image/png;base64,{base64.b64encode(cut_off).decode()}"
        answer = await ask(running, image(source))
        assert refusal(answer) == (400, "context_length_exceeded", "messages")
        assert "2551 tokens" in answer.json()["error"]["message"]


async def test_the_models_own_markers_are_refused_beside_pictures_alone() -> None:
    engine = seeing(
        picture_marker=PICTURE,
        picture_pattern=re.compile(f"{PICTURE}(?:<end>)?"),
        picture_markers=("<image_pad>", "<end>", PICTURE),
    )
    async with serve(engine) as running:
        marked = {"type": "text", "text": "say <image_pad>"}
        assert (await ask(running, marked)).status_code == 200
        assert refusal(await ask(running, marked, image())) == (400, "invalid_value", "messages")
        halves = [{"type": "text", "text": half} for half in ("<image_", "pad>")]
        assert refusal(await ask(running, *halves, image())) == (400, "invalid_value", "messages")
        filled = {"type": "text", "text": "<end>"}  # which the processor takes for the marker's
        assert refusal(await ask(running, image(), filled)) == (400, "invalid_value", "messages")
        filled = {"type": "text", "text": "<end>"}  # which the engine takes for the marker's own
        assert refusal(await ask(running, image(), filled)) == (400, "invalid_value", "messages")
        own = {"type": "text", "text": PICTURE}
        assert (await ask(running, own, image())).status_code == 400
        assert (await ask(running, image())).status_code == 200


async def test_the_same_picture_is_decoded_once() -> None:
    async with serve(seeing()) as running:
        answer = await ask(running, *[image()] * 5)
        assert answer.json()["usage"]["prompt_tokens"] == 20
        first, *others = running.engine.inputs[0]
        assert all(each is first for each in others)


async def test_past_the_room_for_pixels_a_request_waits_for_another() -> None:
    import asyncio

    async with serve(seeing(), MEDIA_MAX_PIXELS_IN_FLIGHT="6000") as running:
        answers = await asyncio.gather(*[ask(running, image(url((70, 70)))) for _ in range(6)])
        assert [each.status_code for each in answers] == [200] * 6
        large = await ask(running, image(url((500, 300))))
        assert large.status_code == 200


async def test_tokens_of_a_conversation_with_pictures_are_counted() -> None:
    async with serve(seeing()) as running:
        messages = [{"role": "user", "content": [image(), {"type": "text", "text": "x"}]}]
        answer = await running.client.post("/tokenize", json={"messages": messages})
        assert answer.json()["count"] == 5
