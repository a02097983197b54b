"""The checks, run against a server that is right and against ones that are wrong in one way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from app.check import checks
from tests.check.servers import listening, run
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve

_HEAD = '{"id": "x", "object": "chat.completion.chunk", "choices": '
ROLE = _HEAD + '[{"delta": {"role": "assistant", "content": ""}}]}'
TEXT = _HEAD + '[{"delta": {"content": "a\u2028b"}}]}'
END = _HEAD + '[{"delta": {}, "finish_reason": "stop"}]}'
USAGE = _HEAD + '[], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}'
FAILURE = '{"error": {"message": "the engine has ended", "type": "t", "param": null, "code": "c"}}'


async def row(
    name: str, path: str, content: Response, capsys: pytest.CaptureFixture[str]
) -> dict[str, Any]:
    """The row of this check for a server that has one answer."""
    async with listening(path, content) as url:
        assert await run(url, "--json") == 1
    return next(row for row in json.loads(capsys.readouterr().out) if row["check"] == name)


async def streamed(*events: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    frames = "".join(f": keep-alive\n\ndata: {event}\n\n" for event in events)
    content = Response(frames, media_type="text/event-stream")
    return await row("chat, streamed", "/v1/chat/completions", content, capsys)


# -- a server as it should be ------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_a_server_as_it_should_be_passes(
    suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serve(ScriptedEngine("Par", "is")) as running:
        assert await run(f"http://127.0.0.1:{running.port}{suffix}") == 0
    header, *rows, end = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["check", "verdict", "ms"]
    assert len(rows) == len(checks.CHECKS)
    assert end == "17 checks, all as they should be (2 skipped)"


async def test_an_embedding_model_is_asked_to_embed(capsys: pytest.CaptureFixture[str]) -> None:
    async with serve(ScriptedEngine(embedding_size=4)) as running:
        assert await run(f"127.0.0.1:{running.port}") == 0
    out = capsys.readouterr().out
    assert "2 vectors of 4 numbers" in out
    assert "14 checks, all as they should be (5 skipped)" in out


async def test_a_key_is_sent_and_a_wrong_one_must_be_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with serve(ScriptedEngine("Par", "is"), API_KEY="kö-secret") as running:
        url = f"127.0.0.1:{running.port}"
        assert await run(url, "--api-key", "kö-secret") == 0
        assert capsys.readouterr().out.endswith("\n18 checks, all as they should be (1 skipped)\n")
        assert await run(url) == 1
        assert "401 (give --api-key)" in capsys.readouterr().out


async def test_an_open_server_fails_when_a_key_is_in_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("API_KEY", "secret-one,secret-two")
    async with serve(ScriptedEngine("x")) as running:
        assert await run(f"127.0.0.1:{running.port}") == 1
    out = capsys.readouterr().out
    assert "expected status 401, saw 200" in out
    assert out.endswith("\n18 checks, 1 failed (1 skipped)\n")


async def test_json_has_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    async with serve(ScriptedEngine("x"), SERVED_MODEL_NAME="a/b") as running:
        assert await run(f"127.0.0.1:{running.port}", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["check"] for row in rows] == [name for name, _ in checks.CHECKS]
    assert {row["verdict"] for row in rows} == {"ok", "skipped"}
    assert all(set(row) == {"check", "verdict", "ms", "seen"} for row in rows)


async def test_another_text_in_the_stream_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    texts = iter(["one", "two", "three", "four"])
    async with serve(ScriptedEngine(script=lambda _: [next(texts)])) as running:
        assert await run(f"127.0.0.1:{running.port}") == 0
    assert "(2 warning, 2 skipped)" in capsys.readouterr().out


async def test_a_model_that_is_not_served_fails(capsys: pytest.CaptureFixture[str]) -> None:
    async with serve(ScriptedEngine("x")) as running:
        assert await run(f"127.0.0.1:{running.port}", "--model", "another") == 1
    assert "'another' is not listed" in capsys.readouterr().out


async def test_a_server_that_is_not_ready_fails(capsys: pytest.CaptureFixture[str]) -> None:
    async with serve(None) as running:
        assert await run(f"127.0.0.1:{running.port}") == 1
    out = capsys.readouterr().out
    assert """expected status 200, saw 503 '{"status":"starting",""" in out
    assert "expected status 200, saw 503 model_not_ready: 'The model is not ready yet (phase" in out


# -- streams -----------------------------------------------------------------------------------


async def test_a_stream_as_it_should_be_passes(capsys: pytest.CaptureFixture[str]) -> None:
    seen = await streamed(ROLE, TEXT, END, USAGE, "[DONE]", capsys=capsys)
    assert seen["verdict"] == "ok", seen


@pytest.mark.parametrize(
    ("events", "error_text"),
    [
        ((ROLE, TEXT, END, USAGE), "expected `data: [DONE]` at the end, saw 4 chunks without it"),
        ((TEXT, END, USAGE, "[DONE]"), "expected the role in the first chunk"),
        ((ROLE, TEXT, USAGE, "[DONE]"), "expected one finish_reason, saw []"),
        ((ROLE, END, END, USAGE, "[DONE]"), "expected one finish_reason, saw ['stop', 'stop']"),
        ((ROLE, TEXT, END, "[DONE]"), "expected `choices` to be []"),
        ((ROLE, TEXT, FAILURE, "[DONE]"), "the engine has ended"),
        ((ROLE, END, USAGE, "[DONE]", TEXT), "expected nothing after [DONE]"),
        ((ROLE, "{", "[DONE]"), "expected JSON, saw '{'"),
        (("[DONE]",), "expected chunks, saw [DONE] alone"),
    ],
)
async def test_a_wrong_stream_fails_and_the_row_says_why(
    events: tuple[str, ...], error_text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = await streamed(*events, capsys=capsys)
    assert seen["verdict"] == "fail"
    assert error_text in seen["seen"]


# -- errors and other answers ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "error_text"),
    [
        ({"message": "flat", "code": "x"}, 'expected `error` to be an object, saw \'{"message":'),
        ({"error": {"message": "m", "type": "t"}}, "expected `error` with ['code', 'message'"),
        ({"error": {"message": None, "type": "t"}}, "expected `error.message` to be a str"),
    ],
)
async def test_an_error_of_another_form_fails(
    body: dict[str, Any], error_text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = JSONResponse(body, 400)
    seen = await row("error: not JSON", "/v1/chat/completions", content, capsys)
    assert seen["verdict"] == "fail"
    assert error_text in seen["seen"]


async def test_a_usage_that_does_not_add_up_fails(capsys: pytest.CaptureFixture[str]) -> None:
    answer = {
        "id": "x", "object": "text_completion",
        "choices": [{"text": "", "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 4},
    }  # fmt: skip
    seen = await row("completion", "/v1/completions", JSONResponse(answer), capsys)
    assert seen["seen"] == "expected total_tokens 3, saw 4"


async def test_metrics_that_are_switched_off_are_no_failure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen = await row("/metrics", "/livez", Response(), capsys)
    assert (seen["verdict"], seen["seen"]) == ("skipped", "off")


async def test_a_servers_answer_is_shown_in_one_printable_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = Response("\x1b[31m\n" * 1000 + "secret", 500)
    seen = (await row("/health", "/health", content, capsys))["seen"]
    assert seen.isprintable()
    assert len(seen) <= 240
    assert checks._presentable("Bearer secret", "secret") == "Bearer ***"
