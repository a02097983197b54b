"""A job's input as one request: every shape that older workers accept, and every refusal."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.errors import BodyTooLarge, InvalidRequest, ServeError, UnsupportedParameter
from app.runpod.backend import OutputForm
from app.runpod.batches import Growth
from app.runpod.jobs import Rules, normalised_route, read_job
from tests.runpod.station import CHAT, COMPLETIONS, HI
from tests.support.serving import settings

RULES = Rules.of(settings())
CLASSIC = Rules.of(settings(JOB_OUTPUT="classic"))
UPSTREAM = Rules.of(settings(SGLANG_BASE_URL="http://x", SGLANG_MODEL="theirs"))
GENERATE = "/generate"


def request(input: Any, rules: Rules = RULES) -> tuple[str, str, OutputForm, dict[str, Any]]:
    """Route, method, form of the output, body."""
    job = read_job(input, rules)
    return job.route, job.method, job.form, orjson.loads(job.body)


@pytest.mark.parametrize(
    ("input", "route", "form", "body"),
    [
        (
            {"openai_route": CHAT, "openai_input": {"messages": HI, "stream": True}},
            CHAT, OutputForm.OPENAI, {"messages": HI, "stream": True},
        ),
        ({"openai_route": "chat/completions", "openai_input": {}}, CHAT, OutputForm.OPENAI, {}),
        (
            {"openai_route": "/v1/completions", "openai_input": {"prompt": "a"}},
            COMPLETIONS, OutputForm.OPENAI, {"prompt": "a"},
        ),
        ({"openai_input": {"messages": HI}}, CHAT, OutputForm.OPENAI, {"messages": HI}),
        ({"openai_input": {"prompt": "a"}}, COMPLETIONS, OutputForm.OPENAI, {"prompt": "a"}),
        ({"route": "/tokenize", "body": {"a": 1}}, "/tokenize", OutputForm.OPENAI, {"a": 1}),
        ({"messages": HI}, CHAT, OutputForm.OPENAI, {"messages": HI}),
        ({"messages": HI, "prompt": "no"}, CHAT, OutputForm.OPENAI, {"messages": HI}),
        ({"messages": "hi"}, CHAT, OutputForm.OPENAI, {"messages": HI}),
        (
            {"messages": HI, "extra_body": {"top_k": 3}},
            CHAT, OutputForm.OPENAI, {"messages": HI, "top_k": 3},
        ),
        (
            {"messages": HI, "sampling_params": {"max_tokens": 7}},
            CHAT, OutputForm.VLLM, {"messages": HI, "max_tokens": 7},
        ),
        ({"prompt": "a"}, COMPLETIONS, OutputForm.VLLM, {"prompt": "a", "max_tokens": 100}),
        (
            {"prompt": "hi", "apply_chat_template": True},
            CHAT, OutputForm.VLLM, {"messages": HI, "max_tokens": 100},
        ),
        (
            {"prompt": "a", "stream": True, "sampling_params": {"max_new_tokens": 3}},
            COMPLETIONS, OutputForm.VLLM,
            {
                "prompt": "a", "stream": True, "max_tokens": 3,
                "stream_options": {"continuous_usage_stats": True},
            },
        ),
        (
            {"text": "a", "sampling_params": {"max_new_tokens": 3}, "rid": "x"},
            GENERATE, OutputForm.OPENAI,
            {"text": "a", "sampling_params": {"max_new_tokens": 3}, "rid": "x"},
        ),
        ({"input_ids": [1, 2]}, GENERATE, OutputForm.OPENAI, {"input_ids": [1, 2]}),
    ],
)  # fmt: skip
def test_each_shape_of_a_job_becomes_its_request(
    input: dict[str, Any], route: str, form: OutputForm, body: dict[str, Any]
) -> None:
    assert request(input, CLASSIC) == (route, "POST", form, body)
    if form is OutputForm.OPENAI:
        assert request(input) == (route, "POST", form, body)


@pytest.mark.parametrize(
    ("input", "route", "body"),
    [
        ({"prompt": "a"}, COMPLETIONS, {"prompt": "a"}),
        (
            {"prompt": "a", "stream": True, "sampling_params": {"max_new_tokens": 3}},
            COMPLETIONS, {"prompt": "a", "stream": True, "max_tokens": 3},
        ),
        (
            {"messages": HI, "sampling_params": {"max_tokens": 7, "logprobs": True}},
            CHAT, {"messages": HI, "max_tokens": 7, "logprobs": True},
        ),
        ({"prompt": "hi", "apply_chat_template": True}, CHAT, {"messages": HI}),
    ],
)  # fmt: skip
def test_a_job_of_worker_vllms_is_answered_as_by_the_newest(
    input: dict[str, Any], route: str, body: dict[str, Any]
) -> None:
    assert request(input) == (route, "POST", OutputForm.OPENAI, body)


@pytest.mark.parametrize(
    ("input", "method", "route"),
    [
        ({"openai_route": "/v1/models"}, "GET", "/v1/models"),
        ({"openai_route": "/responses/resp_1"}, "GET", "/v1/responses/resp_1"),
        ({"route": "/v1/responses/resp_1", "method": "DELETE"}, "DELETE", "/v1/responses/resp_1"),
        ({"openai_route": "/v1/responses/r/cancel"}, "POST", "/v1/responses/r/cancel"),
        ({"openai_route": "/conversations", "openai_input": {}}, "POST", "/v1/conversations"),
        ({"openai_route": "/v1/conversations/c/items/i"}, "GET", "/v1/conversations/c/items/i"),
        ({"openai_route": "/models", "openai_input": {}}, "GET", "/v1/models"),
        ({"openai_route": "/v1/models/a/b"}, "GET", "/v1/models/a/b"),
        ({"route": "/health"}, "GET", "/health"),
        ({"route": "/v1/completions"}, "GET", COMPLETIONS),
        ({"route": "/v1/models", "method": "post"}, "POST", "/v1/models"),
    ],
)
def test_read_only_routes_are_requested_with_get(
    input: dict[str, Any], method: str, route: str
) -> None:
    assert request(input)[:2] == (route, method)


@pytest.mark.parametrize(
    ("route", "tidy"),
    [
        ("/v1/v1/chat/completions/", CHAT), ("//chat/completions", CHAT), ("generate", GENERATE),
        ("embeddings", "/v1/embeddings"), ("/v1/models/x", "/v1/models/x"), ("/health/", "/health"),
    ],
)  # fmt: skip
def test_a_route_may_be_written_in_several_ways(route: str, tidy: str) -> None:
    assert normalised_route(route) == tidy


@pytest.mark.parametrize(
    ("output", "job", "form"),
    [
        ("openai", {"prompt": "a"}, OutputForm.OPENAI),
        ("openai", {"messages": HI, "sampling_params": {}}, OutputForm.OPENAI),
        ("vllm", {"messages": HI}, OutputForm.VLLM),
        ("vllm", {"openai_route": CHAT, "openai_input": {"messages": HI}}, OutputForm.OPENAI),
        ("auto", {"messages": HI, "sampling_params": {}}, OutputForm.OPENAI),
        ("auto", {"prompt": "a"}, OutputForm.OPENAI),
        ("classic", {"messages": HI, "sampling_params": {}}, OutputForm.VLLM),
        ("classic", {"messages": HI}, OutputForm.OPENAI),
        ("classic", {"prompt": "a"}, OutputForm.VLLM),
    ],
)
def test_job_output_decides_the_form_of_the_output(
    output: str, job: dict[str, Any], form: OutputForm
) -> None:
    assert request(job, Rules.of(settings(JOB_OUTPUT=output)))[2] is form


def test_vllms_sampling_parameters_are_passed_on_or_change_nothing() -> None:
    params = {
        "n": 2, "best_of": 3, "presence_penalty": 0.1, "frequency_penalty": 0.2,
        "repetition_penalty": 1.1, "temperature": 0.5, "top_p": 0.9, "top_k": 4, "min_p": 0.1,
        "stop": ["x"], "stop_token_ids": [1], "ignore_eos": True, "max_tokens": 9, "min_tokens": 1,
        "skip_special_tokens": False, "seed": 1, "early_stopping": "never",
    }  # fmt: skip
    harmless = {
        "spaces_between_special_tokens": True, "detokenize": True,
        "logprobs": None, "prompt_logprobs": None,
    }  # fmt: skip
    for rules in (RULES, CLASSIC):
        body = request({"prompt": "a", "sampling_params": params | harmless}, rules)[3]
        assert body == {"prompt": "a", **params}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logprobs", 0),
        ("prompt_logprobs", 1), ("spaces_between_special_tokens", False), ("detokenize", False),
        ("detokenize", 1), ("no_such_thing", 1),
    ],
)  # fmt: skip
def test_an_unsupported_sampling_parameter_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        request({"prompt": "a", "sampling_params": {name: value}}, CLASSIC)
    assert caught.value.param == f"sampling_params.{name}"
    if name not in ("logprobs", "prompt_logprobs"):  # OpenAI's form has a place for them
        with pytest.raises(UnsupportedParameter):
            request({"prompt": "a", "sampling_params": {name: value}})


def test_fields_beside_the_sampling_parameters_are_passed_on() -> None:
    body = request({"prompt": "a", "max_tokens": 5, "sampling_params": {"temperature": 0}})[3]
    assert body == {"prompt": "a", "max_tokens": 5, "temperature": 0}


@pytest.mark.parametrize("place", ["the job", "openai_input"])
def test_a_job_may_set_its_own_batch_sizes(place: str) -> None:
    knobs = {"min_batch_size": 2, "max_batch_size": 8, "batch_size_growth_factor": 2}
    job: dict[str, Any] = {"openai_route": CHAT, "openai_input": {"messages": HI}}
    (job if place == "the job" else job["openai_input"]).update(knobs)
    parsed = read_job(job, RULES)
    assert parsed.growth == Growth(2, 2.0, 8)
    assert orjson.loads(parsed.body) == {"messages": HI}
    assert read_job({"messages": HI}, RULES).growth == Growth(1, 3.0, 50)


@pytest.mark.parametrize(
    ("job", "param"),
    [
        (None, "input"), ({}, "input"), ("hi", "input"), ({"sampling_params": {}}, "input"),
        ({"prompt": None}, "input"),
        ({"prompt": "a", "sampling_params": []}, "sampling_params"),
        ({"prompt": "a", "apply_chat_template": "yes"}, "apply_chat_template"),
        ({"prompt": "a", "min_batch_size": 0}, "min_batch_size"),
        ({"prompt": "a", "max_batch_size": True}, "max_batch_size"),
        ({"prompt": "a", "batch_size_growth_factor": 0.5}, "batch_size_growth_factor"),
        ({"prompt": "a", "batch_size_growth_factor": float("nan")}, "batch_size_growth_factor"),
        ({"openai_route": 1}, "openai_route"), ({"openai_route": "/"}, "openai_route"),
        ({"openai_route": "/v1/../flush_cache"}, "openai_route"),
        ({"route": "/v1/%2e%2e/x"}, "route"),
        ({"openai_route": CHAT, "openai_input": []}, "openai_input"),
        ({"route": CHAT, "method": "PUT"}, "method"),
    ],
)  # fmt: skip
def test_an_invalid_job_is_refused_with_the_name_of_the_field(job: Any, param: str) -> None:
    with pytest.raises(ServeError) as caught:
        read_job(job, RULES)
    assert (caught.value.status, caught.value.param) == (400, param)
    if param == "input":
        assert "messages" in caught.value.message
        assert "openai_route" in caught.value.message


def test_a_job_over_max_body_bytes_is_refused() -> None:
    with pytest.raises(BodyTooLarge):
        request({"prompt": "a" * 30_000_000})


@pytest.mark.parametrize("value", [2**70, "\ud800"])
def test_values_that_json_cannot_carry_are_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        request({"prompt": "a", "user": value})


@pytest.mark.parametrize(
    ("job", "body"),
    [
        ({"prompt": "hi"}, {"messages": HI, "model": "theirs"}),
        ({"messages": HI, "model": "mine"}, {"messages": HI, "model": "mine"}),
        (
            {"messages": HI, "extra_body": {"a": 1}, "odd": 2},
            {"messages": HI, "model": "theirs", "a": 1, "odd": 2},
        ),
    ],
)
def test_a_forwarded_job_is_a_conversation_that_names_a_model(
    job: dict[str, Any], body: dict[str, Any]
) -> None:
    assert request(job, UPSTREAM) == (CHAT, "POST", OutputForm.OPENAI, body)


def test_a_forwarded_prompt_stays_a_completion_on_its_route() -> None:
    job = {"openai_route": COMPLETIONS, "openai_input": {"prompt": "hi"}}
    assert request(job, UPSTREAM)[3] == {"prompt": "hi", "model": "theirs"}


FIELDS = (
    "openai_route", "openai_input", "route", "body", "method", "messages", "prompt", "text",
    "sampling_params", "stream", "extra_body", "max_batch_size", "model", "n",
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5)
    ),
    max_leaves=12,
)


# Neither measures the code: they time the machine.
@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(JSON)
def test_any_json_becomes_a_request_or_a_refusal(job: Any) -> None:
    for rules in (RULES, UPSTREAM):
        with suppress(InvalidRequest):
            assert isinstance(orjson.loads(read_job(job, rules).body), dict)
