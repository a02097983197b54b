"""The wire as strict clients read it, over a scripted engine and a real socket."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.dialects.body import read
from app.dialects.contract import present
from app.dialects.openai.chat import ChatPresenter
from app.dialects.openai.completions import CompletionPresenter
from app.dialects.routes import DIALECTS
from app.errors import InvalidRequest, Overloaded
from app.events import Beat, Finished, Started, TextDelta, Usage
from tests.support import sse
from tests.support.scripted import ScriptedEngine
from tests.support.serving import eventually, serve

FOUR_KEYS = {"message", "type", "param", "code"}


async def test_a_whole_answer_has_every_key_that_openai_has() -> None:
    async with serve(ScriptedEngine("Hel", "lo")) as running:
        answer = (await running.chat("four")).json()
    assert set(answer) >= {"id", "object", "created", "model", "choices", "usage"}
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Hello",
                "refusal": None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 2,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


async def test_a_stream_is_role_text_finish_done() -> None:
    async with serve(ScriptedEngine("Hel", "lo")) as running:
        answer = await running.chat(stream=True)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    *chunks, done = sse.frames(answer.text)
    assert done == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None, None, None, "stop"]
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}) == 1
    assert not any("usage" in chunk for chunk in chunks)


async def test_usage_comes_only_when_asked_and_last() -> None:
    async with serve(ScriptedEngine("a")) as running:
        answer = await running.chat(stream=True, stream_options={"include_usage": True})
    *chunks, usage, done = sse.frames(answer.text)
    assert done == "[DONE]"
    assert all(chunk["usage"] is None for chunk in chunks)
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 3


async def test_each_choice_finishes_as_soon_as_it_ends() -> None:
    go_on = asyncio.Event()
    engine = ScriptedEngine(script=lambda choice: ["short"] if choice else ["x", go_on, "long"])
    async with serve(engine) as running, running.client.stream(
        "POST", "/v1/chat/completions",
        json={"messages": [{"role": "user", "content": "hi"}], "n": 2, "stream": True},
    ) as answer:  # fmt: skip
        lines = answer.aiter_lines()
        seen = []
        engine.calls.clear()
        async for line in lines:
            if line.startswith("data: {"):
                choice = json.loads(line[6:])["choices"][0]
                seen.append((choice["index"], choice["finish_reason"]))
                if len(seen) == 4:
                    # Choice 0 is still silent; what there is of choice 1 must come all the same.
                    go_on.set()
    assert seen[:2] == [(0, None), (1, None)]
    assert [index for index, reason in seen if reason] in ([1, 0], [0, 1])
    assert [pair for pair in seen if pair[1]] == [(1, "stop"), (0, "stop")]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("error", [InvalidRequest("no", param="x"), Overloaded("full")])
async def test_a_stream_that_fails_before_its_first_frame_has_its_real_status(
    path: str, error: Exception
) -> None:
    async with serve(ScriptedEngine(error)) as running:
        body = {"messages": [{"role": "user", "content": "hi"}], "prompt": "hi", "stream": True}
        answer = await running.client.post(path, json=body)
    assert answer.status_code == error.status
    assert set(answer.json()["error"]) == FOUR_KEYS


@pytest.mark.parametrize("failure", [Overloaded("full"), RuntimeError("secret detail")])
async def test_a_stream_that_fails_later_ends_with_an_error_frame_and_done(
    failure: Exception,
) -> None:
    async with serve(ScriptedEngine("some", failure)) as running:
        answer = await running.chat(stream=True)
    assert answer.status_code == 200
    *chunks, error, done = sse.frames(answer.text)
    assert done == "[DONE]"
    assert set(error["error"]) == FOUR_KEYS
    assert "secret" not in answer.text
    assert not any(chunk["choices"][0]["finish_reason"] for chunk in chunks)


async def test_an_unexpected_failure_is_a_500_that_tells_nothing() -> None:
    async with serve(ScriptedEngine(RuntimeError("secret detail"))) as running:
        answer = await running.chat()
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "server_error"
        assert "secret" not in answer.text
        assert running.gate.in_flight == 0


async def test_an_engine_that_ends_without_a_finish_is_an_error_not_an_answer() -> None:
    class Unfinished(ScriptedEngine):
        async def generate(self, *args: Any, **more: Any) -> Any:
            async for chunk in super().generate(*args, **more):
                if chunk.finish is None:
                    yield chunk

    async with serve(Unfinished("half")) as running:
        assert (await running.chat()).status_code == 500
        assert sse.frames((await running.chat(stream=True)).text)[-2]["error"]


async def test_a_silent_stream_is_kept_alive_with_comments() -> None:
    async with serve(ScriptedEngine(0.5, "at last"), HEARTBEAT_INTERVAL="0.1") as running:
        answer = await running.chat(stream=True)
    assert answer.text.startswith(": keep-alive\n\n")
    assert 2 <= answer.text.count(": keep-alive\n\n") <= 6
    assert sse.text_of(sse.frames(answer.text)) == "at last"


async def test_a_failure_after_a_heartbeat_is_a_frame() -> None:
    engine = ScriptedEngine(0.3, InvalidRequest("too late"))
    async with serve(engine, HEARTBEAT_INTERVAL="0.1") as running:
        answer = await running.chat(stream=True)
    assert answer.status_code == 200
    error, done = sse.frames(answer.text)
    assert error["error"]["message"] == "too late"
    assert done == "[DONE]"


async def test_the_model_may_be_called_by_its_names_and_no_other() -> None:
    async with serve(ScriptedEngine("x"), SERVED_MODEL_NAME="llama,gpt-4o") as running:
        for asked, told in [
            ("llama", "llama"), ("gpt-4o", "gpt-4o"), ("sglang", "llama"), ("default", "llama"),
            (None, "llama"),
        ]:  # fmt: skip
            assert (await running.chat(model=asked)).json()["model"] == told
        refused = await running.chat(model="gpt-5")
        assert refused.status_code == 404
        assert refused.json()["error"]["code"] == "model_not_found"
        cards = (await running.client.get("/v1/models")).json()["data"]
        assert [card["id"] for card in cards] == ["llama", "gpt-4o"]


async def test_null_means_not_given() -> None:
    fields = [
        "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "n",
        "frequency_penalty", "presence_penalty", "repetition_penalty", "stop", "seed", "user",
        "logit_bias", "stream", "stream_options", "response_format", "tools", "tool_choice",
        "logprobs", "top_logprobs", "reasoning_effort", "functions", "audio",
    ]  # fmt: skip
    async with serve(ScriptedEngine("x")) as running:
        answer = await running.chat(**dict.fromkeys(fields))
    assert answer.status_code == 200, answer.text


async def test_what_changes_nothing_is_ignored() -> None:
    harmless = {
        "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "user": "me",
        "safety_identifier": "x", "prompt_cache_key": "y", "logprobs": False, "an_unknown_one": 1,
        "response_format": {"type": "text"}, "modalities": ["text"],
    }  # fmt: skip
    async with serve(ScriptedEngine("x")) as running:
        assert (await running.chat(**harmless)).status_code == 200


async def test_max_tokens_is_bounded_by_what_the_operator_allows() -> None:
    engine = ScriptedEngine("x")
    async with serve(engine, MAX_TOTAL_TOKENS="20") as running:
        assert (await running.chat("x" * 10)).status_code == 200
        assert engine.calls[-1][1].max_tokens == 10
        refused = await running.chat("x" * 10, max_tokens=11)
        too_long = await running.chat("x" * 20)
    for answer in (refused, too_long):
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert error["message"].startswith("This model's maximum context length is 20 tokens.")


async def test_several_prompts_have_their_choices_in_order() -> None:
    engine = ScriptedEngine(script=lambda choice: [f"choice {choice}"])
    async with serve(engine) as running:
        body = {"prompt": ["a", "bb"], "n": 2}
        whole = (await running.client.post("/v1/completions", json=body)).json()
        streamed = await running.client.post("/v1/completions", json=body | {"stream": True})
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    assert [choice["text"] for choice in whole["choices"]] == ["choice 0", "choice 1"] * 2
    assert whole["usage"]["prompt_tokens"] == 3
    found = sse.frames(streamed.text)
    assert [sse.text_of(found, index) for index in range(4)] == ["choice 0", "choice 1"] * 2
    assert {id for _, _, id, _ in engine.calls} == {id for _, _, id, _ in engine.calls[-4:]}
    assert len({len(id) for _, _, id, _ in engine.calls}) == 1


async def test_one_prompt_that_fails_fails_them_all_and_aborts_the_rest() -> None:
    class Failing(ScriptedEngine):
        async def generate(self, question: Any, **more: Any) -> Any:
            if len(question.prompt) == 1:
                await asyncio.sleep(0.05)
                raise InvalidRequest("not this one")
            async for chunk in super().generate(question, **more):
                yield chunk

    engine = Failing("x", asyncio.Event())
    async with serve(engine) as running:
        answer = await running.client.post("/v1/completions", json={"prompt": ["aa", "b"]})
        assert answer.status_code == 400
        await eventually(lambda: engine.running == 0)
        assert engine.aborted == 1


@pytest.mark.parametrize(
    "path", ["//v1/models", "/v1//models", "/v1/models/", "/v1/v1/models", "/v1/models"]
)
async def test_slips_in_the_path_are_forgiven(path: str) -> None:
    async with serve(ScriptedEngine("x")) as running:
        url = f"http://127.0.0.1:{running.port}{path}"
        assert (await running.client.get(url)).status_code == 200


async def test_head_is_answered_where_get_is() -> None:
    async with serve(ScriptedEngine("x")) as running:
        for path in ("/", "/health", "/livez", "/readyz", "/ping", "/metrics", "/v1/models"):
            answer = await running.client.head(path)
            assert (answer.status_code, answer.content) == (200, b"")


async def test_a_request_too_many_is_refused_before_its_body_is_read() -> None:
    engine = ScriptedEngine(asyncio.Event())
    async with serve(engine, MAX_CONCURRENCY="1", MAX_QUEUE="0") as running:
        inside = asyncio.create_task(running.chat())
        await eventually(lambda: engine.running == 1)
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n")
        async with asyncio.timeout(2):
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in head
        writer.close()
        inside.cancel()


async def test_those_who_wait_get_their_turn() -> None:
    engine = ScriptedEngine(0.02, "x")
    async with serve(engine, MAX_CONCURRENCY="2", MAX_QUEUE="8") as running:
        answers = await asyncio.gather(*(running.chat() for _ in range(10)))
    assert [answer.status_code for answer in answers] == [200] * 10


async def test_the_schema_is_valid_and_describes_the_bodies() -> None:
    from openapi_spec_validator import validate

    async with serve(ScriptedEngine("x")) as running:
        document = (await running.client.get("/openapi.json")).json()
        docs = await running.client.get("/docs")
    validate(document)
    assert "temperature" in document["components"]["schemas"]["ChatBody"]["properties"]
    assert docs.status_code == 200


async def _streamed(presenter: Any, beats: list[Beat]) -> list[Any]:
    async def events() -> Any:
        for beat in beats:
            yield beat

    reply = await present(events(), presenter, stream=True)
    return sse.frames(b"".join([frame async for frame in reply.frames]).decode())


@hypothesis_settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 2), st.text(min_size=1)), max_size=30), st.data())
def test_any_text_in_any_pieces_arrives_as_it_was(
    pieces: list[tuple[int, str]], data: st.DataObject
) -> None:
    pieces = [(index, text) for index, text in pieces if text.isprintable() or text.isascii()]
    deltas: Beat = [TextDelta(text, index) for index, text in pieces]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(deltas)), max_size=4)))
    beats = [deltas[a:b] for a, b in zip([0, *cuts], [*cuts, len(deltas)], strict=True)]
    ends: Beat = [Finished("stop", index) for index in range(3)]
    beats = [[Started(1)], *beats, [*ends, Usage(1, 2, 0)]]
    for presenter in (
        ChatPresenter(id="i", model="m", n=3, include_usage=False),
        CompletionPresenter(id="i", model="m", choices=3, include_usage=False),
    ):
        found = asyncio.run(_streamed(presenter, beats))
        assert found[-1] == "[DONE]"
        for index in range(3):
            assert sse.text_of(found, index) == "".join(t for i, t in pieces if i == index)


async def test_every_answer_has_our_headers() -> None:
    given = {"HATHORA_REGION": "seattle", "HATHORA_NETWORKING": "false"}
    async with serve(ScriptedEngine("x"), **given) as running:
        answers = [
            await running.chat(), await running.chat(stream=True), await running.chat(n=-1),
            await running.client.get("/health"), await running.client.get("/nowhere"),
            await running.client.put("/v1/models"),
        ]  # fmt: skip
    for answer in answers:
        assert answer.headers["x-hathora-region"] == "seattle"
        assert float(answer.headers["x-process-time"]) >= 0
        assert len(answer.headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2_3", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("é", False)],
)
async def test_a_well_formed_request_id_is_kept(given: str, kept: bool) -> None:
    async with serve(ScriptedEngine("x")) as running:
        headers = {"x-request-id": given.encode()}
        answer: httpx.Response = await running.client.get("/livez", headers=headers)
    assert (answer.headers["x-request-id"] == given) is kept


async def test_the_engine_never_sees_the_clients_id() -> None:
    engine = ScriptedEngine("x")
    async with serve(engine) as running:
        body = {"messages": [{"role": "user", "content": "x"}], "rid": "a", "request_id": "a"}
        headers = {"x-request-id": "a", "x-override-rid": "a"}
        await running.client.post("/v1/chat/completions", json=body, headers=headers)
    assert len(engine.calls[0][2]) == 32


async def test_a_model_named_by_its_folder_is_found() -> None:
    async with serve(ScriptedEngine("x"), MODEL_PATH="/models/llama") as running:
        card = await running.client.get("/v1/models/%2Fmodels%2Fllama")
    assert card.json()["id"] == "/models/llama"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": [0] * 400_000}, "messages[0]"),
        ("/v1/chat/completions", {"messages": [0] * 2000}, "messages[0]"),
        ("/v1/completions", {"prompt": [[]] * 90_000}, "prompt"),
        ("/v1/completions", {"prompt": "x", "stop": [1] * 400_000}, "stop"),
        (
            "/v1/completions",
            {"prompt": "x", "logit_bias": {f"k{n}": "x" for n in range(45_000)}},
            "logit_bias",
        ),
        ("/v1/completions", {"prompt": "x", "logit_bias": {"9" * 140_000: 1}}, "logit_bias"),
    ],
)
async def test_a_flood_of_mistakes_is_refused_at_once_and_not_repeated(
    path: str, body: Any, param: str
) -> None:
    async with serve(ScriptedEngine("x")) as running:
        answer = await running.client.post(path, json=body)
        dialect = {each.path: each for each in DIALECTS}[path]
        # The client encodes half a million entries on this very loop: the server's part alone.
        raw = json.dumps(body).encode()
        # The heap of this process holds the whole suite; a server's is not walked for one request.
        gc.collect()
        gc.freeze()
        try:
            began = time.thread_time()
            with pytest.raises(InvalidRequest):
                read(dialect.body, raw, running.serving.bounds, dialect.path)
            spent = time.thread_time() - began
        finally:
            gc.unfreeze()
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert len(answer.content) < 1000
    print(f"{len(raw)} bytes refused in {spent * 1e3:.0f} ms")
    assert spent < 0.25


async def test_a_value_of_another_type_is_not_taken_for_harmless() -> None:
    async with serve(ScriptedEngine("x")) as running:
        answer = await running.client.post(
            "/v1/completions", json={"prompt": "x", "use_beam_search": 0}
        )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "use_beam_search")


async def test_min_p_does_not_reach_an_engine_that_samples_deterministically() -> None:
    async with serve(ScriptedEngine("x", honours_seed=True)) as running:
        assert (await running.chat(min_p=0.1)).status_code == 400
        assert (await running.chat(min_p=0)).status_code == 200
