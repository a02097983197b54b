"""What callers of the platform receive: every route and form, through the SDK's own loop."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import AsyncOpenAI

from app.dialects import routes
from app.runpod.batches import MAX_YIELD_BYTES, Batches
from app.types import Message, Text
from app.web import app as web
from tests.runpod.station import CHAT, COMPLETIONS, HI, openai, working
from tests.support import sse
from tests.support.scripted import ScriptedEngine


@pytest.fixture
def no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes of yields do not depend on how fast the machine is."""
    monkeypatch.setitem(Batches.__init__.__kwdefaults__, "patience_s", 3600)


async def test_a_conversation_is_answered_with_one_openai_object() -> None:
    async with working(ScriptedEngine("He", "llo")) as station:
        for input in (openai(CHAT, messages=HI), {"messages": HI}, {"route": CHAT, "body": {
            "messages": HI}, "method": "POST"}):  # fmt: skip
            job = await station.ask(input)
            (answer,) = job.output
            assert answer["choices"][0]["message"]["content"] == "Hello"
            assert answer["usage"]["completion_tokens"] == 2
            assert answer["model"] == "meta-llama/Meta-Llama-3.1-8B-Instruct"
            assert job.pieces == job.output


async def test_a_stream_is_openais_events_as_text() -> None:
    async with working(ScriptedEngine(*"Hello")) as station:
        job = await station.ask(openai(CHAT, messages=HI, stream=True))
        assert all(isinstance(piece, str) for piece in job.pieces)
        frames = sse.frames("".join(job.pieces))
        assert sse.text_of(frames) == "Hello"
        assert frames[-1] == "[DONE]"
        assert job.output == job.pieces


async def test_without_raw_openai_output_a_stream_is_lists_of_chunks() -> None:
    async with working(ScriptedEngine(*"Hello"), RAW_OPENAI_OUTPUT="0") as station:
        job = await station.ask(openai(CHAT, messages=HI, stream=True))
        chunks = [chunk for piece in job.pieces for chunk in piece]
        assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
        assert sse.text_of(chunks) == "Hello"


@pytest.mark.usefixtures("no_timer")
async def test_yields_grow_like_worker_vllms() -> None:
    async with working(ScriptedEngine(*"x" * 150), JOB_OUTPUT="classic") as station:
        job = await station.ask({"prompt": "a", "stream": True})
        sizes = [len(piece["choices"][0]["tokens"]) for piece in job.pieces]
        assert sizes == [1, 3, 9, 27, 50, 50, 10]
        job = await station.ask(
            {"prompt": "a", "stream": True, "min_batch_size": 2, "max_batch_size": 20,
             "batch_size_growth_factor": 2}
        )  # fmt: skip
        sizes = [len(piece["choices"][0]["tokens"]) for piece in job.pieces]
        assert sizes == [2, 4, 8, 16, *[20] * 6]


@pytest.mark.usefixtures("no_timer")
async def test_yields_of_openais_streams_grow_too() -> None:
    async with working(ScriptedEngine(*"x" * 100), RAW_OPENAI_OUTPUT="0") as station:
        job = await station.ask(openai(CHAT, messages=HI, stream=True))
        assert [len(piece) for piece in job.pieces] == [1, 3, 9, 27, 50, 12]


async def test_a_job_of_worker_vllms_is_answered_in_openais_form() -> None:
    prompt = {"prompt": "abc", "sampling_params": {"max_tokens": 8, "logprobs": 1}}
    chat = {
        "messages": HI,
        "sampling_params": {"max_tokens": 8, "response_format": {"type": "text"}},
    }
    async with working(ScriptedEngine("He", "llo")) as station:
        (answer,) = (await station.ask(prompt)).output
        assert answer["object"] == "text_completion"
        assert answer["choices"][0]["text"] == "Hello"
        assert len(answer["choices"][0]["logprobs"]["tokens"]) == 2
        assert answer["usage"]["completion_tokens"] == 2
        (answer,) = (await station.ask(chat)).output
        assert answer["choices"][0]["message"]["content"] == "Hello"
        job = await station.ask({**prompt, "stream": True})
        frames = sse.frames("".join(job.pieces))
        assert "".join(frame["choices"][0]["text"] for frame in frames[:-1]) == "Hello"


async def test_a_prompt_is_answered_in_worker_vllms_classic_form() -> None:
    async with working(ScriptedEngine("He", "llo"), JOB_OUTPUT="classic") as station:
        job = await station.ask({"prompt": "abc", "sampling_params": {"max_tokens": 8}})
        assert job.output == [
            {"choices": [{"tokens": ["Hello"]}], "usage": {"input": 3, "output": 2}}
        ]
        (prompt, sampling, _, _), *_ = station.engine.calls
        assert (prompt, sampling.max_tokens) == ([97, 98, 99], 8)


async def test_worker_vllms_stream_counts_the_tokens_of_all_choices() -> None:
    async with working(ScriptedEngine("a", "b", ""), JOB_OUTPUT="classic") as station:
        job = await station.ask({"prompt": "abc", "stream": True, "sampling_params": {"n": 2}})
        texts: list[list[str]] = [[], []]
        for piece in job.pieces:
            for tokens, choice in zip(texts, piece["choices"], strict=True):
                tokens += choice["tokens"]
        assert texts == [["a", "b"], ["a", "b"]]
        assert job.pieces[-1]["usage"] == {"input": 3, "output": 6}


async def test_a_conversation_with_vllms_fields_is_answered_in_the_classic_form() -> None:
    async with working(ScriptedEngine("yes"), JOB_OUTPUT="classic") as station:
        for input in (
            {"prompt": "hi", "apply_chat_template": True},
            {"messages": HI, "sampling_params": {"max_tokens": 100}},
        ):
            job = await station.ask(input)
            assert job.output[0]["choices"] == [{"tokens": ["yes"]}]
            assert station.engine.chats[-1].messages == [Message(role="user", parts=(Text("hi"),))]
            assert station.engine.calls[-1][1].max_tokens == 100


async def test_best_of_returns_the_best_choice() -> None:
    engine = ScriptedEngine(script=lambda choice: ["h" if choice == 2 else "o"])
    async with working(engine, JOB_OUTPUT="classic") as station:
        job = await station.ask({"prompt": "a", "sampling_params": {"best_of": 3}})
        assert job.output[0]["choices"] == [{"tokens": ["h"]}]


async def test_a_job_for_sglangs_generate_is_answered_in_its_form() -> None:
    async with working(ScriptedEngine("a", "b")) as station:
        job = await station.ask({"text": "x", "sampling_params": {"max_new_tokens": 2}})
        assert job.output[0]["text"] == "ab"
        assert job.output[0]["meta_info"]["completion_tokens"] == 2
        job = await station.ask({"input_ids": [1], "stream": True})
        frames = sse.frames("".join(job.pieces))
        assert [frame["text"] for frame in frames[:-1]] == ["a", "ab", "ab"]


async def test_every_other_route_answers() -> None:
    async with working(ScriptedEngine("a")) as station:
        name = "meta-llama/Meta-Llama-3.1-8B-Instruct"

        async def answer(input: dict[str, Any]) -> Any:
            return (await station.ask(input)).output[0]

        assert (await answer({"openai_route": "/v1/models"}))["data"][0]["id"] == name
        assert (await answer({"openai_route": f"/v1/models/{name}"}))["id"] == name
        assert (await answer({"route": "/health"}))["status"] == "ok"
        assert (await answer(openai("/tokenize", prompt="ab")))["tokens"] == [97, 98]
        assert (await answer(openai("/detokenize", tokens=[97])))["text"] == "a"
        assert (await answer(openai("/v1/tokens", input="abc"))) == {"prompt_tokens": 3}
        assert (await answer(openai(COMPLETIONS, prompt="x")))["choices"][0]["text"] == "a"


async def test_an_embedding_model_embeds() -> None:
    async with working(ScriptedEngine(embedding_size=4)) as station:
        job = await station.ask(openai("/v1/embeddings", input=["a", "b"]))
        assert len(job.output[0]["data"]) == 2


def test_jobs_and_http_have_the_same_dialects() -> None:
    assert routes.DIALECTS == web.DIALECTS


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # the SDK's last post
async def test_no_yield_is_larger_than_the_platform_accepts() -> None:
    text = '"\\\x01é' * 300_000
    async with working(ScriptedEngine(text, "b")) as station:
        job = await station.ask(openai(CHAT, messages=HI, stream=True))
        assert sse.text_of(sse.frames("".join(job.pieces))) == text + "b"
        assert len(job.sizes) > 2
        assert max(job.sizes) < MAX_YIELD_BYTES + 1000


@pytest.mark.parametrize("stream", [False, True])
async def test_openais_sdk_works_through_the_platform(stream: bool) -> None:
    async with working(ScriptedEngine(*"Hello")) as station:
        url = station.platform.url + "/openai/v1"
        async with AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as client:
            names = [model.id async for model in client.models.list()]
            if stream:
                chunks = await client.chat.completions.create(
                    model=names[0], messages=HI, stream=True
                )
                text = "".join([c.choices[0].delta.content or "" async for c in chunks])
            else:
                whole = await client.chat.completions.create(model=names[0], messages=HI)
                text = whole.choices[0].message.content
        assert text == "Hello"


async def test_any_text_survives_json() -> None:
    text = 'a"\\\n\u2028é😀'
    async with working(ScriptedEngine(text), JOB_OUTPUT="classic") as station:
        job = await station.ask({"prompt": "x", "stream": True})
        assert job.pieces[0]["choices"][0]["tokens"] == [text]
        assert json.loads(json.dumps(job.output)) == job.output
