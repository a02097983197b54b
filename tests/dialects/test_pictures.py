"""Pictures in Responses and Messages: the same pictures as in chat, by their own paths."""

from __future__ import annotations

import re
from typing import Any

import pytest

from app.engine.scripted import PICTURE
from tests.dialects.openai.test_pictures import seeing, url
from tests.support.scripted import ScriptedEngine
from tests.support.serving import Running, serve

INPUT = {"type": "input_image", "image_url": url()}
BLOCK = {"type": "image", "source": {
    "type": "base64", "media_type": "image/png", "data": url().partition(",")[2]}}  # fmt: skip
CALL = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}


def prompt(running: Running) -> str:
    return running.engine.decode(running.engine.calls[-1][0])


async def respond(running: Running, input: Any, **fields: Any) -> Any:
    body = {"model": "default", "input": input, **fields}
    return await running.client.post("/v1/responses", json=body)


async def message(running: Running, *content: Any, **fields: Any) -> Any:
    body = {"model": "default", "max_tokens": 9,
            "messages": [{"role": "user", "content": list(content)}], **fields}  # fmt: skip
    return await running.client.post("/v1/messages", json=body)


async def test_a_response_sees_pictures_of_messages_and_of_results() -> None:
    async with serve(seeing()) as running:
        content = [{"type": "input_text", "text": "a"}, INPUT, {"type": "input_text", "text": "b"}]
        output = {"type": "function_call_output", "call_id": "c", "output": [INPUT]}
        answer = await respond(running, [{"role": "user", "content": content}, CALL, output])
        assert answer.status_code == 200, answer.text
        assert prompt(running) == "a" + 4 * PICTURE + "b" + 4 * PICTURE
        assert answer.json()["usage"]["input_tokens"] == 10
        counted = await running.client.post(
            "/v1/responses/input_tokens",
            json={"model": "default", "input": [{"role": "user", "content": content}]},
        )
        assert counted.json()["input_tokens"] == 6


async def test_a_response_that_goes_on_sees_the_earlier_pictures() -> None:
    async with serve(seeing()) as running:
        first = (await respond(running, [{"role": "user", "content": [INPUT]}])).json()
        second = await respond(running, "more", previous_response_id=first["id"])
        assert second.status_code == 200, second.text
        assert prompt(running) == 4 * PICTURE + "x" + "more"
        items = await running.client.get(f"/v1/responses/{first['id']}/input_items")
        assert items.json()["data"][0]["content"] == [INPUT | {"detail": "auto"}]


@pytest.mark.parametrize(
    ("content", "code", "param"),
    [
        ([{"type": "input_image"}], "missing_required_parameter",
         "input[0].content[0].image_url"),
        ([{"type": "input_image", "file_id": "f"}], "unsupported_parameter",
         "input[0].content[0].file_id"),
        ([{"type": "input_text", "text": "x"}, {**INPUT, "image_url": "file:///x"}],
         "invalid_image_url", "input[0].content[1].image_url"),
        ([{**INPUT, "detail": "ultra"}], "invalid_value", "input[0].content[0].detail"),
    ],
)  # fmt: skip
async def test_a_response_refuses_what_is_no_picture_by_its_path(
    content: Any, code: str, param: str
) -> None:
    async with serve(seeing()) as running:
        error = (await respond(running, [{"role": "user", "content": content}])).json()["error"]
        assert (error["code"], error["param"]) == (code, param)


async def test_an_agents_history_with_pictures_stays_usable_for_a_model_of_text_alone() -> None:
    async with serve(ScriptedEngine("x")) as running:
        output = {"type": "function_call_output", "call_id": "c", "output": [INPUT]}
        answer = await respond(running, [{"role": "user", "content": "look"}, CALL, output])
        assert answer.status_code == 200
        assert prompt(running) == "look[a picture that this model cannot read]"
        refused = await respond(running, [{"role": "user", "content": [INPUT]}])
        assert refused.json()["error"]["param"] == "input[0].content[0].image_url"


async def test_a_message_sees_pictures_of_the_user_and_of_results() -> None:
    async with serve(seeing()) as running:
        answer = await message(running, {"type": "text", "text": "a"}, BLOCK)
        assert answer.status_code == 200, answer.text
        assert prompt(running) == "a" + 4 * PICTURE
        use = {"type": "tool_use", "id": "t", "name": "look", "input": {}}
        result = {"type": "tool_result", "tool_use_id": "t",
                  "content": [{"type": "text", "text": "seen"}, BLOCK]}  # fmt: skip
        turns = [
            {"role": "user", "content": "look"},
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result, {"type": "text", "text": "so?"}]},
        ]
        assert (await message(running, messages=turns)).status_code == 200
        assert prompt(running) == "look" + "seen" + 4 * PICTURE + "so?"
        counted = await running.client.post(
            "/v1/messages/count_tokens", json={"model": "default", "messages": turns}
        )
        assert counted.json()["input_tokens"] == len(prompt(running))


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"type": "image"}, "messages.0.content.1.image.source: Field required"),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png"}},
         "messages.0.content.1.image.source: Field required"),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}},
         "messages.0.content.1.image.source: this server keeps no files"),
        ({"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
         "messages.0.content.1.image: the picture must be a 'data:' URL: this server fetches none "
         "(MEDIA_HOSTS)."),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "eA=="}},
         "messages.0.content.1.image: the picture must be one of PNG, JPEG, WEBP, GIF."),
    ],
)  # fmt: skip
async def test_a_message_refuses_what_is_no_picture_by_the_path_that_claude_code_reads(
    block: Any, said: str
) -> None:
    async with serve(seeing()) as running:
        answer = await message(running, {"type": "text", "text": "a"}, block)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == said


def marked() -> ScriptedEngine:
    return seeing(
        picture_marker=PICTURE,
        picture_pattern=re.compile(PICTURE),
        picture_markers=(PICTURE, "<pad>"),
    )


async def generate(running: Running, text: Any, image_data: Any) -> Any:
    return await running.client.post("/generate", json={"text": text, "image_data": image_data})


async def test_sglangs_own_api_takes_pictures_where_the_text_has_the_models_marker() -> None:
    bare = url().partition(",")[2]
    async with serve(marked()) as running:
        for one in (url(), bare, [url()], [[url()]]):
            assert (await generate(running, f"a{PICTURE}b", one)).status_code == 200
            assert prompt(running) == "a" + 4 * PICTURE + "b"
        several = await generate(
            running, [f"a{PICTURE}", f"{PICTURE}b{PICTURE}"], [url(), [bare, url((112, 56))]]
        )
        assert several.status_code == 200, several.text
        first, second = (running.engine.decode(call[0]) for call in running.engine.calls[-2:])
        assert first == "a" + 4 * PICTURE
        assert second == 4 * PICTURE + "b" + 8 * PICTURE


@pytest.mark.parametrize(
    ("text", "pictures", "param"),
    [
        ("a", url(), "text"),
        (f"a{PICTURE}{PICTURE}", url(), "text"),
        (f"a{PICTURE}<pad>", url(), "text"),
        (f"a{PICTURE}", "file:///etc/passwd", "image_data"),
        (f"a{PICTURE}", "/etc/passwd", "image_data"),
        (f"a{PICTURE}", ["https://example.com/x.png"], "image_data[0]"),
        ([f"a{PICTURE}"], [["x"]], "image_data[0][0]"),
        (f"a{PICTURE}", [url()] * 17, "image_data"),
        (f"a{PICTURE}", {"url": "x"}, "image_data"),
    ],
)
async def test_sglangs_own_api_refuses_what_is_no_picture_or_has_no_place(
    text: Any, pictures: Any, param: str
) -> None:
    async with serve(marked()) as running:
        answer = await generate(running, text, pictures)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
        assert "root:" not in answer.text
