"""`/generate` on the wire, with SGLang's own benchmark as a judge."""

from __future__ import annotations

import asyncio
import json
import sys
from itertools import pairwise
from typing import Any

import httpx
import pytest

from app.errors import InternalError
from app.types import Scoring
from tests.support.scripted import ScriptedEngine
from tests.support.serving import Running, serve
from tests.support.sse import frames


async def generate(running: Running, text: Any = "hi", **fields: Any) -> httpx.Response:
    body = fields if "input_ids" in fields else {"text": text, **fields}
    return await running.client.post("/generate", json=body)


async def test_one_prompt_is_answered_by_one_object():
    async with serve(ScriptedEngine("Hel", "lo", matched=7)) as running:
        response = await generate(running, sampling_params={"max_new_tokens": 8})
    assert response.status_code == 200, response.text
    body = response.json()
    meta = body.pop("meta_info")
    assert body == {"text": "Hello", "output_ids": [ord("H"), ord("l")]}
    assert len(meta.pop("id")) == 32
    assert meta.pop("e2e_latency") > 0
    assert meta == {
        "finish_reason": {"type": "stop", "matched": 7},
        "prompt_tokens": 2, "completion_tokens": 2, "cached_tokens": 0,
    }  # fmt: skip


async def test_each_frame_of_a_stream_repeats_the_answer_so_far():
    async with serve(ScriptedEngine("Hel", "lö\n", finish="length")) as running:
        response = await generate(running, stream=True, input_ids=[104, 105, 106])
    assert response.headers["content-type"].startswith("text/event-stream")
    *answers, done = frames(response.text)
    assert done == "[DONE]"
    assert [each["text"] for each in answers] == ["Hel", "Hello\n".replace("o", "ö"), "Hellö\n"]
    assert [each["output_ids"] for each in answers] == [[72], [72, 108], [72, 108]]
    metas = [each["meta_info"] for each in answers]
    assert [meta["completion_tokens"] for meta in metas] == [1, 2, 2]
    assert [meta["prompt_tokens"] for meta in metas] == [3, 3, 3]
    reasons = [meta["finish_reason"] for meta in metas]
    assert reasons == [None, None, {"type": "length", "length": 2}]
    assert all("index" not in each for each in answers)


@pytest.mark.parametrize("stream", [False, True])
async def test_several_prompts_and_choices_are_answered_by_a_list(stream):
    engine = ScriptedEngine(script=lambda choice: [f"{choice}"])
    async with serve(engine) as running:
        response = await generate(
            running, ["a", "bc"], stream=stream, sampling_params={"n": 2, "temperature": 0.5}
        )
    if stream:
        *sent, done = frames(response.text)
        assert done == "[DONE]"
        last = {each["index"]: each for each in sent if each["meta_info"]["finish_reason"]}
        answers = [last[index] for index in range(4)]
    else:
        answers = response.json()
    assert [each["text"] for each in answers] == ["0", "1", "0", "1"]
    assert [each["meta_info"]["prompt_tokens"] for each in answers] == [1, 1, 2, 2]


@pytest.mark.parametrize("field", [{"text": ["a"]}, {"input_ids": [[97]]}])
async def test_a_list_of_one_prompt_is_answered_by_a_list(field):
    async with serve(ScriptedEngine("x")) as running:
        response = await running.client.post("/generate", json=field)
    assert [each["text"] for each in response.json()] == ["x"]


async def test_a_failure_in_a_stream_is_its_last_frame():
    async with serve(ScriptedEngine("some", InternalError("broken"))) as running:
        response = await generate(running, stream=True)
    first, error, done = frames(response.text)
    assert (first["text"], done) == ("some", "[DONE]")
    assert error["error"]["message"] == "broken"


async def test_an_embedding_model_generates_nothing():
    async with serve(ScriptedEngine("x", embedding_size=8)) as running:
        response = await generate(running)
    assert response.status_code == 400


async def test_a_long_stream_does_not_cost_its_length_squared():
    steps = ["word " * 50] * 1000
    async with serve(ScriptedEngine(*steps)) as running:
        response = await generate(running, stream=True)
    *answers, last, _ = frames(response.text)
    assert last["text"] == "".join(steps)
    assert len(last["output_ids"]) == last["meta_info"]["completion_tokens"] == 1000
    assert len(answers) < 400
    sizes = [len(json.dumps(each)) for each in answers]
    assert all(after - before < 5000 + before / 50 for before, after in pairwise(sizes))


# -- log-probabilities -------------------------------------------------------------------------


async def test_logprobs_of_the_answer():
    engine = ScriptedEngine("H", "i")
    async with serve(engine) as running:
        response = await generate(running, return_logprob=True, logprob_start_len=-1)
    meta = response.json()["meta_info"]
    assert meta["input_token_logprobs"] == []
    assert meta["output_token_logprobs"] == [[-0.25, 72, None], [-0.265625, 105, None]]
    assert meta["output_token_logprobs_length"] == 2
    assert "output_top_logprobs" not in meta
    assert engine.scorings == [Scoring(param="return_logprob")]


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_of_the_prompt_with_alternatives(stream):
    engine = ScriptedEngine("H", "i")
    fields = {"top_logprobs_num": 2, "logprob_start_len": 1, "return_text_in_logprobs": True}
    async with serve(engine) as running:
        response = await generate(running, "abc", return_logprob=True, stream=stream, **fields)
    body = frames(response.text)[-2] if stream else response.json()
    meta = body["meta_info"]
    # The first scored token has no log-probability, wherever it is.
    assert meta["input_token_logprobs"] == [[None, 98, "b"], [-0.296875, 99, "c"]]
    assert meta["input_top_logprobs"] == [None, [[-0.296875, 99, "c"], [-0.796875, 100, "d"]]]
    assert meta["output_token_logprobs"] == [[-0.25, 72, "H"], [-0.265625, 105, "i"]]
    assert [len(each) for each in meta["output_top_logprobs"]] == [2, 2]


async def test_logprobs_in_a_stream_grow():
    async with serve(ScriptedEngine("a", "b", "c")) as running:
        response = await generate(running, return_logprob=True, logprob_start_len=0, stream=True)
    metas = [each["meta_info"] for each in frames(response.text)[:-1]]
    assert [len(meta["output_token_logprobs"]) for meta in metas] == [1, 2, 3, 3]
    assert [len(meta["input_token_logprobs"]) for meta in metas] == [2, 2, 2, 2]


async def test_a_prompt_can_be_scored_without_an_answer():
    async with serve(ScriptedEngine("x")) as running:
        response = await generate(
            running, ["ab", "abc"], sampling_params={"max_new_tokens": 0, "temperature": 0},
            return_logprob=True, logprob_start_len=0,
        )  # fmt: skip
    answers = response.json()
    assert [each["text"] for each in answers] == ["", ""]
    assert [len(each["meta_info"]["input_token_logprobs"]) for each in answers] == [2, 3]


# -- SGLang itself as the judge ----------------------------------------------------------------


BENCHMARK = """
import asyncio, dataclasses, json, sys, warnings
warnings.simplefilter("ignore")
from argparse import Namespace
from sglang.benchmark import serving

async def request(stream):
    serving.args = Namespace(
        temperature=0.0, top_p=1.0, disable_ignore_eos=False, disable_stream=not stream,
        return_logprob=True, return_routed_experts=False, logprob_start_len=-1,
        top_logprobs_num=2, token_ids_logprob=None, header=None, cache_report=True,
    )
    body = serving.RequestFuncInput(
        prompt=[104, 105], api_url=sys.argv[1], prompt_len=2, output_len=3, model="default",
        lora_name=None, image_data=None, extra_request_body={},
    )
    return dataclasses.asdict(await serving.async_request_sglang_generate(body))

async def main():
    print("answers", json.dumps([await request(True), await request(False)], default=str))

asyncio.run(main())
"""


@pytest.mark.full
async def test_sglangs_benchmark_reads_the_answer():
    async with serve(ScriptedEngine("Hel", 0.01, "lo", 0.01, "!")) as running:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", BENCHMARK, f"http://127.0.0.1:{running.port}/generate",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 300)
    [line] = [each for each in out.decode().splitlines() if each.startswith("answers")] or [None]
    assert line is not None, err.decode()[-2000:]
    streamed, whole = json.loads(line.removeprefix("answers"))
    for answer in (streamed, whole):
        assert answer["success"], answer["error"]
        assert (answer["generated_text"], answer["output_len"]) == ("Hello!", 3)
        assert answer["prompt_len"] == 2
        assert answer["ttft"] > 0
    assert (len(streamed["itl"]), len(whole["itl"])) == (2, 0)
