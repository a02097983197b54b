"""Responses that are kept, on the wire: referred to, looked up, cancelled, followed, removed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, NotFoundError

from app.errors import EngineDied
from app.store.store import Store
from tests.dialects.openai.responses.replay import Replay, events_of
from tests.support.scripted import ScriptedEngine
from tests.support.serving import Running, eventually, serve

PATH = "/v1/responses"
KEYS = {"API_KEY": "one,two"}
ONE, TWO = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))


async def ask(running: Running, input: Any = "hi", **fields: Any) -> Any:
    return await running.client.post(PATH, json={"model": "default", "input": input, **fields})


async def answered(running: Running, input: Any = "hi", **fields: Any) -> Any:
    return (await ask(running, input, **fields)).raise_for_status().json()


def sdk_of(running: Running, key: str) -> AsyncOpenAI:
    """Over the test's own connections, which are closed with the server."""
    return AsyncOpenAI(
        base_url=f"http://127.0.0.1:{running.port}/v1", api_key=key, http_client=running.client
    )


def said(running: Running) -> list[tuple[str, str]]:
    """What the engine was asked last: role and text of each message."""
    chat = running.engine.chats[-1]
    return [
        (each.role, "".join(part.text for part in each.parts) or each.reasoning or "")
        for each in chat.messages
    ]


def error_of(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


# -- previous_response_id ------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_goes_on_from_an_earlier_one_without_its_instructions(
    stream: bool,
) -> None:
    async with serve(ScriptedEngine("Hello")) as running:
        first = await ask(running, "one", instructions="be brief", stream=stream)
        id = events_of(first.text)[-1]["response"]["id"] if stream else first.json()["id"]
        second = await answered(running, "two", previous_response_id=id)
        assert said(running) == [("user", "one"), ("assistant", "Hello"), ("user", "two")]
        assert second["previous_response_id"] == id
        await answered(
            running, [{"role": "user", "content": "three"}], previous_response_id=second["id"]
        )
        assert [text for _, text in said(running)] == ["one", "Hello", "two", "Hello", "three"]
        await answered(running, "other", previous_response_id=id)
        assert [text for _, text in said(running)] == ["one", "Hello", "other"]


async def test_calls_and_their_outputs_go_on_over_responses() -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
    async with serve(ScriptedEngine("seen")) as running:
        first = await answered(
            running,
            [{"role": "user", "content": "look"}, call,
             {"type": "function_call_output", "call_id": "c1", "output": "nothing"}],
        )  # fmt: skip
        await answered(running, "and now?", previous_response_id=first["id"])
        assert [role for role, _ in said(running)] == [
            "user", "assistant", "tool", "assistant", "user",
        ]  # fmt: skip


async def test_the_count_of_tokens_has_the_history() -> None:
    async with serve(ScriptedEngine("Hello")) as running:
        first = await answered(running, "one")
        asked = {"model": "default", "input": "two", "previous_response_id": first["id"]}
        count = await running.client.post(f"{PATH}/input_tokens", json=asked)
        second = await answered(running, "two", previous_response_id=first["id"])
    assert count.json()["input_tokens"] == second["usage"]["input_tokens"]
    assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]


async def test_what_cannot_be_gone_on_from_is_named() -> None:
    async with serve(ScriptedEngine("x"), **KEYS) as running:
        client = running.client
        client.headers.update(ONE)
        unkept = (await answered(running, store=False))["id"]
        assert (await answered(running, store=False))["store"] is False
        kept = (await answered(running))["id"]
        removed = (await answered(running))["id"]
        (await client.delete(f"{PATH}/{removed}")).raise_for_status()
        assert error_of(await ask(running, previous_response_id="x"))[1] == "invalid_value"
        for id in (unkept, removed, "resp_" + "0" * 32, "resp_\0"):
            answer = await ask(running, previous_response_id=id)
            assert error_of(answer) == (
                400, "previous_response_not_found", "previous_response_id",
            )  # fmt: skip
        both = await ask(running, previous_response_id=kept, conversation="conv_1")
        assert error_of(both)[0] == 400
        client.headers.update(TWO)
        answer = await ask(running, previous_response_id=kept)
        assert error_of(answer)[1] == "previous_response_not_found"


# -- items by their ids --------------------------------------------------------------------------


async def test_items_are_found_by_their_ids_right_after_the_terminal_event() -> None:
    engine = ScriptedEngine("Hello")
    async with serve(engine) as running:
        stream = await ask(running, "one", stream=True)
        (item,) = events_of(stream.text)[-1]["response"]["output"]
        reference = {"type": "item_reference", "id": item["id"]}
        await answered(
            running,
            [{"role": "user", "content": "one"}, reference, {"role": "user", "content": "two"}],
        )
        assert said(running) == [("user", "one"), ("assistant", "Hello"), ("user", "two")]
        await answered(running, [{"id": item["id"]}, {"role": "user", "content": "three"}])
        assert said(running) == [("assistant", "Hello"), ("user", "three")]


async def test_an_item_that_is_not_there_or_not_ones_own_is_not_found() -> None:
    async with serve(ScriptedEngine("x"), **KEYS) as running:
        running.client.headers.update(ONE)
        (item,) = (await answered(running))["output"]
        running.client.headers.update(TWO)
        for id in (item["id"], "msg_" + "0" * 36, "rs_1", item["id"][:-1] + "5"):
            answer = await ask(running, [{"role": "user", "content": "x"}, {"id": id}])
            assert error_of(answer) == (404, "not_found", "input")


# -- GET, DELETE, input_items --------------------------------------------------------------------


async def test_a_response_is_read_byte_for_byte_until_it_is_removed() -> None:
    async with serve(ScriptedEngine("Hel", "lo"), **KEYS) as running:
        client = running.client
        client.headers.update(ONE)
        answer = await ask(running, metadata={"a": "b"})
        path = f"{PATH}/{answer.json()['id']}"
        assert (await client.get(path)).content == answer.content
        assert error_of(await client.get(path, headers=TWO)) == (404, "not_found", "response_id")
        assert (await client.delete(path, headers=TWO)).status_code == 404
        gone = (await client.delete(path)).json()
        assert gone == {"id": answer.json()["id"], "object": "response", "deleted": True}
        assert (await client.get(path)).status_code == 404
        assert (await client.delete(path)).status_code == 404
        assert (await client.get(path, headers={"authorization": "none"})).status_code == 401


async def test_the_items_of_the_input_are_listed_in_pages() -> None:
    async with serve(ScriptedEngine("x")) as running:
        client = running.client
        response = await answered(
            running,
            [{"role": "user", "content": "one"},
             {"role": "assistant", "content": [{"type": "output_text", "text": "two"}]},
             {"type": "message", "id": "mine", "role": "user", "content": "three"}],
        )  # fmt: skip
        path = f"{PATH}/{response['id']}/input_items"
        listed = (await client.get(path)).json()
        assert [item["content"][0]["text"] for item in listed["data"]] == ["three", "two", "one"]
        assert listed["has_more"] is False
        assert listed["first_id"].startswith("msg_")
        first = (await client.get(path, params={"limit": 1, "order": "asc"})).json()
        assert (first["has_more"], first["data"][0]["content"][0]["text"]) == (True, "one")
        rest = {"limit": 9, "order": "asc", "after": first["last_id"]}
        rest = (await client.get(path, params=rest)).json()
        assert [item["content"][0]["text"] for item in rest["data"]] == ["two", "three"]
        for wrong in (
            {"limit": 0},
            {"limit": "x"},
            {"limit": "0001" + "9" * 40},
            {"order": "up"},
        ):
            assert (await client.get(path, params=wrong)).status_code == 400
        assert (await client.get(path, params={"after": "x"})).status_code == 404
        sdk = sdk_of(running, "x")
        texts = [
            item.content[0].text  # type: ignore[union-attr]
            async for item in sdk.responses.input_items.list(response["id"], limit=1, order="asc")
        ]
        assert texts == ["one", "two", "three"]
        # What was listed can be asked again.
        again = (await client.get(path, params={"order": "asc"})).json()["data"]
        await answered(running, again)
        assert [text for _, text in said(running)] == ["one", "two", "three"]


# -- in the background ---------------------------------------------------------------------------


async def test_a_response_in_the_background_is_polled_until_it_is_complete() -> None:
    release = asyncio.Event()
    async with serve(ScriptedEngine("a", release, "b")) as running:
        sdk = sdk_of(running, "x")
        response = await sdk.responses.create(model="default", input="hi", background=True)
        assert (response.status, response.background) == ("queued", True)

        async def text() -> str:
            return (await sdk.responses.retrieve(response.id)).output_text

        async def has_begun() -> bool:
            return await text() == "a"

        await eventually(has_begun)
        assert (await sdk.responses.retrieve(response.id)).status == "in_progress"
        refused = await ask(running, previous_response_id=response.id)
        assert "it is in_progress" in refused.json()["error"]["message"]
        release.set()

        async def is_over() -> bool:
            return (await sdk.responses.retrieve(response.id)).status == "completed"

        await eventually(is_over)
        assert await text() == "ab"
        await answered(running, "more", previous_response_id=response.id)


async def test_a_cancelled_response_leaves_the_engine_and_stays_cancelled() -> None:
    async with serve(ScriptedEngine("a", asyncio.Event())) as running:
        response = await answered(running, background=True)
        path = f"{PATH}/{response['id']}"
        await eventually(lambda: len(running.engine.calls) == 1)
        cancelled = (await running.client.post(f"{path}/cancel")).json()
        assert cancelled["status"] == "cancelled"
        assert running.gate.in_flight == 0
        again = (await running.client.post(f"{path}/cancel")).json()
        assert again == cancelled == (await running.client.get(path)).json()
        plain = await answered_path(running)
        refused = await running.client.post(f"{plain}/cancel")
        assert error_of(refused)[0] == 400
        assert (await running.client.post(f"{PATH}/resp_1/cancel")).status_code == 404


async def answered_path(running: Running) -> str:
    running.engine._script = lambda _: ("x",)
    return f"{PATH}/{(await answered(running))['id']}"


async def test_a_stream_in_the_background_outlives_its_connection_and_is_resumed() -> None:
    release = asyncio.Event()
    async with serve(ScriptedEngine("a", "b", release, "c", "d")) as running:
        body = {"model": "default", "input": "hi", "background": True, "stream": True}
        begun = b""
        async with running.client.stream("POST", PATH, json=body) as answer:
            async for chunk in answer.aiter_bytes():
                begun += chunk
                if b'"delta":"b"' in begun:
                    break
        seen = events_of(begun.decode())
        id = seen[0]["response"]["id"]
        last = seen[-1]["sequence_number"]
        follow = {"stream": "true", "starting_after": last}
        following = asyncio.create_task(running.client.get(f"{PATH}/{id}", params=follow))
        release.set()
        rest = events_of((await following).text)
        Replay(seen + rest)
        assert rest[-1]["response"]["output"][0]["content"][0]["text"] == "abcd"
        all_of_it = await running.client.get(f"{PATH}/{id}", params={"stream": "true"})
        assert events_of(all_of_it.text) == seen + rest


async def test_a_response_in_the_background_has_one_place_its_requests() -> None:
    release = asyncio.Event()
    engine = ScriptedEngine("a", release, "b")
    async with serve(engine, MAX_CONCURRENCY="1", MAX_QUEUE="0") as running:
        body = {"model": "default", "input": "hi", "background": True, "stream": True}
        async with running.client.stream("POST", PATH, json=body) as answer:
            assert answer.status_code == 200
            chunks = answer.aiter_bytes()
            begun = await anext(chunks)
            assert running.gate.in_flight == 1
            refused = await ask(running)
            assert error_of(refused)[:2] == (503, "server_is_overloaded")
            release.set()
            rest = b"".join([begun, *[chunk async for chunk in chunks]])
        assert events_of(rest.decode())[-1]["type"] == "response.completed"
        await eventually(lambda: running.gate.in_flight == 0)
        whole = await answered(running, background=True)
        assert whole["status"] == "queued"
        await eventually(lambda: running.gate.in_flight == 0)
        await asyncio.wait_for(running.gate.wait_idle(), 20)


async def test_a_kept_response_is_streamed_again_as_events_of_the_same_items() -> None:
    async with serve(ScriptedEngine("Hel", "lo")) as running:
        response = await answered(running)
        path = f"{PATH}/{response['id']}"
        stream = await running.client.get(path, params={"stream": "true"})
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = events_of(stream.text)
        assert Replay(events).response == response
        rest = await running.client.get(path, params={"stream": "true", "starting_after": 3})
        assert events_of(rest.text) == events[4:]
        late = await running.client.get(path, params={"stream": "true", "starting_after": 999})
        assert events_of(late.text)[-1]["type"] == "response.completed"
        wrong = await running.client.get(path, params={"stream": "true", "starting_after": "x"})
        assert error_of(wrong)[2] == "starting_after"
        sdk = sdk_of(running, "x")
        async with sdk.responses.stream(response_id=response["id"]) as again:
            async for _ in again:
                pass
        assert (await again.get_final_response()).output_text == "Hello"


async def test_a_response_in_the_background_fails_with_the_engine_and_is_kept_so() -> None:
    died = EngineDied("The engine has ended; please try again.")
    async with serve(ScriptedEngine("a", died)) as running:
        response = await answered(running, background=True)

        async def failed() -> bool:
            found = (await running.client.get(f"{PATH}/{response['id']}")).json()
            return bool(found["status"] == "failed" and found["error"]["code"] == "server_error")

        await eventually(failed)


async def test_responses_in_the_background_are_bounded_and_need_to_be_kept() -> None:
    async with serve(ScriptedEngine("a", asyncio.Event()), MAX_BACKGROUND="1") as running:
        refused = await ask(running, background=True, store=False)
        assert error_of(refused)[2] == "store"
        first = await answered(running, background=True)
        second = await ask(running, background=True)
        assert error_of(second)[:2] == (503, "server_is_overloaded")
        removed = await running.client.delete(f"{PATH}/{first['id']}")
        assert removed.json()["deleted"]
        await eventually(lambda: running.gate.in_flight == 0)
        assert (await running.client.get(f"{PATH}/{first['id']}")).status_code == 404


# -- conversations -------------------------------------------------------------------------------


async def test_responses_of_one_conversation_share_it() -> None:
    async with serve(ScriptedEngine("Hello"), **KEYS) as running:
        running.client.headers.update(ONE)
        sdk = sdk_of(running, "one")
        made = await sdk.conversations.create(
            metadata={"a": "b"}, items=[{"role": "developer", "content": "be brief"}]
        )
        first = await answered(running, "one", conversation=made.id)
        assert first["conversation"] == {"id": made.id}
        await answered(running, "two", conversation={"id": made.id}, store=False, stream=False)
        assert said(running) == [
            ("system", "be brief"), ("user", "one"), ("assistant", "Hello"), ("user", "two"),
        ]  # fmt: skip
        texts = [
            item.content[0].text  # type: ignore[union-attr]
            async for item in sdk.conversations.items.list(made.id, order="asc", limit=2)
        ]
        assert texts == ["be brief", "one", "Hello", "two", "Hello"]
        (answer,) = first["output"]
        await answered(running, [{"id": answer["id"]}, {"role": "user", "content": "x"}])
        wrong = await ask(running, previous_response_id=first["id"])
        assert made.id in wrong.json()["error"]["message"]
        running.client.headers.update(TWO)
        assert (await running.client.get(f"/v1/conversations/{made.id}")).status_code == 404
        assert error_of(await ask(running, conversation=made.id)) == (
            404, "not_found", "conversation",
        )  # fmt: skip


async def test_a_conversation_is_changed_item_by_item() -> None:
    async with serve(ScriptedEngine("x")) as running:
        sdk = sdk_of(running, "x")
        made = await sdk.conversations.create(items=[])
        added = await sdk.conversations.items.create(
            made.id,
            items=[
                {"role": "user", "content": "one"},
                {"type": "message", "role": "assistant", "content": "two"},  # type: ignore[typeddict-item]
            ],
        )
        assert [item.type for item in added.data] == ["message", "message"]
        item = await sdk.conversations.items.retrieve(added.data[0].id, conversation_id=made.id)  # type: ignore[arg-type]
        assert item.content[0].text == "one"  # type: ignore[union-attr]
        await sdk.conversations.items.delete(added.data[0].id, conversation_id=made.id)  # type: ignore[arg-type]
        left = await sdk.conversations.items.list(made.id)
        assert [item.id for item in left.data] == [added.data[1].id]
        changed = await sdk.conversations.update(made.id, metadata={"c": "d"})
        assert changed.metadata == {"c": "d"}
        too_many = [{"role": "user", "content": "x"}] * 21
        answer = await running.client.post(
            f"/v1/conversations/{made.id}/items", json={"items": too_many}
        )
        assert error_of(answer) == (400, "array_above_max_length", "items")
        await sdk.conversations.delete(made.id)
        with pytest.raises(NotFoundError):
            await sdk.conversations.retrieve(made.id)


async def test_two_responses_at_a_time_do_not_share_a_conversation() -> None:
    release = asyncio.Event()
    async with serve(ScriptedEngine("a", release)) as running:
        made = (await running.client.post("/v1/conversations", json={})).json()["id"]
        first = asyncio.create_task(ask(running, "one", conversation=made))
        await eventually(lambda: len(running.engine.calls) == 1)
        second = await ask(running, "two", conversation=made)
        assert error_of(second) == (400, "conversation_locked", "conversation")
        release.set()
        await first
        await answered(running, "three", conversation=made)
        assert [text for _, text in said(running)] == ["one", "a", "three"]


async def test_a_client_that_leaves_frees_its_conversation_and_adds_nothing() -> None:
    async with serve(ScriptedEngine("a", asyncio.Event())) as running:
        made = (await running.client.post("/v1/conversations", json={})).json()["id"]
        body = {"model": "default", "input": "hi", "conversation": made, "stream": True}
        async with running.client.stream("POST", PATH, json=body) as answer:
            async for _ in answer.aiter_bytes():
                break
        running.engine._script = lambda _: ("b",)

        async def free() -> bool:
            return (await ask(running, "two", conversation=made)).status_code == 200

        await eventually(free)
        assert said(running) == [("user", "two")]


# -- a store that fails --------------------------------------------------------------------------


def broken(store: Store | None, what: str, patch: pytest.MonkeyPatch | None = None) -> list[None]:
    """Make a call of the store's database fail, as a full disk does. Returns an entry for each."""
    tried: list[None] = []

    async def full(*_: Any, **__: Any) -> None:
        tried.append(None)
        raise OSError(28, "No space left on device")

    assert store is not None
    assert store._access._rows is not None
    (patch or pytest.MonkeyPatch()).setattr(store._access._rows.responses, what, full)
    return tried


@pytest.mark.parametrize("stream", [False, True])
async def test_a_store_that_cannot_write_costs_the_store_and_not_the_answer(stream: bool) -> None:
    async with serve(ScriptedEngine("Hello")) as running:
        kept = await answered(running)
        broken(running.serving.store, "put")
        answer = await ask(running, "two", stream=stream, previous_response_id=kept["id"])
        response = events_of(answer.text)[-1]["response"] if stream else answer.json()
        assert (response["status"], response["store"]) == ("completed", False)
        assert (await ask(running, previous_response_id=response["id"])).status_code == 400
        refused = await ask(running, background=True)
        assert error_of(refused)[:2] == (503, "store_unavailable")
        assert running.gate.in_flight == 0
        metrics = (await running.client.get("/metrics")).text
        assert 'serve_store_failures_total{call="put"}' in metrics


async def test_a_store_that_cannot_read_is_told_only_to_who_needs_it() -> None:
    async with serve(ScriptedEngine("Hello")) as running:
        kept = await answered(running)
        broken(running.serving.store, "chain")
        broken(running.serving.store, "get")
        await answered(running)
        refused = await ask(running, previous_response_id=kept["id"])
        assert error_of(refused)[:2] == (503, "store_unavailable")
        assert (await running.client.get(f"{PATH}/{kept['id']}")).status_code == 503


async def test_two_servers_with_one_database_answer_for_each_other(tmp_path: Path) -> None:
    shared = {"STORE_URL": f"sqlite:///{tmp_path}/shared.sqlite3"}
    release = asyncio.Event()
    async with (
        serve(ScriptedEngine("Hello"), **shared) as one,
        serve(ScriptedEngine("a", release), **shared) as other,
    ):
        first = await answered(one, "one")
        release.set()
        await answered(other, "two", previous_response_id=first["id"])
        assert [text for _, text in said(other)] == ["one", "Hello", "two"]
        release.clear()
        running = await answered(other, background=True)
        follow = asyncio.create_task(
            one.client.get(f"{PATH}/{running['id']}", params={"stream": "true"})
        )
        cancelled = await one.client.post(f"{PATH}/{running['id']}/cancel", timeout=60)
        assert cancelled.json()["status"] == "cancelled"
        assert events_of((await follow).text)[-1]["response"] == cancelled.json()


# -- what a review found -------------------------------------------------------------------------


async def test_log_probabilities_are_kept_and_not_read_again() -> None:
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    async with serve(ScriptedEngine("Hel", "lo")) as running:
        first = await answered(running, **asked)
        path = f"{PATH}/{first['id']}"
        assert (await running.client.get(path)).json() == first
        assert len(first["output"][0]["content"][0]["logprobs"]) == 2
        store = running.serving.store
        assert store is not None
        found = await store.chain("", first["id"], most_bytes=10**6, most_items=9)
        assert found is not None
        assert b'"logprobs":[]' in found[1][0].output
        await answered(running, "two", previous_response_id=first["id"])
        assert [text for _, text in said(running)] == ["hi", "Hello", "two"]
        stream = await running.client.get(path, params={"stream": "true"})
        assert Replay(events_of(stream.text)).response == first


async def test_a_history_with_too_many_items_is_refused_before_it_is_read() -> None:
    async with serve(ScriptedEngine("x"), MAX_MESSAGES="10") as running:
        many = [{"role": "user", "content": "x"}] * 9
        first = await answered(running, many)
        refused = await ask(running, "more", previous_response_id=first["id"])
        assert error_of(refused)[::2] == (400, "previous_response_id")
        made = (await running.client.post("/v1/conversations", json={"items": many})).json()["id"]
        path = f"/v1/conversations/{made}/items"
        await running.client.post(path, json={"items": many})
        for _ in range(2):  # and it is not locked for ever
            refused = await ask(running, conversation=made)
            assert error_of(refused)[::2] == (400, "conversation")
            assert "MAX_MESSAGES" in refused.json()["error"]["message"]


async def test_a_conversation_is_free_after_a_cancelled_response_in_the_background() -> None:
    async with serve(ScriptedEngine("a", asyncio.Event())) as running:
        made = (await running.client.post("/v1/conversations", json={})).json()["id"]
        response = await answered(running, background=True, conversation=made)
        locked = await ask(running, conversation=made)
        assert error_of(locked)[1] == "conversation_locked"
        await running.client.post(f"{PATH}/{response['id']}/cancel")
        running.engine._script = lambda _: ("b",)
        await answered(running, "two", conversation=made)
        assert said(running) == [("user", "two")]


async def test_a_client_that_leaves_while_its_response_begins_frees_no_conversation() -> None:
    release = asyncio.Event()
    async with serve(ScriptedEngine("a", release)) as running:
        made = (await running.client.post("/v1/conversations", json={})).json()["id"]
        store = running.serving.store
        assert store is not None
        assert store._access._rows is not None
        rows, begins, goes_on = store._access._rows.responses, asyncio.Event(), asyncio.Event()
        put = rows.put

        async def slowly(*arguments: Any, **options: Any) -> Any:
            begins.set()
            await goes_on.wait()
            return await put(*arguments, **options)

        rows.put = slowly  # type: ignore[method-assign]
        body = {"model": "default", "input": "hi", "background": True, "conversation": made}
        asking = asyncio.create_task(running.client.post(PATH, json=body))
        await begins.wait()
        asking.cancel()
        await asyncio.wait({asking})
        await eventually(lambda: running.gate.in_flight == 1)  # the response's own place
        assert error_of(await ask(running, conversation=made))[1] == "conversation_locked"
        goes_on.set()
        release.set()
        items = f"/v1/conversations/{made}/items"

        async def is_there() -> bool:
            return len((await running.client.get(items)).json()["data"]) == 2

        await eventually(is_there)
        running.engine._script = lambda _: ("b",)
        await answered(running, "two", conversation=made)


async def test_a_response_that_cannot_begin_frees_its_conversation() -> None:
    async with serve(ScriptedEngine("a")) as running:
        made = (await running.client.post("/v1/conversations", json={})).json()["id"]
        with pytest.MonkeyPatch.context() as patch:
            broken(running.serving.store, "put", patch)
            refused = await ask(running, background=True, conversation=made)
            assert refused.status_code == 503
        await answered(running, conversation=made)


async def test_a_response_that_another_server_generates_ends_when_it_is_deleted(
    tmp_path: Path,
) -> None:
    shared = {"STORE_URL": f"sqlite:///{tmp_path}/shared.sqlite3"}
    async with (
        serve(ScriptedEngine("x"), **shared) as one,
        serve(ScriptedEngine("a", asyncio.Event()), **shared) as other,
    ):
        made = (await other.client.post("/v1/conversations", json={})).json()["id"]
        response = await answered(other, background=True, conversation=made)
        deleted = await one.client.delete(f"{PATH}/{response['id']}", timeout=60)
        assert deleted.json()["deleted"] is True
        assert other.engine.running == 0
        for each in (one, other):
            assert (await each.client.get(f"{PATH}/{response['id']}")).status_code == 404
        follow = await other.client.get(f"{PATH}/{response['id']}", params={"stream": "true"})
        assert follow.status_code == 404
        assert (await one.client.get(f"/v1/conversations/{made}/items")).json()["data"] == []


async def test_a_response_here_can_be_cancelled_while_the_store_is_away() -> None:
    async with serve(ScriptedEngine("a", asyncio.Event())) as running:
        response = await answered(running, background=True)
        broken(running.serving.store, "get")
        broken(running.serving.store, "put")
        broken(running.serving.store, "runs")
        await running.client.post(f"{PATH}/{response['id']}/cancel")
        await eventually(lambda: running.engine.running == 0)
        now = (await running.client.get(f"{PATH}/{response['id']}")).json()
        assert (now["status"], now["store"]) == ("cancelled", False)


async def test_an_item_that_is_in_a_conversation_twice_harms_no_page() -> None:
    async with serve(ScriptedEngine("x")) as running:
        made = (await running.client.post("/v1/conversations", json={})).json()["id"]
        first = await answered(running, "one", conversation=made)
        reference = [{"type": "item_reference", "id": first["output"][0]["id"]}]
        await answered(running, reference, conversation=made)
        sdk = sdk_of(running, "x")
        ids = [item.id async for item in sdk.conversations.items.list(made, limit=1)]
        assert len(set(ids)) == len(ids) == 4


async def test_who_follows_from_a_number_within_the_first_item_gets_all_items() -> None:
    async with serve(ScriptedEngine("x")) as running:
        response = await answered(running)
        path = f"{PATH}/{response['id']}"
        for after in (4, 5, 6):  # of the deltas, as they were numbered when it was generated
            late = await running.client.get(
                path, params={"stream": "true", "starting_after": after}
            )
            types = [event["type"].removeprefix("response.") for event in events_of(late.text)]
            assert types == ["output_text.done", "content_part.done", "output_item.done",
                             "completed"]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_in_the_background_that_could_not_be_kept_is_there_for_a_while(
    monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr("app.dialects.openai.responses.answer._PATIENCE_S", 0.0)
    release = asyncio.Event()
    async with serve(ScriptedEngine("a", release)) as running:
        begun = await running.client.post(
            PATH, json={"model": "default", "input": "hi", "background": True}
        )
        response = begun.json()
        broken(running.serving.store, "put")
        release.set()
        path = f"{PATH}/{response['id']}"

        async def is_over() -> bool:
            return (await running.client.get(path)).json()["status"] == "completed"

        await eventually(is_over)
        if stream:
            events = events_of((await running.client.get(path, params={"stream": "true"})).text)
            assert [event["sequence_number"] for event in events] == list(range(len(events)))
            ended = events[-1]["response"]
        else:
            ended = (await running.client.get(path)).json()
        assert (ended["status"], ended["store"]) == ("completed", False)
        assert ended["output"][0]["content"][0]["text"] == "a"


async def test_a_store_that_is_away_when_a_response_in_the_background_ends_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.dialects.openai.responses.keeping._RETRY_S", (0.05, 0.05))
    release = asyncio.Event()
    async with serve(ScriptedEngine("a", release)) as running:
        made = (await running.client.post("/v1/conversations", json={})).json()["id"]
        response = await answered(running, background=True, conversation=made)
        path = f"{PATH}/{response['id']}"
        with pytest.MonkeyPatch.context() as patch:
            tried = broken(running.serving.store, "put", patch)
            release.set()
            await eventually(lambda: len(tried) > 2)
            assert (await running.client.get(path)).json()["status"] == "in_progress"

        async def is_over() -> bool:
            return (await running.client.get(path)).json()["status"] == "completed"

        await eventually(is_over)
        assert (await running.client.get(path)).json()["store"] is True
        items = (await running.client.get(f"/v1/conversations/{made}/items")).json()["data"]
        assert len(items) == 2


async def test_a_turn_too_large_to_be_kept_is_in_its_conversation_all_the_same() -> None:
    async with serve(ScriptedEngine("x" * 2000), STORE_MAX_RESPONSE_BYTES="2048") as running:
        made = (await running.client.post("/v1/conversations", json={})).json()["id"]
        assert (await answered(running, conversation=made))["store"] is False
        items = (await running.client.get(f"/v1/conversations/{made}/items")).json()["data"]
        assert [item["role"] for item in items] == ["assistant", "user"]


async def test_a_request_in_the_background_too_large_to_be_kept_is_refused_for_good() -> None:
    async with serve(ScriptedEngine("x"), STORE_MAX_RESPONSE_BYTES="2048") as running:
        body = {"model": "default", "input": "long " * 600, "background": True}
        refused = await running.client.post(PATH, json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "response_too_large")
        assert "retry-after" not in refused.headers


async def test_a_chain_whose_link_was_deleted_names_the_link() -> None:
    async with serve(ScriptedEngine("x")) as running:
        first = await answered(running)
        second = await answered(running, previous_response_id=first["id"])
        await running.client.delete(f"{PATH}/{first['id']}")
        body = {"model": "default", "input": "hi", "previous_response_id": second["id"]}
        refused = await running.client.post(PATH, json=body)
        assert refused.json()["error"]["code"] == "previous_response_not_found"
        assert first["id"] in refused.json()["error"]["message"]


async def test_an_answer_too_large_to_be_kept_is_no_failure_of_the_store() -> None:
    async with serve(ScriptedEngine("x" * 2000), STORE_MAX_RESPONSE_BYTES="2048") as running:

        async def failures() -> list[str]:
            lines = (await running.client.get("/metrics")).text.splitlines()
            return [line for line in lines if line.startswith("serve_store_failures_total")]

        before = await failures()
        assert (await answered(running))["store"] is False
        assert await failures() == before


async def test_an_abort_by_the_clients_own_request_id_ends_the_response_in_the_background() -> None:
    async with serve(
        ScriptedEngine("a", asyncio.Event()), ADMIN_API_KEY="admin", API_KEY="key"
    ) as running:
        running.client.headers.update({"authorization": "Bearer key"})
        answer = await running.client.post(
            PATH,
            json={"model": "default", "input": "hi", "background": True},
            headers={"x-request-id": "mine"},
        )
        aborted = await running.client.post(
            "/abort_request", json={"rid": "mine"}, headers={"authorization": "Bearer admin"}
        )
        assert aborted.json() == {"aborted": 1}

        async def failed() -> bool:
            found = await running.client.get(f"{PATH}/{answer.json()['id']}")
            return bool(found.json()["status"] == "failed")

        await eventually(failed)


async def test_lines_of_unicode_do_not_cut_the_events_of_a_response_that_is_followed() -> None:
    async with serve(ScriptedEngine("a\u2028b\x85c")) as running:
        stream = await ask(running, background=True, stream=True)
        id = events_of(stream.text)[0]["response"]["id"]
        path = f"{PATH}/{id}"
        live = await running.client.get(path, params={"stream": "true"})
        for text in (stream.text, live.text):
            assert "\u2028" not in text
            assert "\x85" not in text
            assert Replay(events_of(text)).output[0]["content"][0]["text"] == "a\u2028b\x85c"
        kept = await answered(running)
        again = await running.client.get(f"{PATH}/{kept['id']}", params={"stream": "true"})
        assert "\u2028" not in again.text


async def test_who_follows_from_beyond_the_kept_events_gets_the_texts_once_more() -> None:
    """Of the events that were sent while it was generated only the texts are kept."""
    async with serve(ScriptedEngine("a")) as running:
        response = await answered(running)
        path = f"{PATH}/{response['id']}"
        late = await running.client.get(path, params={"stream": "true", "starting_after": 500})
        events = events_of(late.text)
        assert [event["sequence_number"] for event in events] == [501, 502, 503, 504]
        assert [event["type"].removeprefix("response.") for event in events] == [
            "output_text.done", "content_part.done", "output_item.done", "completed",
        ]  # fmt: skip
        assert events[0]["text"] == "a"


async def test_hidden_thinking_is_kept_for_the_turns_that_follow() -> None:
    async with serve(ScriptedEngine("x"), RESPONSES_REASONING="hidden") as running:
        items = [
            {"role": "user", "content": "one"},
            {"type": "reasoning", "summary": [], "content": [
                {"type": "reasoning_text", "text": "because"}]},
            {"role": "assistant", "content": "two"},
        ]  # fmt: skip
        first = await answered(running, items)
        await answered(running, "three", previous_response_id=first["id"])
        assert running.engine.chats[-1].messages[1].reasoning == "because"


async def test_ids_that_clients_chose_are_replaced_and_their_repetition_harms_no_page() -> None:
    async with serve(ScriptedEngine("x")) as running:
        twice = [{"role": "user", "content": "x", "id": "msg_mine"}] * 2
        made = (await running.client.post("/v1/conversations", json={"items": twice})).json()["id"]
        await running.client.post(f"/v1/conversations/{made}/items", json={"items": twice})
        sdk = sdk_of(running, "x")
        ids = [item.id async for item in sdk.conversations.items.list(made, limit=1)]
        assert len(set(ids)) == 4
        response = await answered(running, twice)
        listed = [item.id async for item in sdk.responses.input_items.list(response["id"], limit=1)]
        assert len(set(listed)) == 2
        for no, path in enumerate((f"{PATH}/%00", "/v1/conversations/%00")):
            assert (await running.client.get(path)).status_code == 404, no


async def test_a_background_response_counts_its_tokens_when_it_ends() -> None:
    async with serve(ScriptedEngine("a", "b", "c")) as running:

        async def tokens() -> float:
            text = (await running.client.get("/metrics")).text
            name = "serve_completion_tokens_total"
            return sum(
                float(line.rsplit(" ", 1)[1])
                for line in text.splitlines()
                if line.startswith(name + " ")
            )

        before = await tokens()
        await answered(running, background=True)

        async def counted() -> bool:
            return await tokens() == before + 3

        await eventually(counted)


async def test_the_server_is_not_idle_before_the_end_of_a_background_response_is_kept() -> None:
    async with serve(ScriptedEngine("a", asyncio.Event())) as running:
        response = await answered(running, background=True)
        await eventually(lambda: len(running.engine.calls) == 1)
        gate = running.gate
        idle = asyncio.create_task(gate.wait_idle())
        gate.end_all(lambda: EngineDied("The engine has ended; please try again."))
        await idle
        store = running.serving.store
        assert store is not None
        kept = await store.get("", response["id"])
        assert kept is not None
        assert kept.status == "failed"


async def test_bodies_of_conversations_are_bounded_while_they_arrive() -> None:
    async with serve(ScriptedEngine("x"), MAX_BODY_BYTES="2000") as running:
        answer = await running.client.post(
            "/v1/conversations", json={"metadata": {}, "items": [], "x": "y" * 3000}
        )
        assert answer.status_code == 413
        assert len(running.gate.arrivals) == 0
