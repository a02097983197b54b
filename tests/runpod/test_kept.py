"""Responses that are kept, by jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from tests.dialects.openai.responses.replay import events_of
from tests.runpod.station import openai, working
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve

PATH = "/v1/responses"


def responses(input: Any = "hi", **fields: Any) -> dict[str, Any]:
    return openai(PATH, model="default", input=input, **fields)


async def test_jobs_keep_responses_and_have_all_of_their_routes() -> None:
    async with working(ScriptedEngine("Hello")) as station:
        first = (await station.ask(responses("one"))).output[0]
        second = (await station.ask(responses("two", previous_response_id=first["id"]))).output[0]
        assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]
        route = f"{PATH}/{second['id']}"
        assert (await station.ask({"openai_route": route})).output[0] == second
        paging = {"limit": 1, "order": "asc"}
        listed = (await station.ask(openai(f"{route}/input_items", **paging))).output[0]
        assert listed["data"][0]["content"][0]["text"] == "two"
        again = await station.ask({"openai_route": route, "openai_input": {"stream": True}})
        events = events_of("".join(again.output))
        assert events[-1]["response"] == second
        refused = await station.ask({"openai_route": f"{route}/cancel"}, completes=False)
        assert refused.failure["param"] == "response_id"
        gone = await station.ask({"route": route, "method": "DELETE"})
        assert gone.output[0]["deleted"]
        missing = await station.ask({"openai_route": route}, completes=False)
        assert missing.failure["status"] == 404
        wrong = await station.ask({"route": f"{route}/cancel", "method": "GET"}, completes=False)
        assert wrong.failure["status"] == 405


async def test_a_conversation_goes_over_jobs() -> None:
    async with working(ScriptedEngine("Hello")) as station:
        made = (await station.ask(openai("/v1/conversations", metadata={"a": "b"}))).output[0]
        await station.ask(responses("one", conversation=made["id"]))
        await station.ask(responses("two", conversation=made["id"], stream=True))
        route = f"/v1/conversations/{made['id']}"
        assert (await station.ask({"openai_route": route})).output[0] == made
        listed = (await station.ask({"openai_route": f"{route}/items"})).output[0]
        texts = [item["content"][0]["text"] for item in orjson.loads(orjson.dumps(listed["data"]))]
        assert texts == ["Hello", "two", "Hello", "one"]


async def test_files_are_listed_shown_and_deleted_by_jobs(tmp_path: Path) -> None:
    variables = {"FILE_STORAGE_PATH": str(tmp_path)}
    async with serve(ScriptedEngine("x"), **variables) as running:
        answer = await running.client.post(
            "/v1/files", files={"file": ("a.txt", b"hello")}, data={"purpose": "batch"}
        )
        file = answer.json()
    async with working(ScriptedEngine("Hello"), **variables) as station:
        listed = (await station.ask(openai("/v1/files", limit=1, purpose="batch"))).output[0]
        assert listed["data"] == [file]
        route = f"/v1/files/{file['id']}"
        assert (await station.ask({"openai_route": route})).output[0] == file
        part = {"type": "input_file", "file_id": file["id"]}
        answered = await station.ask(responses([{"role": "user", "content": [part]}]))
        assert answered.output[0]["status"] == "completed"
        gone = await station.ask({"route": route, "method": "DELETE"})
        assert gone.output[0]["deleted"]
        missing = await station.ask({"openai_route": route}, completes=False)
        assert missing.failure["status"] == 404
        posted = await station.ask(openai("/v1/files", purpose="batch", limit=1))
        assert posted.output[0]["data"] == []
        sent = {"route": "/v1/files", "method": "POST", "body": {"purpose": "batch"}}
        refused = await station.ask(sent, completes=False)
        assert refused.failure["status"] == 405
