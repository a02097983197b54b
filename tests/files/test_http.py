"""The Files API on the wire, in a folder and in a bucket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from app.web import bodies
from tests.support import bucket
from tests.support.raw_client import connect
from tests.support.scripted import ScriptedEngine
from tests.support.serving import Running, eventually, serve

MB = 2**20
Contents = Callable[[], list[str]]
Serving = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    """A bucket's files are told by a database that is not in memory."""

    def opened(path: Any, **environment: str) -> AbstractAsyncContextManager[Running]:
        environment = {"STORE_URL": f"sqlite:///{tmp_path}/store.sqlite3"} | environment
        return serve(ScriptedEngine("hi"), FILE_STORAGE_PATH=str(path), **environment)

    return opened


async def upload(
    running: Running, content: Any = b"hello", name: str = "a.txt", **fields: Any
) -> Any:
    return await running.client.post(
        "/v1/files", files={"file": (name, content)}, data={"purpose": "user_data", **fields}
    )


def refusal(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


async def test_a_file_is_uploaded_shown_listed_read_and_deleted(
    serving: Serving,
    path: str,
    contents: Contents,
) -> None:
    async with serving(path) as running:
        made = await upload(running)
        assert made.status_code == 200, made.text
        file = made.json()
        id = file["id"]
        assert file == {
            "id": id, "object": "file", "bytes": 5, "created_at": file["created_at"],
            "expires_at": None, "filename": "a.txt", "purpose": "user_data",
            "status": "processed", "status_details": None,
        }  # fmt: skip
        assert id.startswith("file-")
        assert (await running.client.get(f"/v1/files/{id}")).json() == file
        assert (await running.client.get("/v1/files")).json() == {
            "object": "list", "data": [file], "first_id": id, "last_id": id, "has_more": False,
        }  # fmt: skip
        content = await running.client.get(f"/v1/files/{id}/content")
        assert (content.status_code, content.content) == (200, b"hello")
        deleted = await running.client.delete(f"/v1/files/{id}")
        assert deleted.json() == {"id": id, "object": "file", "deleted": True}
        for method, there in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
            gone = await running.client.request(method, f"/v1/files/{id}{there}")
            assert refusal(gone) == (404, "not_found", "file_id")
        await eventually(lambda: contents() == [])


async def test_openais_client_works_unchanged(serving: Serving, path: str, tmp_path: Path) -> None:
    async with serving(path) as running:
        client = openai.AsyncOpenAI(base_url=f"{running.client.base_url}/v1", api_key="none")
        (tmp_path / "data.jsonl").write_text('{"a": 1}\n')
        file = await client.files.create(
            file=tmp_path / "data.jsonl",
            purpose="batch",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert (file.filename, file.bytes, file.purpose) == ("data.jsonl", 9, "batch")
        assert file.expires_at is not None
        assert file.expires_at - file.created_at == 3600
        others = [
            await client.files.create(file=(f"{no}", b"x"), purpose="evals") for no in range(5)
        ]
        assert [each.id async for each in client.files.list(limit=2, order="asc")] == [
            file.id, *[each.id for each in others],
        ]  # fmt: skip
        assert [each.id async for each in client.files.list(purpose="batch")] == [file.id]
        assert (await client.files.content(file.id)).content == b'{"a": 1}\n'
        assert (await client.files.wait_for_processing(file.id)).status == "processed"
        assert (await client.files.delete(file.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(file.id)
        await client.close()


@pytest.mark.parametrize(
    ("fields", "query", "expected"),
    [
        ({"purpose": "other"}, None, (400, "invalid_value", "purpose")),
        ({"expires_after[anchor]": "now"}, None, (400, "invalid_value", "expires_after.anchor")),
        ({"expires_after[seconds]": "3600"}, None, (400, "invalid_value", "expires_after.anchor")),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"}, None,
         (400, "invalid_value", "expires_after.seconds")),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "9" * 5000}, None,
         (400, "invalid_value", "expires_after[seconds]")),
        (None, "limit=0", (400, "invalid_value", "limit")),
        (None, "limit=10001", (400, "invalid_value", "limit")),
        (None, "order=up", (400, "invalid_value", "order")),
        (None, "purpose=x", (400, "invalid_value", "purpose")),
        (None, "after=file-x", (404, "not_found", "after")),
    ],
)  # fmt: skip
async def test_a_wrong_field_is_named(
    serving: Serving, tmp_path: Path, fields: Any, query: str | None, expected: tuple[int, str, str]
) -> None:
    async with serving(tmp_path) as running:
        if query is not None:
            answer = await running.client.get(f"/v1/files?{query}")
        else:
            answer = await upload(running, **fields)
        assert refusal(answer) == expected


async def test_a_form_without_purpose_or_file_is_refused(serving: Serving, tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        post = running.client.post
        assert refusal(await post("/v1/files", files={"file": ("a", b"x")})) == (
            400, "missing_required_parameter", "purpose",
        )  # fmt: skip
        other = await post("/v1/files", files={"x": ("a", b"x")}, data={"purpose": "batch"})
        assert refusal(other) == (400, "missing_required_parameter", "file")
        assert refusal(await post("/v1/files", json={})) == (400, "invalid_multipart", None)
        assert refusal(await upload(running, name="x" * 256)) == (400, "invalid_value", "file")


async def test_without_a_place_for_files_there_are_none() -> None:
    async with serve(ScriptedEngine("hi")) as running:
        for method, there in (("POST", ""), ("GET", ""), ("GET", "/x"), ("GET", "/x/content")):
            answer = await running.client.request(method, f"/v1/files{there}")
            assert refusal(answer) == (404, "unknown_url", None)
            assert "FILE_STORAGE_PATH" in answer.text


async def test_one_key_sees_nothing_of_anothers(serving: Serving, tmp_path: Path) -> None:
    async with serving(tmp_path, API_KEY="one,two") as running:
        running.client.headers["authorization"] = "Bearer one"
        id = (await upload(running)).json()["id"]
        running.client.headers["authorization"] = "Bearer two"
        assert (await running.client.get("/v1/files")).json()["data"] == []
        for method, there in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
            answer = await running.client.request(method, f"/v1/files/{id}{there}")
            assert answer.status_code == 404
        assert (await running.client.get(f"/v1/files?after={id}")).status_code == 404
        running.client.headers["authorization"] = "Bearer one"
        assert (await running.client.get(f"/v1/files/{id}/content")).content == b"hello"
        del running.client.headers["authorization"]
        assert (await upload(running)).status_code == 401


@pytest.mark.parametrize("declared", [True, False])
async def test_a_file_that_is_too_large_is_413(
    serving: Serving,
    path: str,
    contents: Contents,
    declared: bool,
) -> None:
    async with serving(path, FILE_MAX_BYTES=str(8 * MB)) as running:
        exactly = await upload(running, b"x" * 8 * MB)
        assert exactly.status_code == 200
        data = form(b"x" * (8 * MB + 1), "batch")
        headers = {"content-type": TYPE}
        content: Any = data if declared else _in_pieces(data)
        answer = await running.client.post("/v1/files", content=content, headers=headers)
        assert refusal(answer) == (413, "request_too_large", None)
        assert "FILE_MAX_BYTES" in answer.text
        await eventually(lambda: len(contents()) == 1)


TYPE = "multipart/form-data; boundary=b"


def form(content: bytes, purpose: str) -> bytes:
    return (
        b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\n' + purpose.encode()
        + b'\r\n--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        + content + b"\r\n--b--\r\n"
    )  # fmt: skip


async def _in_pieces(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 50_000):
        yield data[at : at + 50_000]


async def test_a_wrong_purpose_is_refused_before_the_file_is_there(
    serving: Serving, tmp_path: Path
) -> None:
    async with serving(tmp_path) as running, connect(running) as client:
        begun = form(b"x" * 1000, "nonsense")[:300]
        client.send(
            b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 400000000\r\ncontent-type: "
            + TYPE.encode() + b"\r\n\r\n" + begun
        )  # fmt: skip
        status, _, body = await client.answer()
        assert (status, json.loads(body)["error"]["param"]) == (400, "purpose")


async def test_a_client_that_leaves_leaves_nothing(
    serving: Serving,
    path: str,
    contents: Contents,
) -> None:
    async with serving(path) as running:
        for kept_bytes in (200, 3 * MB, 12 * MB):
            async with connect(running) as client:
                client.send(
                    b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 400000000\r\n"
                    b"content-type: " + TYPE.encode() + b"\r\n\r\n"
                )  # fmt: skip
                await client.send_all(form(b"x" * kept_bytes, "batch")[:-9])
            await eventually(lambda: not running.serving.files._care.uploads)
        await eventually(lambda: contents() == [])
        assert (await running.client.get("/v1/files")).json()["data"] == []


async def test_a_body_that_ends_early_is_400_and_leaves_nothing(
    serving: Serving,
    path: str,
    contents: Contents,
) -> None:
    async with serving(path) as running:
        data = form(b"x" * 6 * MB, "batch")[:-4]
        answer = await running.client.post(
            "/v1/files", content=data, headers={"content-type": TYPE}
        )
        assert refusal(answer) == (400, "invalid_multipart", None)
        await eventually(lambda: contents() == [])


async def test_a_slow_upload_is_408_by_its_rate_and_by_its_time(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "_BODY_GRACE_S", 0.1)
    for variables, named in (
        ({"MIN_BODY_RATE": "100000"}, b"MIN_BODY_RATE"),
        ({"MIN_BODY_RATE": "0", "FILE_UPLOAD_TIMEOUT": "0.2"}, b"FILE_UPLOAD_TIMEOUT"),
    ):
        async with serving(tmp_path, **variables) as running, connect(running) as client:
            client.send(
                b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 4000\r\ncontent-type: "
                + TYPE.encode() + b"\r\n\r\n--b\r\n"
            )  # fmt: skip
            status, _, body = await client.answer()
            assert status == 408
            assert named in body


async def test_bounds_of_other_bodies_do_not_hold_for_uploads(
    serving: Serving, tmp_path: Path
) -> None:
    bounds = {"MAX_BODY_BYTES": "1024", "MAX_ARRIVING_BYTES": "1024", "BODY_TIMEOUT": "0.001"}
    async with serving(tmp_path, **bounds) as running:
        assert (await upload(running, b"x" * 9 * MB)).status_code == 200


async def test_an_upload_in_many_small_pieces_is_taken(serving: Serving, tmp_path: Path) -> None:
    """The bound on the pieces of a body grows with its bytes."""
    async with serving(tmp_path) as running, connect(running) as client:
        data = form(b"x" * 90 * MB, "batch")
        chunk = 1200
        client.send(
            b"POST /v1/files HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-type: "
            + TYPE.encode() + b"\r\n\r\n"
        )  # fmt: skip
        for at in range(0, len(data), 1000 * chunk):
            block = data[at : at + 1000 * chunk]
            pieces = [block[no : no + chunk] for no in range(0, len(block), chunk)]
            client.send(b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces))
            await client._writer.drain()
        client.send(b"0\r\n\r\n")
        status, _, body = await client.answer()
        assert (status, json.loads(body)["bytes"]) == (200, 90 * MB)


@pytest.mark.parametrize(
    ("name", "shown", "plain", "kind"),
    [
        ("a.txt", "a.txt", "a.txt", "text/plain; charset=utf-8"),
        ("../../etc/passwd", "passwd", "passwd", "application/octet-stream"),
        ("x.html", "x.html", "x.html", "application/octet-stream"),
        ("x.svg", "x.svg", "x.svg", "application/octet-stream"),
        ("é\u202etxt.exe", "étxt.exe", "_txt.exe", "application/octet-stream"),
        ('a"; x=y.md', 'a"; x=y.md', "a_; x=y.md", "text/markdown; charset=utf-8"),
    ],
)  # fmt: skip
async def test_a_download_is_nothing_that_a_browser_runs(
    serving: Serving, tmp_path: Path, name: str, shown: str, plain: str, kind: str
) -> None:
    async with serving(tmp_path) as running:
        file = (await upload(running, b"<script>", name)).json()
        assert file["filename"] == shown
        for ask in (running.client.get, running.client.head):
            answer = await ask(f"/v1/files/{file['id']}/content")
            headers = answer.headers
            assert headers["content-type"] == kind
            assert headers["content-length"] == "8"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-security-policy"].startswith("sandbox")
            assert headers["content-disposition"].startswith(f'attachment; filename="{plain}"; ')
            assert len(answer.content) == (0 if ask == running.client.head else 8)


async def test_a_file_whose_content_is_missing_is_503(serving: Serving, tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        id = (await upload(running)).json()["id"]
        running.serving.files._storage.place(id).unlink()
        answer = await running.client.get(f"/v1/files/{id}/content")
        assert refusal(answer) == (503, "store_unavailable", None)


async def test_files_outlive_the_server(serving: Serving, path: str) -> None:
    async with serving(path) as running:
        file = (await upload(running, b"kept")).json()
    async with serving(path) as running:
        assert (await running.client.get("/v1/files")).json()["data"] == [file]
        content = await running.client.get(f"/v1/files/{file['id']}/content")
        assert content.content == b"kept"


async def test_a_folder_that_cannot_be_used_is_503_and_the_server_serves(
    serving: Serving, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    async with serving(str(tmp_path / "file")) as running:
        assert refusal(await upload(running)) == (503, "store_unavailable", None)
        assert (await running.chat()).status_code == 200


async def test_credentials_of_a_bucket_are_shown_nowhere(
    serving: Serving,
    path: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with serving(path) as running:
        await upload(running)
        info = (await running.client.get("/server_info")).text
    assert bucket.SECRET not in info + "".join(capsys.readouterr())


async def test_uploads_end_with_a_drain(serving: Serving, tmp_path: Path) -> None:
    """They hold the gate open, and are ended from outside as any request."""
    async with serving(tmp_path) as running, connect(running) as client:
        client.send(
            b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 4000\r\ncontent-type: "
            + TYPE.encode() + b"\r\n\r\n--b\r\n"
        )  # fmt: skip
        await eventually(lambda: bool(running.serving.files._care.uploads))
        idle = asyncio.create_task(running.gate.wait_idle())
        await asyncio.sleep(0.01)
        assert not idle.done()
        running.gate.abort(None)
        status, _, _ = await client.answer()
        assert status == 503
        await idle
        await eventually(lambda: not running.serving.files._care.uploads)


async def test_files_are_counted_by_the_metrics(serving: Serving, tmp_path: Path) -> None:
    def counted(text: str, series: str) -> float:
        return float(text.partition(f"\n{series} ")[2].partition("\n")[0] or 0)

    names = ('serve_files_total{event="uploaded"}', 'serve_file_bytes_total{way="in"}')
    async with serving(tmp_path) as running:
        before = (await running.client.get("/metrics")).text
        await upload(running)
        after = (await running.client.get("/metrics")).text
    assert [counted(after, name) - counted(before, name) for name in names] == [1, 5]
