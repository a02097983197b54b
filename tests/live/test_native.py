"""The fields of `/generate` that docs/api.md says work, on the real engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.live.conftest import LiveServer
from tests.support import sse

pytestmark = pytest.mark.live
COUNT = "One, two, three, four,"


def generate(live: LiveServer, text: Any = COUNT, **fields: Any) -> Any:
    """Eight tokens, about which the model has no doubt: later ones differ with what is cached."""
    params = {"max_new_tokens": 8, "temperature": 0, **fields.pop("sampling_params", {})}
    body = {"text": text, "sampling_params": params, **fields}
    if "input_ids" in fields:
        del body["text"]
    answer = live.http.post("/generate", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def counted(live: LiveServer) -> Any:
    """The answer to COUNT, the same whenever it is asked for."""
    return generate(live)


def test_ids_are_the_same_prompt_as_their_text(live: LiveServer, counted: Any) -> None:
    ids = live.http.post("/tokenize", json={"prompt": COUNT}).json()["tokens"]
    answer = generate(live, input_ids=ids)
    assert answer["text"] == counted["text"]
    assert answer["meta_info"]["prompt_tokens"] == len(ids)
    several = generate(live, text=[COUNT, "The capital of France is"])
    assert several[0]["text"] == counted["text"]
    assert len(several) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_is_kept_if_the_client_wants_it(
    live: LiveServer, counted: Any, stream: bool
) -> None:
    stop = counted["text"].split()[3]
    texts = {}
    for keeps in (False, True):
        params = {"stop": stop, "no_stop_trim": keeps}
        if not stream:
            answer = generate(live, sampling_params=params)
        else:
            body = {"text": COUNT, "stream": True, "sampling_params": {
                "max_new_tokens": 8, "temperature": 0, **params}}  # fmt: skip
            *frames, done = sse.frames(live.http.post("/generate", json=body).text)
            assert done == "[DONE]"
            answer = frames[-1]
        assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
        texts[keeps] = answer["text"]
    assert texts[True] == texts[False] + stop
    assert counted["text"].startswith(texts[True])


def test_tokens_stop_an_answer_unless_they_are_ignored(live: LiveServer, counted: Any) -> None:
    token = counted["output_ids"][4]
    stopped = generate(live, sampling_params={"stop_token_ids": [token]})
    assert stopped["meta_info"]["finish_reason"] == {"type": "stop", "matched": token}
    params = {"stop_token_ids": [token], "ignore_eos": True}
    assert generate(live, sampling_params=params)["text"] == counted["text"]
    longer = generate(live, sampling_params={"stop_token_ids": [token], "min_new_tokens": 7})
    assert longer["meta_info"]["completion_tokens"] >= 7


def test_parameters_of_sampling_change_what_is_sampled(live: LiveServer, counted: Any) -> None:
    banned = counted["output_ids"][0]
    biased = generate(live, sampling_params={"logit_bias": {str(banned): -100}})
    assert biased["output_ids"][0] != banned
    greedy = {"temperature": 2, "top_k": 1}
    assert generate(live, sampling_params=greedy)["text"] == counted["text"]
    greedy = {"temperature": 2, "top_p": 1e-6}
    assert generate(live, sampling_params=greedy)["text"] == counted["text"]
    greedy = {"temperature": 2, "min_p": 1}
    assert generate(live, sampling_params=greedy)["text"] == counted["text"]
    for name, value in (
        ("frequency_penalty", 2), ("presence_penalty", 2), ("repetition_penalty", 2),
    ):  # fmt: skip
        params = {"max_new_tokens": 64, "ignore_eos": True, name: value}
        plain = {"max_new_tokens": 64, "ignore_eos": True}
        penalised, repeated = (generate(live, sampling_params=each) for each in (params, plain))
        assert len(set(penalised["output_ids"])) > len(set(repeated["output_ids"])), name


def test_the_length_of_an_answer_is_what_was_asked_for(live: LiveServer) -> None:
    answer = generate(live, sampling_params={"max_new_tokens": 3})
    assert answer["meta_info"]["finish_reason"] == {"type": "length", "length": 3}
    nothing = generate(live, sampling_params={"max_new_tokens": 0})
    assert nothing["text"] == ""
    assert len(generate(live, sampling_params={"n": 3})) == 3


def test_log_probabilities_are_of_the_answer_and_of_the_prompt(live: LiveServer) -> None:
    fields = {
        "return_logprob": True, "top_logprobs_num": 2, "logprob_start_len": 0,
        "return_text_in_logprobs": True, "sampling_params": {"max_new_tokens": 4},
    }  # fmt: skip
    answer = generate(live, **fields)
    meta = answer["meta_info"]
    assert len(meta["input_token_logprobs"]) == meta["prompt_tokens"]
    assert len(meta["output_token_logprobs"]) == len(meta["output_top_logprobs"]) == 4
    assert "".join(text for _, _, text in meta["output_token_logprobs"]) == answer["text"]
    # Greedy: each token is the first of its alternatives.
    for chosen, top in zip(meta["output_token_logprobs"], meta["output_top_logprobs"], strict=True):
        assert chosen == top[0]
        assert len(top) == 2


def test_a_schema_is_followed(live: LiveServer) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}},
              "required": ["a"]}  # fmt: skip
    params = {"json_schema": json.dumps(schema), "max_new_tokens": 64}
    assert json.loads(generate(live, sampling_params=params)["text"])["a"] <= 9


def test_only_requests_with_the_same_salt_share_the_prefix_cache(live: LiveServer) -> None:
    prompt = "A prompt that no other test has. " * 20

    def cached(salt: str) -> int:
        answer = generate(live, prompt, cache_salt=salt, sampling_params={"max_new_tokens": 1})
        count: int = answer["meta_info"]["cached_tokens"]
        return count

    assert cached("mine") == 0
    assert cached("mine") > 100
    assert cached("another's") == 0
    assert cached("another's") > 100


HOSTILE: list[tuple[str, Any]] = [
    ("input_embeds", [[1e38] * 576] * 3),
    ("input_embeds", [[1.0], [1.0, 2.0]]),
    ("session_params", {"id": "s", "replace": True}),
    ("positional_embed_overrides", {"embeds": [[1.0]], "positions": [0]}),
    ("custom_logit_processor", '{"callable": "80"}'),
    ("mm_hashes", ["00"]),
    ("priority", 2**40),
    ("bootstrap_room", 1),
    ("return_hidden_states", True),
    ("kv_hints", {"version": 1}),
    ("token_ids_logprob", [10**9]),
    ("routed_dp_rank", 7),
]


def test_a_hostile_client_is_refused_and_the_engine_goes_on(live: LiveServer) -> None:
    for name, value in HOSTILE:
        answer = live.http.post("/generate", json={"text": COUNT, name: value})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    embeds = {"input_embeds": [[1e38] * 576]}
    assert live.http.post("/generate", json=embeds).status_code == 400
    for params in ({"stop_regex": "(a+)+$"}, {"custom_params": {"a": 1}}, {"beam_width": 4}):
        body = {"text": COUNT, "sampling_params": params}
        assert live.http.post("/generate", json=body).status_code == 400
    for route in ("/open_session", "/close_session"):
        assert live.http.post(route, json={"capacity_of_str_len": 10**12}).status_code == 404
    assert generate(live)["text"]
