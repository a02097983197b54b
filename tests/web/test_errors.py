"""Every error of the table in docs/api.md, in every dialect, streamed and whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app import errors
from app.dialects.routes import DIALECTS
from app.errors import ClientGone, ServeError
from tests.support import sse
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve

TABLE = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (Path(__file__).parents[2] / "docs/api.md").read_text().splitlines()
    if line.startswith("|") and line.split("|")[1].strip() in vars(errors)
]
CLASSES = {row[0]: row[1:] for row in TABLE}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/completions": {"prompt": "x"},
    "/generate": {"text": "x"},
}


def _all(base: type[ServeError]) -> list[type[ServeError]]:
    return [base, *(each for sub in base.__subclasses__() for each in _all(sub))]


def test_the_table_has_every_class_as_it_is() -> None:
    classes = {each.__name__: each for each in _all(ServeError)[1:]}
    assert set(CLASSES) == set(classes)
    for name, (status, type, code, retry) in CLASSES.items():
        known = classes[name]
        assert (known.status, known.type, known.code) == (int(status), type, code)
        if known.retry_after_s is not None:
            assert retry == f"after {known.retry_after_s} s"


RAISED = [name for name in CLASSES if name != ClientGone.__name__]


@pytest.mark.parametrize("name", RAISED)
@pytest.mark.parametrize("path", BODIES)
async def test_an_error_before_the_first_frame_has_its_status(path: str, name: str) -> None:
    status, type, code, retry = CLASSES[name]
    error = getattr(errors, name)("It went wrong.", param="x[0].y")
    for stream in (False, True):
        async with serve(ScriptedEngine(error)) as running:
            answer = await running.client.post(path, json={**BODIES[path], "stream": stream})
        assert answer.status_code == int(status)
        assert answer.json() == {
            "error": {"message": "It went wrong.", "type": type, "param": "x[0].y", "code": code}
        }
        assert (retry == f"after {answer.headers.get('retry-after')} s") == ("after" in retry)


@pytest.mark.parametrize("name", RAISED)
@pytest.mark.parametrize("path", BODIES)
async def test_an_error_in_a_stream_is_its_last_frame(path: str, name: str) -> None:
    _, type, code, _ = CLASSES[name]
    error = getattr(errors, name)("It went wrong.")
    async with serve(ScriptedEngine("text", error)) as running:
        answer = await running.client.post(path, json={**BODIES[path], "stream": True})
    assert answer.status_code == 200
    *_, last, done = sse.frames(answer.text)
    assert done == "[DONE]"
    assert last == {
        "error": {"message": "It went wrong.", "type": type, "param": None, "code": code}
    }


@pytest.mark.parametrize("path", [dialect.path for dialect in DIALECTS])
async def test_every_endpoint_refuses_an_empty_body_in_the_same_form(path: str) -> None:
    async with serve(ScriptedEngine(embedding_size=4)) as running:
        answer = await running.client.post(path, json={})
    assert answer.status_code == 400
    error = answer.json()["error"]
    if path.startswith("/v1/messages"):
        assert error == {"type": "invalid_request_error", "message": "model: Field required"}
    else:
        assert set(error) == {"message", "type", "param", "code"}
