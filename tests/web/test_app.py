"""The description of the API."""

from __future__ import annotations

from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve


async def test_the_schema_is_valid_and_describes_the_bodies() -> None:
    from openapi_spec_validator import validate

    async with serve(ScriptedEngine("x")) as running:
        document = (await running.client.get("/openapi.json")).json()
        docs = await running.client.get("/docs")
    validate(document)
    assert "temperature" in document["components"]["schemas"]["ChatBody"]["properties"]
    assert docs.status_code == 200
