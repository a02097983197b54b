"""The fields of `/generate`: which are honoured, refused by name, or ignored."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.support.scripted import ScriptedEngine
from tests.support.serving import Running, serve


async def generate(running: Running, text: Any = "hi", **fields: Any) -> httpx.Response:
    body = fields if "input_ids" in fields else {"text": text, **fields}
    return await running.client.post("/generate", json=body)


async def test_sampling_has_sglangs_defaults_not_the_models():
    engine = ScriptedEngine("x", default_sampling={"temperature": 0.6, "top_k": 20})
    async with serve(engine) as running:
        await generate(running)
        await generate(running, sampling_params={"max_new_tokens": None})
    (_, sampling, _, _), (_, unbounded, _, _) = engine.calls
    assert (sampling.max_tokens, sampling.temperature, sampling.top_k) == (128, 1.0, -1)
    assert (sampling.top_p, sampling.min_p, sampling.repetition_penalty) == (1.0, 0.0, 1.0)
    assert unbounded.max_tokens is None


async def test_sampling_params_reach_the_engine():
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


async def test_fields_and_values_without_effect_are_accepted():
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


async def test_grammars_are_accepted_only_if_the_operator_allows_them():
    engine = ScriptedEngine("x")
    async with serve(engine, ALLOW_GRAMMARS="true") as running:
        for params, status in (
            ({"regex": "[a-z]+"}, 200),
            ({"regex": "a{1,5000}"}, 400),
            ({"ebnf": 'root ::= "a"'}, 200),
            ({"ebnf": "\0"}, 400),
            ({"structural_tag": '{"format": {"type": "any_text"}}'}, 200),
            ({"structural_tag": "{}"}, 400),
            ({"structural_tag": "no"}, 400),
            ({"regex": "a", "ebnf": "b"}, 400),
        ):
            response = await generate(running, sampling_params=params)
            assert response.status_code == status, (params, response.text)
    grammar = engine.calls[0][1].grammar
    assert (grammar.kind, grammar.text) == ("regex", "[a-z]+")
    assert grammar.param == "sampling_params.regex"


async def test_token_ids_in_sampling_parameters_must_be_in_the_vocabulary():
    async with serve(ScriptedEngine("x", vocab_size=500)) as running:
        for params in ({"stop_token_ids": [500]}, {"logit_bias": {"500": 1}}, {"top_k": 501}):
            response = await generate(running, sampling_params=params)
            assert response.status_code == 400, params


# -- fields that are refused -------------------------------------------------------------------


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
    ({"text": "a", "lora_path": ["x", "y"]}, "lora_path"),
    ({"text": "a", "image_data": "http://x/y.png"}, "image_data"),
    ({"text": ["a", "b"], "image_data": ["x"]}, "image_data"),
    ({"text": "a", "image_data": 5}, "image_data"),
    ({"input_ids": [1], "image_data": "x"}, "image_data"),
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
    ({"no_stop_trim": 1}, "no_stop_trim"),
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
