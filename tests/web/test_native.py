"""`/generate` on the wire, as SGLang's own clients speak it."""

from __future__ import annotations

import ast
import asyncio
import json
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.dialects.sglang.fields import GenerateBody, GenerateSampling
from app.dialects.sglang.unsupported import IGNORED
from app.errors import InternalError
from app.types import Grammar, Scoring
from tests.support.scripted import ScriptedEngine
from tests.support.serving import Running, serve
from tests.support.sse import frames


async def generate(running: Running, text: Any = "hi", **fields: Any) -> httpx.Response:
    body = fields if "input_ids" in fields else {"text": text, **fields}
    return await running.client.post("/generate", json=body)


async def test_one_prompt_is_one_object():
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


async def test_a_stream_repeats_all_that_came_before():
    async with serve(ScriptedEngine("Hel", "lö\n", finish="length")) as running:
        response = await generate(running, stream=True, input_ids=[104, 105, 106])
    assert response.headers["content-type"].startswith("text/event-stream")
    *found, done = frames(response.text)
    assert done == "[DONE]"
    assert [each["text"] for each in found] == ["Hel", "Hello\n".replace("o", "ö"), "Hellö\n"]
    assert [each["output_ids"] for each in found] == [[72], [72, 108], [72, 108]]
    metas = [each["meta_info"] for each in found]
    assert [meta["completion_tokens"] for meta in metas] == [1, 2, 2]
    assert [meta["prompt_tokens"] for meta in metas] == [3, 3, 3]
    reasons = [meta["finish_reason"] for meta in metas]
    assert reasons == [None, None, {"type": "length", "length": 2}]
    assert all("index" not in each for each in found)


@pytest.mark.parametrize("stream", [False, True])
async def test_several_prompts_and_choices_are_a_list(stream):
    engine = ScriptedEngine(script=lambda choice: [f"{choice}"])
    async with serve(engine) as running:
        response = await generate(
            running, ["a", "bc"], stream=stream, sampling_params={"n": 2, "temperature": 0.5}
        )
    if stream:
        *found, done = frames(response.text)
        assert done == "[DONE]"
        last = {each["index"]: each for each in found if each["meta_info"]["finish_reason"]}
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


async def test_sampling_has_sglangs_defaults_not_the_models():
    engine = ScriptedEngine("x", default_sampling={"temperature": 0.6, "top_k": 20})
    async with serve(engine) as running:
        await generate(running)
        await generate(running, sampling_params={"max_new_tokens": None})
    (_, sampling, _, _), (_, unbounded, _, _) = engine.calls
    assert (sampling.max_tokens, sampling.temperature, sampling.top_k) == (128, 1.0, -1)
    assert (sampling.top_p, sampling.min_p, sampling.repetition_penalty) == (1.0, 0.0, 1.0)
    assert unbounded.max_tokens is None


async def test_sampling_params_arrive():
    engine = ScriptedEngine("x")
    params = {
        "max_new_tokens": 9, "min_new_tokens": 2, "temperature": 0, "top_p": 0.5, "top_k": 3,
        "min_p": 0.1, "frequency_penalty": 1, "presence_penalty": -1, "repetition_penalty": 1.1,
        "stop": "END", "stop_token_ids": [5], "ignore_eos": True, "skip_special_tokens": False,
        "n": 2, "logit_bias": {"7": -100}, "sampling_seed": 11, "stop_regex": [],
        "spaces_between_special_tokens": True, "no_stop_trim": False,
    }  # fmt: skip
    async with serve(engine) as running:
        response = await generate(running, sampling_params=params)
    assert response.status_code == 200, response.text
    [(_, sampling, _, choices)] = engine.calls
    assert (sampling.max_tokens, sampling.min_tokens, choices) == (9, 2, 2)
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0, 0.5, 3)
    assert (sampling.stop, sampling.stop_token_ids, sampling.seed) == (("END",), (5,), 11)
    assert sampling.ignore_eos
    assert not sampling.skip_special_tokens
    assert sampling.logit_bias == {"7": -100}


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
    assert engine.scorings == [Scoring(top=0, prompt_from=None)]


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_of_the_prompt_with_alternatives(stream):
    engine = ScriptedEngine("H", "i")
    fields = {"top_logprobs_num": 2, "logprob_start_len": 1, "return_text_in_logprobs": True}
    async with serve(engine) as running:
        response = await generate(running, "abc", return_logprob=True, stream=stream, **fields)
    body = frames(response.text)[-2] if stream else response.json()
    meta = body["meta_info"]
    # The first one has none, wherever it is.
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


async def test_a_long_stream_does_not_cost_its_length_squared():
    steps = ["word " * 50] * 1000
    async with serve(ScriptedEngine(*steps)) as running:
        response = await generate(running, stream=True)
    *found, last, _ = frames(response.text)
    assert last["text"] == "".join(steps)
    assert len(last["output_ids"]) == last["meta_info"]["completion_tokens"] == 1000
    assert len(found) < 400
    sizes = [len(json.dumps(each)) for each in found]
    assert all(after - before < 5000 + before / 50 for before, after in pairwise(sizes))


# -- what is refused ---------------------------------------------------------------------------

LONG = "x" * 300


WRONG_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({}, "text"),
    ({"text": None, "input_ids": None}, "text"),
    ({"text": "a", "input_ids": [1]}, "input_ids"),
    ({"text": 5}, "text"),
    ({"text": []}, "text"),
    ({"text": [1, 2]}, "text"),
    ({"text": ["a", 1]}, "text"),
    ({"text": ["a"] * 65}, "text"),
    ({"text": ""}, "text"),
    ({"input_ids": "a"}, "input_ids"),
    ({"input_ids": ["a"]}, "input_ids"),
    ({"input_ids": []}, "input_ids"),
    ({"input_ids": [[]]}, "input_ids[0]"),
    ({"input_ids": [True]}, "input_ids"),
    ({"input_ids": [1.0]}, "input_ids"),
    ({"input_ids": [-1]}, "input_ids"),
    ({"input_ids": [0x110000]}, "input_ids"),
    ({"input_ids": [[1], [0x110000]]}, "input_ids[1]"),
    ({"input_ids": [1, [2]]}, "input_ids"),
    ({"text": "a", "stream": 1}, "stream"),
    ({"text": "a", "return_logprob": "yes"}, "return_logprob"),
    ({"text": ["a", "b"], "return_logprob": [True, False]}, "return_logprob"),
    ({"text": "a", "top_logprobs_num": 21}, "top_logprobs_num"),
    ({"text": "a", "top_logprobs_num": -1}, "top_logprobs_num"),
    ({"text": "a", "logprob_start_len": -2}, "logprob_start_len"),
    ({"text": "a", "logprob_start_len": 2**40}, "logprob_start_len"),
    ({"text": "a", "sampling_params": 5}, "sampling_params"),
    ({"text": "a", "sampling_params": []}, "sampling_params"),
    ({"text": ["a", "b"], "sampling_params": [{"n": 1}, {"n": 2}]}, "sampling_params"),
    ({"text": "a", "lora_path": "x"}, "lora_path"),
    ({"text": "a", "image_data": "http://x/y.png"}, "image_data"),
    ({"text": "a", "session_params": {"id": "x"}}, "session_params"),
    ({"text": "a", "custom_logit_processor": "x"}, "custom_logit_processor"),
    ({"text": "a", "return_hidden_states": True}, "return_hidden_states"),
    ({"text": "a", "token_ids_logprob": [1]}, "token_ids_logprob"),
    ({"text": "a", "input_embeds": [[0.1]]}, "input_embeds"),
    ({"text": "a", "bootstrap_room": 0}, "bootstrap_room"),
    ({"text": "a", "priority": 1}, "priority"),
]  # fmt: skip


async def test_a_wrong_field_is_named():
    engine = ScriptedEngine("x")
    named = []
    async with serve(engine) as running:
        for fields, _ in WRONG_FIELDS:
            response = await running.client.post("/generate", json=fields)
            assert response.status_code == 400, (fields, response.text)
            assert response.json()["error"]["type"] == "invalid_request_error"
            named.append((fields, response.json()["error"]["param"]))
    assert named == WRONG_FIELDS
    assert not engine.calls


WRONG_PARAMETERS: list[tuple[dict[str, Any], str]] = [
    ({"max_new_tokens": -1}, "max_new_tokens"),
    ({"max_new_tokens": "5"}, "max_new_tokens"),
    ({"max_new_tokens": True}, "max_new_tokens"),
    ({"max_new_tokens": 2**31}, "max_new_tokens"),
    ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens"),
    ({"temperature": 1e308}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": 2**31}, "top_k"),
    ({"top_k": -2}, "top_k"),
    ({"repetition_penalty": 1e-46}, "repetition_penalty"),
    ({"frequency_penalty": 2.1}, "frequency_penalty"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop": LONG}, "stop[0]"),
    ({"stop": [""]}, "stop[0]"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
    ({"stop_token_ids": [1] * 65}, "stop_token_ids"),
    ({"logit_bias": {str(i): 1 for i in range(301)}}, "logit_bias"),
    ({"logit_bias": {"1": 1e39}}, "logit_bias"),
    ({"n": 17}, "n"),
    ({"n": 0}, "n"),
    ({"sampling_seed": 2**63}, "sampling_seed"),
    ({"json_schema": {"type": "object"}}, "json_schema"),
    ({"json_schema": "no JSON"}, "json_schema"),
    ({"json_schema": "[]"}, "json_schema"),
    ({"json_schema": "[" * 5000}, "json_schema"),
    ({"json_schema": '{"a":' * 40 + "1" + "}" * 40}, "json_schema"),
    ({"regex": "a"}, "regex"),
    ({"ebnf": "root ::= 'a'"}, "ebnf"),
    ({"structural_tag": "{}"}, "structural_tag"),
    ({"stop_regex": "(a+)+$"}, "stop_regex"),
    ({"custom_params": {"a": 1}}, "custom_params"),
    ({"beam_width": 4}, "beam_width"),
    ({"no_stop_trim": True}, "no_stop_trim"),
    ({"spaces_between_special_tokens": False}, "spaces_between_special_tokens"),
    ({"max_tokens": 5}, "max_tokens"),
    ({"stop_strs": ["a"]}, "stop_strs"),
]  # fmt: skip


async def test_a_wrong_sampling_parameter_is_named():
    engine = ScriptedEngine("x")
    named = []
    async with serve(engine) as running:
        for params, _ in WRONG_PARAMETERS:
            response = await generate(running, sampling_params=params)
            assert response.status_code == 400, (params, response.text)
            param = response.json()["error"]["param"]
            named.append((params, param.removeprefix("sampling_params.")))
    assert named == WRONG_PARAMETERS
    assert not engine.calls


async def test_ids_of_the_sampling_must_be_in_the_vocabulary():
    async with serve(ScriptedEngine("x", vocab_size=500)) as running:
        for params in ({"stop_token_ids": [500]}, {"logit_bias": {"500": 1}}, {"top_k": 501}):
            response = await generate(running, sampling_params=params)
            assert response.status_code == 400, params


async def test_what_changes_nothing_is_taken():
    engine = ScriptedEngine("x")
    async with serve(engine) as running:
        response = await generate(
            running, ["a", "b"], rid=["HEALTH_CHECK_1", ""], lora_path=None, image_data=[],
            return_logprob=[False, False], return_routed_experts=False, return_hidden_states=False,
            data_parallel_rank=0, log_metrics=True, routing_key="k", custom_labels={"a": "b"},
            sampling_params=[{"max_new_tokens": 3}, {"max_new_tokens": 3}], new_in_sglang_0_6=True,
        )  # fmt: skip
    assert response.status_code == 200, response.text
    assert [sampling.max_tokens for _, sampling, _, _ in engine.calls] == [3, 3]
    assert not any("HEALTH_CHECK" in id for _, _, id, _ in engine.calls)


async def test_a_json_schema_is_a_grammar():
    engine = ScriptedEngine("x")
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    async with serve(engine) as running:
        params = {"json_schema": json.dumps(schema), "regex": ""}
        assert (await generate(running, sampling_params=params)).status_code == 200
    [(_, sampling, _, _)] = engine.calls
    assert sampling.grammar is not None
    assert json.loads(sampling.grammar.text) == schema


async def test_grammars_are_taken_only_where_the_operator_allows_them():
    engine = ScriptedEngine("x")
    async with serve(engine, ALLOW_GRAMMARS="true") as running:
        for params, status in (
            ({"regex": "[a-z]+"}, 200),
            ({"regex": "a{1,5000}"}, 400),
            ({"ebnf": 'root ::= "a"'}, 200),
            ({"ebnf": "\0"}, 400),
            ({"structural_tag": "{}"}, 200),
            ({"structural_tag": "no"}, 400),
            ({"regex": "a", "ebnf": "b"}, 400),
        ):
            response = await generate(running, sampling_params=params)
            assert response.status_code == status, (params, response.text)
    assert engine.calls[0][1].grammar == Grammar("regex", "[a-z]+")


async def test_a_late_failure_is_a_frame_and_the_end():
    async with serve(ScriptedEngine("some", InternalError("broken"))) as running:
        response = await generate(running, stream=True)
    first, error, done = frames(response.text)
    assert (first["text"], done) == ("some", "[DONE]")
    assert error["error"]["message"] == "broken"


async def test_an_embedding_model_generates_nothing():
    async with serve(ScriptedEngine("x", embedding_size=8)) as running:
        response = await generate(running)
    assert response.status_code == 400


# -- SGLang itself as the judge ----------------------------------------------------------------


@pytest.mark.full
def test_every_field_of_sglang_is_ours_or_refused_or_ignored():
    known = GenerateBody.model_fields.keys() | GenerateBody.unsupported
    assert _fields("srt/managers/io_struct.py", "GenerateReqInput") <= known | {*IGNORED}
    sampling = GenerateSampling.model_fields.keys() | GenerateSampling.unsupported
    internal = {
        "stop_strs", "stop_regex_strs", "stop_str_max_len", "stop_regex_max_len", "is_normalized",
        "ebnf_full_assistant",
    }  # fmt: skip
    assert _fields("srt/sampling/sampling_params.py", "SamplingParams") == sampling | internal


def _fields(module: str, name: str) -> set[str]:
    spec = find_spec("sglang")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse((Path(spec.origin).parent / module).read_text())
    [found] = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name]
    return {n.target.id for n in found.body if isinstance(n, ast.AnnAssign)}  # type: ignore[union-attr]


BENCHMARK = """
import asyncio, dataclasses, json, sys, warnings
warnings.simplefilter("ignore")
from argparse import Namespace
from sglang.benchmark import serving

async def ask(stream):
    serving.args = Namespace(
        temperature=0.0, top_p=1.0, disable_ignore_eos=False, disable_stream=not stream,
        return_logprob=True, return_routed_experts=False, logprob_start_len=-1,
        top_logprobs_num=2, token_ids_logprob=None, header=None, cache_report=True,
    )
    asked = serving.RequestFuncInput(
        prompt=[104, 105], api_url=sys.argv[1], prompt_len=2, output_len=3, model="default",
        lora_name=None, image_data=None, extra_request_body={},
    )
    return dataclasses.asdict(await serving.async_request_sglang_generate(asked))

async def main():
    print("found", json.dumps([await ask(True), await ask(False)], default=str))

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
    [line] = [each for each in out.decode().splitlines() if each.startswith("found")] or [None]
    assert line is not None, err.decode()[-2000:]
    streamed, whole = json.loads(line.removeprefix("found"))
    for found in (streamed, whole):
        assert found["success"], found["error"]
        assert (found["generated_text"], found["output_len"]) == ("Hello!", 3)
        assert found["prompt_len"] == 2
        assert found["ttft"] > 0
    assert (len(streamed["itl"]), len(whole["itl"])) == (2, 0)
