"""Files in requests: text is read by the model, pictures are seen, all else is refused by name."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.engine.scripted import PICTURE
from tests.dialects.openai.test_pictures import seeing
from tests.support import pictures
from tests.support.scripted import ScriptedEngine
from tests.support.serving import Running, serve

PDF = b"%PDF-1.7\nnothing"


def data_url(content: bytes, kind: str = "text/plain") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


async def stored(running: Running, content: bytes, name: str = "notes.md") -> str:
    answer = await running.client.post(
        "/v1/files", files={"file": (name, content)}, data={"purpose": "user_data"}
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def chat(running: Running, *parts: Any, role: str = "user") -> httpx.Response:
    body = {"model": "default", "messages": [{"role": role, "content": list(parts)}]}
    return await running.client.post("/v1/chat/completions", json=body)


async def respond(running: Running, *parts: Any, **fields: Any) -> httpx.Response:
    body = {"model": "default", "input": [{"role": "user", "content": list(parts)}], **fields}
    return await running.client.post("/v1/responses", json=body)


async def message(running: Running, source: Any, **fields: Any) -> httpx.Response:
    block = {"type": "document", "source": source, **fields}
    body = {"model": "default", "max_tokens": 9, "messages": [{"role": "user", "content": [block]}]}
    return await running.client.post("/v1/messages", json=body)


def prompt(running: Running) -> str:
    return str(running.engine.decode(running.engine.calls[-1][0]))


def refusal(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


async def test_a_stored_text_is_read_in_chat_and_in_responses(tmp_path: Path) -> None:
    async with serve(ScriptedEngine("x"), FILE_STORAGE_PATH=str(tmp_path)) as running:
        id = await stored(running, b"\xef\xbb\xbf# caf\xc3\xa9")
        shown = '<file name="notes.md">\n# café\n</file>'
        part = {"type": "file", "file": {"file_id": id}}
        answer = await chat(running, {"type": "text", "text": "read: "}, part)
        assert answer.status_code == 200, answer.text
        assert prompt(running) == f"read: {shown}"
        answer = await respond(running, {"type": "input_file", "file_id": id})
        assert answer.status_code == 200, answer.text
        assert prompt(running) == shown
        counted = await running.client.post(
            "/v1/responses/input_tokens",
            json={"model": "default", "input": [
                {"role": "user", "content": [{"type": "input_file", "file_id": id}]}]},
        )  # fmt: skip
        assert counted.json()["input_tokens"] == answer.json()["usage"]["input_tokens"]


async def test_a_long_stored_text_is_read_whole(tmp_path: Path) -> None:
    async with serve(ScriptedEngine("x"), FILE_STORAGE_PATH=str(tmp_path)) as running:
        text = b"0123456789\n" * 30_000
        file = {"file_id": await stored(running, text)}
        answer = await chat(running, {"type": "file", "file": file})
        assert refusal(answer) == (400, "context_length_exceeded", "messages")
        assert "330031 character" in answer.text


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (data_url(b"a,b\n1,2", "text/csv"), "a,b\n1,2"),
        (data_url(b'{"a": 1}', "application/json"), '{"a": 1}'),
        (data_url(b"x = 1", "application/octet-stream"), "x = 1"),
        (base64.b64encode(b"bare").decode(), "bare"),
        (data_url(b""), ""),
    ],
)
async def test_a_text_in_the_request_is_read(data: str, shown: str) -> None:
    async with serve(ScriptedEngine("x")) as running:
        file = {"file_data": data, "filename": "../a\n.csv"}
        assert (await chat(running, {"type": "file", "file": file})).status_code == 200
        assert prompt(running) == f'<file name="a.csv">\n{shown}\n</file>'
        answer = await respond(running, {"type": "input_file", "file_data": data})
        assert answer.status_code == 200
        assert prompt(running) == f"<file>\n{shown}\n</file>"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (PDF, "application/pdf"), (PDF, "text/plain"), (b"\xff\xfe\x00", "text/plain"),
        (b"a\0b", "text/plain"), (b"plain", "image/png"), (b"caf\xe9", "text/plain"),
    ],
)  # fmt: skip
async def test_what_is_no_text_is_refused_by_its_field(
    tmp_path: Path, content: bytes, kind: str
) -> None:
    async with serve(ScriptedEngine("x"), FILE_STORAGE_PATH=str(tmp_path)) as running:
        file = {"file_data": data_url(content, kind)}
        answer = await chat(running, {"type": "file", "file": file})
        field = "messages[0].content[0].file.file_data"
        assert refusal(answer) == (400, "unsupported_file", field)
        assert "UTF-8" in answer.text
        answer = await respond(running, {"type": "input_file", **file})
        assert refusal(answer) == (400, "unsupported_file", "input[0].content[0].file_data")
        if kind == "text/plain":
            id = await stored(running, content)
            answer = await respond(running, {"type": "input_file", "file_id": id})
            assert refusal(answer) == (400, "unsupported_file", "input[0].content[0].file_id")
        source = {"type": "base64", "media_type": kind, "data": file["file_data"].split(",")[1]}
        answer = await message(running, source)
        assert answer.status_code == 400
        assert "messages.0.content.0.document" in answer.text


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ({}, "invalid_value"),
        ({"file_id": "file-x", "file_data": "eA=="}, "invalid_value"),
        ({"file_data": "data:text/plain,hello"}, "invalid_base64"),
        ({"file_data": "=="}, "invalid_base64"),
        ({"file_data": "eA==", "filename": "/"}, "invalid_value"),
    ],
)
async def test_a_part_without_one_file_is_refused(
    tmp_path: Path, file: dict[str, str], code: str
) -> None:
    async with serve(ScriptedEngine("x"), FILE_STORAGE_PATH=str(tmp_path)) as running:
        if file.get("file_id"):
            file = {**file, "file_id": await stored(running, b"x")}
        for answer in (
            await chat(running, {"type": "file", "file": file}),
            await respond(running, {"type": "input_file", **file}),
        ):
            assert answer.json()["error"]["code"] == code
            assert answer.status_code == 400
            assert ".content[0]" in answer.json()["error"]["param"]


async def test_a_file_that_is_not_there_is_404_and_one_of_another_key_too(tmp_path: Path) -> None:
    async with serve(
        ScriptedEngine("x"), FILE_STORAGE_PATH=str(tmp_path), API_KEY="one,two"
    ) as running:
        running.client.headers["authorization"] = "Bearer one"
        id = await stored(running, b"secret")
        running.client.headers["authorization"] = "Bearer two"
        for wanted in (id, "file-x", "\0", "../x"):
            answer = await chat(running, {"type": "file", "file": {"file_id": wanted}})
            assert refusal(answer) == (404, "not_found", "messages[0].content[0].file.file_id")
            answer = await respond(running, {"type": "input_file", "file_id": wanted})
            assert refusal(answer) == (404, "not_found", "input[0].content[0].file_id")


async def test_without_a_place_for_files_their_ids_are_refused() -> None:
    async with serve(ScriptedEngine("x")) as running:
        answer = await chat(running, {"type": "file", "file": {"file_id": "file-x"}})
        field = "messages[0].content[0].file.file_id"
        assert refusal(answer) == (400, "unsupported_parameter", field)
        assert "FILE_STORAGE_PATH" in answer.text


async def test_files_count_against_the_bound_of_a_body_before_they_are_read(
    tmp_path: Path,
) -> None:
    variables = {"FILE_STORAGE_PATH": str(tmp_path), "MAX_BODY_BYTES": "2000"}
    async with serve(ScriptedEngine("x"), **variables) as running:
        half, other = await stored(running, b"x" * 900), await stored(running, b"y" * 900)
        parts = [{"type": "file", "file": {"file_id": id}} for id in (half, other, half)]
        for id in (half, other):  # nothing of them can be read
            running.serving.files._storage.place(id).unlink()
        assert (await chat(running, *parts[:2])).status_code == 503
        answer = await chat(running, *parts)  # one is in the prompt as often as it is named
        field = "messages[0].content[2].file.file_id"
        assert refusal(answer) == (400, "file_too_large", field)
        assert "MAX_BODY_BYTES" in answer.text


async def test_a_request_names_a_bounded_number_of_files(tmp_path: Path) -> None:
    async with serve(ScriptedEngine("x"), FILE_STORAGE_PATH=str(tmp_path)) as running:
        parts = [{"type": "input_file", "file_id": f"file-{no}"} for no in range(65)]
        assert (await respond(running, *parts)).json()["error"]["code"] == "array_above_max_length"


async def test_a_conversation_that_goes_on_reads_its_files_again(tmp_path: Path) -> None:
    async with serve(ScriptedEngine("x"), FILE_STORAGE_PATH=str(tmp_path)) as running:
        id = await stored(running, b"hello", "a.txt")
        parts = [
            {"type": "input_file", "file_id": id},
            {"type": "input_file", "file_data": data_url(b"more"), "filename": "b"},
        ]
        first = (await respond(running, *parts)).json()
        items = await running.client.get(f"/v1/responses/{first['id']}/input_items")
        assert items.json()["data"][0]["content"] == parts
        body = {"model": "default", "input": "go on", "previous_response_id": first["id"]}
        second = await running.client.post("/v1/responses", json=body)
        assert second.status_code == 200, second.text
        read = '<file name="a.txt">\nhello\n</file>\n<file name="b">\nmore\n</file>'
        assert prompt(running).startswith(read)
        await running.client.delete(f"/v1/files/{id}")
        gone = await running.client.post("/v1/responses", json=body)
        field = "previous_response_id.items[0].content[0].file_id"
        assert refusal(gone) == (404, "not_found", field)


async def test_a_stored_picture_is_seen_where_pictures_are(tmp_path: Path) -> None:
    png = pictures.encoded(pictures.NOISE.convert("RGB").resize((30, 30)))
    async with serve(seeing(), FILE_STORAGE_PATH=str(tmp_path)) as running:
        id = await stored(running, png, "a.png")
        answer = await respond(
            running, {"type": "input_text", "text": "a"}, {"type": "input_image", "file_id": id}
        )
        assert answer.status_code == 200, answer.text
        assert prompt(running).startswith("a" + PICTURE)
        text = await stored(running, b"no picture")
        answer = await respond(running, {"type": "input_image", "file_id": text})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "input[0].content[0].file_id"
    async with serve(ScriptedEngine("x"), FILE_STORAGE_PATH=str(tmp_path)) as running:
        answer = await respond(running, {"type": "input_image", "file_id": id})
        field = "input[0].content[0].file_id"
        assert refusal(answer) == (400, "unsupported_parameter", field)
    variables = {"FILE_STORAGE_PATH": str(tmp_path), "MEDIA_MAX_BYTES": "1024"}
    async with serve(seeing(), **variables) as running:
        answer = await respond(running, {"type": "input_image", "file_id": id})
        assert refusal(answer) == (400, "file_too_large", "input[0].content[0].file_id")
        assert "MEDIA_MAX_BYTES" in answer.text


async def test_messages_take_documents_of_text_in_base64() -> None:
    async with serve(ScriptedEngine("x")) as running:
        source = {
            "type": "base64", "media_type": "text/plain",
            "data": base64.b64encode("café".encode()).decode(),
        }  # fmt: skip
        answer = await message(running, source, title="Menu")
        assert answer.status_code == 200, answer.text
        assert prompt(running) == "Menu\ncafé"
        for wrong in (
            {**source, "data": "=="}, {**source, "media_type": "application/pdf"},
            {**source, "media_type": None}, {"type": "url", "url": "https://x"},
            {"type": "file", "file_id": "file-x"},
        ):  # fmt: skip
            assert (await message(running, wrong)).status_code == 400
