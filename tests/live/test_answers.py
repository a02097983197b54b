"""The real model answers, streamed and whole alike, through the official client and by hand."""

from __future__ import annotations

import uuid
from typing import Any

import openai
import pytest

from tests.live.conftest import LiveServer
from tests.support import sse

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def client(live: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="not-required", max_retries=0)


def test_the_openai_client_gets_paris(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="sglang", messages=FRANCE, temperature=0)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_the_openai_client_gets_paris_as_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="sglang", messages=FRANCE, temperature=0) as stream:
        final = stream.get_final_completion()
    assert "Paris" in final.choices[0].message.content
    assert final.choices[0].finish_reason == "stop"


def test_models_can_be_listed_and_looked_up(client: openai.OpenAI, live: LiveServer) -> None:
    (card,) = client.models.list().data
    assert client.models.retrieve(card.id).id == card.id
    assert card.model_dump()["max_model_len"] == 8186
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("gpt-4")
    assert error.value.code == "model_not_found"


def test_the_shared_prompt_of_several_choices_does_not_count_as_cached(
    client: openai.OpenAI,
) -> None:
    prompt = f"{uuid.uuid4()} is followed by"
    cached = []
    for _ in range(2):
        answer = client.completions.create(model="default", prompt=prompt, n=2, max_tokens=2)
        cached.append(answer.usage.prompt_tokens_details.cached_tokens or 0)
    assert cached[0] < 3
    assert cached[1] > 10


CHATS: list[dict[str, Any]] = [
    {"messages": FRANCE},
    {"messages": FRANCE, "max_tokens": 1},
    {"messages": FRANCE, "max_tokens": 2},
    {"messages": FRANCE, "max_completion_tokens": 5},
    {"messages": FRANCE, "n": 3},
    {"messages": FRANCE, "n": 3, "max_tokens": 4},
    {"messages": FRANCE, "stop": "Paris"},
    {"messages": FRANCE, "stop": ["capital of Fr"]},
    {"messages": FRANCE, "stop": ["of France is Pa", "never"]},
    {"messages": FRANCE, "stop": [" is"], "n": 2},
    {"messages": FRANCE, "min_tokens": 12, "max_tokens": 12},
    {"messages": FRANCE, "ignore_eos": True, "max_tokens": 20},
    {"messages": FRANCE, "logit_bias": {"7042": -100}, "max_tokens": 12},
    {"messages": FRANCE, "frequency_penalty": 1.5, "max_tokens": 24},
    {"messages": FRANCE, "presence_penalty": 1.5, "max_tokens": 24},
    {"messages": FRANCE, "stop_token_ids": [282]},
    {"messages": FRANCE, "top_k": 1, "top_p": 0.5, "min_p": 0.1},
    {"messages": FRANCE, "top_p": 0},
    {"messages": FRANCE, "seed": 7, "user": "somebody", "metadata": {"a": "b"}, "store": False},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Count to five."}]}]},
    {"messages": [{"role": "system", "content": "Answer in French."}, *FRANCE], "max_tokens": 16},
    {"messages": [{"role": "developer", "content": "Be brief."}, *FRANCE], "max_tokens": 16},
    {
        "messages": [
            {"role": "user", "content": "My name is Ada."},
            {"role": "assistant", "content": "Hello Ada."},
            {"role": "user", "content": "What is my name?"},
        ],
        "max_tokens": 16,
    },
    {
        "messages": [{"role": "user", "content": "Repeat exactly: 🎉🚀 日本語 ñandú"}],
        "max_tokens": 40,
    },
    {"messages": [{"role": "user", "content": "Write a line of emoji: 👩‍👩‍👧‍👦"}], "max_tokens": 7},
    {
        "messages": [{"role": "user", "content": "Say 你好 to everyone, in Chinese"}],
        "max_tokens": 9,
    },
    {"messages": [{"role": "user", "content": "x" * 2000}], "max_tokens": 8},
]
COMPLETIONS: list[dict[str, Any]] = [
    {"prompt": "Once upon a time"},
    {"prompt": "Once upon a time", "max_tokens": 1},
    {"prompt": "Once upon a time", "max_tokens": 40, "stop": "."},
    {"prompt": "Once upon a time", "max_tokens": 40, "stop": [" there was", " a little"]},
    {"prompt": "1, 2, 3, 4,", "max_tokens": 30, "stop": ["9, 1", "zzz"]},
    {"prompt": "1, 2, 3, 4,", "max_tokens": 30, "stop": [", 12"], "n": 3},
    {"prompt": ["The sky is", "Grass is"], "max_tokens": 8},
    {"prompt": ["The sky is", "Grass is"], "n": 2, "max_tokens": 6},
    {"prompt": [9690, 198, 2683], "max_tokens": 6},
    {"prompt": [[9690, 198], [2683, 359, 253]], "max_tokens": 6},
    {"prompt": [0], "max_tokens": 4},
    {"prompt": [49151], "max_tokens": 4},
    {"prompt": "日本の首都は", "max_tokens": 12},
    {"prompt": "🎉🎉🎉🎉", "max_tokens": 12},
    {"prompt": "🎉🎉🎉🎉", "max_tokens": 1},
    {"prompt": "def fibonacci(n):\n", "max_tokens": 48, "stop": ["\n\n"]},
    {"prompt": "<html>\n<body>\n", "max_tokens": 32, "stop": ["</", "\n\n\n"]},
    {"prompt": "a", "max_tokens": 16, "best_of": 1, "echo": False, "suffix": None},
    {"prompt": "The the the the", "repetition_penalty": 1.8, "max_tokens": 12},
    {"prompt": "Dear Sir or Madam,", "max_tokens": 20, "min_tokens": 20, "stop_token_ids": [2]},
    {"prompt": " ", "max_tokens": 3},
    {"prompt": "\n\n", "max_tokens": 3},
    {"prompt": "word " * 1500, "max_tokens": 4},
]


def _whole_and_streamed(live: LiveServer, path: str, body: dict[str, Any]) -> None:
    body = {"model": "sglang", "temperature": 0, **body}
    # Once before both: the same prompt computed with and without a cached prefix may differ in the
    # last bit, in the engine.
    live.http.post(path, json=body).raise_for_status()
    whole = live.http.post(path, json=body).raise_for_status().json()
    streaming = {"stream": True, "stream_options": {"include_usage": True}}
    frames = sse.frames(live.http.post(path, json=body | streaming).raise_for_status().text)
    *chunks, usage, done = frames
    assert done == "[DONE]"
    assert usage["choices"] == []
    cached = ("prompt_tokens_details",)  # the second of two equal requests finds more in the cache
    assert {k: v for k, v in usage["usage"].items() if k not in cached} == {
        k: v for k, v in whole["usage"].items() if k not in cached
    }
    for choice in whole["choices"]:
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        assert sse.text_of(chunks, choice["index"]) == text
        reasons = [
            each["finish_reason"]
            for chunk in chunks
            for each in chunk["choices"]
            if each["index"] == choice["index"] and each["finish_reason"]
        ]
        assert reasons == [choice["finish_reason"]]


@pytest.mark.parametrize("body", CHATS, ids=range(len(CHATS)))
def test_a_chat_is_the_same_streamed_and_whole(live: LiveServer, body: dict[str, Any]) -> None:
    _whole_and_streamed(live, "/v1/chat/completions", body)


@pytest.mark.parametrize("body", COMPLETIONS, ids=range(len(COMPLETIONS)))
def test_a_completion_is_the_same_streamed_and_whole(
    live: LiveServer, body: dict[str, Any]
) -> None:
    _whole_and_streamed(live, "/v1/completions", body)


def test_the_stop_string_is_left_out_even_where_it_crosses_tokens(live: LiveServer) -> None:
    answer = live.http.post(
        "/v1/chat/completions",
        json={"messages": FRANCE, "temperature": 0, "stop": ["of France is Pa"]},
    ).json()
    assert answer["choices"][0]["message"]["content"] == "The capital "
    assert answer["choices"][0]["finish_reason"] == "stop"
