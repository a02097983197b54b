"""Responses in the background: whose they are, and that each end of one is told as it was."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.errors import EngineDied, StoreUnavailable
from tests.dialects.openai.responses.replay import Replay, events_of
from tests.dialects.openai.responses.test_kept import (
    KEYS,
    ONE,
    PATH,
    TWO,
    answered,
    ask,
    broken,
    error_of,
)
from tests.support.scripted import ScriptedEngine
from tests.support.serving import Running, eventually, serve


async def status_of(running: Running, id: str) -> str:
    return str((await running.client.get(f"{PATH}/{id}")).json()["status"])


async def test_one_key_cannot_end_what_another_key_has_begun() -> None:
    release = asyncio.Event()
    async with serve(ScriptedEngine("a", release, "b"), **KEYS) as running:
        running.client.headers.update(ONE)
        id = (await answered(running, background=True))["id"]
        assert (await running.client.delete(f"{PATH}/{id}", headers=TWO)).status_code == 404
        cancelled = await running.client.post(f"{PATH}/{id}/cancel", headers=TWO)
        assert error_of(cancelled) == (404, "not_found", "response_id")
        assert await status_of(running, id) == "in_progress"
        release.set()

        async def is_over() -> bool:
            return await status_of(running, id) == "completed"

        await eventually(is_over)


async def test_one_is_cancelled_at_once_though_the_store_is_away() -> None:
    async with serve(ScriptedEngine("a", asyncio.Event())) as running:
        id = (await answered(running, background=True))["id"]
        with pytest.MonkeyPatch.context() as patch:
            for call in ("put", "get", "runs"):
                broken(running.serving.store, call, patch)
            async with asyncio.timeout(10):
                cancelled = await running.client.post(f"{PATH}/{id}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")


async def test_one_that_ended_and_could_not_be_kept_is_not_taken_for_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.dialects.openai.responses.answer._PATIENCE_S", 0.0)
    release = asyncio.Event()
    async with serve(ScriptedEngine("a", release)) as running:
        id = (await answered(running, background=True))["id"]
        with pytest.MonkeyPatch.context() as patch:
            broken(running.serving.store, "put", patch)
            release.set()

            async def is_over() -> bool:
                return await status_of(running, id) == "completed"

            await eventually(is_over)
        async with asyncio.timeout(10):
            cancelled = await running.client.post(f"{PATH}/{id}/cancel")
            assert cancelled.json()["status"] == "completed"
            assert (await running.client.delete(f"{PATH}/{id}")).json()["deleted"]
        assert (await running.client.get(f"{PATH}/{id}")).status_code == 404


async def test_one_whose_write_was_given_up_and_succeeded_all_the_same_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.dialects.openai.responses.keeping._RETRY_S", (0.05, 0.05))
    release = asyncio.Event()
    async with serve(ScriptedEngine("a", release)) as running:
        id = (await answered(running, background=True))["id"]
        store = running.serving.store
        assert store is not None
        put, failed = store.put, []

        async def late(*args: Any, **options: Any) -> bool:
            written = await put(*args, **options)
            if not failed:
                failed.append(written)
                raise StoreUnavailable("The database does not answer.")
            return written

        monkeypatch.setattr(store, "put", late)
        release.set()

        async def is_over() -> bool:
            return await status_of(running, id) == "completed"

        await eventually(is_over)
        assert failed == [True]
        assert (await running.client.get(f"{PATH}/{id}")).json()["store"] is True


async def test_the_stream_of_one_ends_as_the_response_does_when_the_engine_is_lost() -> None:
    died = EngineDied("The engine has ended; please try again.")
    async with serve(ScriptedEngine("a", asyncio.Event())) as running:
        body = {"model": "default", "input": "hi", "background": True, "stream": True}
        async with running.client.stream("POST", PATH, json=body) as answer:
            text = ""
            async for chunk in answer.aiter_text():
                text += chunk
                if '"delta":"a"' in text and running.gate.in_flight:
                    assert running.gate.end_all(lambda: died) == 1
        events = events_of(text)
        assert Replay(events).response["status"] == "failed"
        assert events[-1]["type"] == "response.failed"


async def test_one_too_large_to_be_kept_at_its_end_is_gone_and_has_not_failed() -> None:
    async with serve(ScriptedEngine("x" * 4000), STORE_MAX_RESPONSE_BYTES="3000") as running:
        id = (await answered(running, background=True))["id"]

        async def is_over() -> bool:
            return await status_of(running, id) == "completed"

        await eventually(is_over)
        assert (await running.client.get(f"{PATH}/{id}")).json()["store"] is False
        store = running.serving.store
        assert store is not None
        assert await store.get("", id) is None


async def test_who_follows_one_gets_its_end_though_its_events_have_become_too_many() -> None:
    going_on = asyncio.Event()
    engine = ScriptedEngine("a", going_on, *["b"] * 400)
    async with serve(engine, STORE_MAX_RESPONSE_BYTES="20000") as running:
        body = {"model": "default", "input": "hi", "background": True, "stream": True}
        async with running.client.stream("POST", PATH, json=body) as answer:
            text = ""
            async for chunk in answer.aiter_text():
                text += chunk
                if '"delta":"a"' in text:
                    going_on.set()
        events = events_of(text)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert events[-1]["type"] == "response.completed"
        assert events[-1]["response"]["output"][0]["content"][0]["text"] == "a" + "b" * 400


async def test_thinking_that_is_hidden_is_shown_in_no_list() -> None:
    thought = {"type": "reasoning", "summary": [], "hidden": True,
               "content": [{"type": "reasoning_text", "text": "secret"}]}  # fmt: skip
    async with serve(ScriptedEngine("x")) as running:
        made = await running.client.post("/v1/conversations", json={"items": [thought]})
        id = made.json()["id"]
        items = f"/v1/conversations/{id}/items"
        listed = await running.client.get(items)
        (item,) = listed.json()["data"]
        one = await running.client.get(f"{items}/{item['id']}")
        added = await running.client.post(items, json={"items": [thought]})
        body = [{"role": "user", "content": "hi"}, {"id": item["id"], "type": "item_reference"}]
        again = await answered(running, [*body, {"role": "assistant", "content": "x"}])
        asked = await running.client.get(f"{PATH}/{again['id']}/input_items")
        assert running.engine.chats[-1].messages[-1].reasoning == "secret"
        for answer in (made, listed, one, added, asked):
            assert answer.status_code == 200
            assert "secret" not in answer.text
            assert "hidden" not in answer.text


async def test_a_result_that_names_the_item_of_its_call_does_so_in_later_turns() -> None:
    shell: list[dict[str, Any]] = [
        {"role": "user", "content": "run"},
        {"type": "local_shell_call", "id": "lsh_1", "call_id": "c1", "action": {}},
        {"type": "local_shell_call_output", "id": "lsh_1", "output": "done"},
    ]
    async with serve(ScriptedEngine("x")) as running:
        first = await answered(running, shell)
        await answered(running, "two", previous_response_id=first["id"])
        roles = [message.role for message in running.engine.chats[-1].messages]
        assert roles == ["user", "assistant", "tool", "assistant", "user"]


@pytest.mark.parametrize("field", ["conversation", "previous_response_id"])
async def test_an_empty_id_is_refused_without_a_store_too(field: str) -> None:
    async with serve(ScriptedEngine("x"), STORE_URL="off") as running:
        for path in (PATH, f"{PATH}/input_tokens"):
            answer = await running.client.post(
                path, json={"model": "default", "input": "x", field: ""}
            )
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == field


async def test_an_error_about_scores_names_the_field_that_was_sent() -> None:
    async with serve(ScriptedEngine("x"), MAX_ANSWER_SCORES="10") as running:
        refused = await ask(
            running,
            include=["message.output_text.logprobs"],
            top_logprobs=5,
            max_output_tokens=100,
        )
        assert error_of(refused) == (400, "invalid_value", "top_logprobs")
