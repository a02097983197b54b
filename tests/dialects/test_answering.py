"""What every carrier's request gets on its way to the dialect."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve


@pytest.mark.parametrize(
    ("environment", "length"),
    [
        ({"LOG_LEVEL": "debug"}, None),
        ({"LOG_LEVEL": "debug", "MAX_LOG_LEN": "12"}, 12),
        ({"LOG_LEVEL": "info", "MAX_LOG_LEN": "12"}, 0),
    ],
)
async def test_bodies_are_logged_at_level_debug_up_to_their_bound(
    environment: dict[str, str], length: int | None
) -> None:
    async with serve(ScriptedEngine("x"), **environment) as running:
        with capture_logs() as lines:
            await running.chat("a telling text")
    bodies = [line["body"] for line in lines if line["event"] == "request body"]
    if length is None:
        assert len(bodies) == 1
        assert "a telling text" in bodies[0]
    else:
        assert [len(body) for body in bodies] == [length] * bool(length)


async def test_no_picture_is_logged() -> None:
    async with serve(ScriptedEngine("x"), LOG_LEVEL="debug") as running:
        with capture_logs() as lines:
            await running.chat("data:image/png;base64," + "QUJD" * 1000)
    (body,) = [line["body"] for line in lines if line["event"] == "request body"]
    assert "QUJD" not in body
    assert "data:image/png;base64,..." in body
