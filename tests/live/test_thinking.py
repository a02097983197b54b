"""A budget of thinking is kept by the real engine, in every dialect.

The model has random weights, so that it would think for ever; its template begins the thinking.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from tests.live.conftest import LiveServer

pytestmark = pytest.mark.live
TEMPLATE = """{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is not defined or enable_thinking %}<think>
{% else %}<think>

</think>

{% endif %}{% endif %}"""
ASK = [{"role": "user", "content": "How many legs has a spider?"}]
MOST = 80


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    server = LiveServer(
        tmp_path_factory.mktemp("thinker"),
        model="tiny",
        CUSTOM_CHAT_TEMPLATE=TEMPLATE,
        REASONING_PARSER="qwen3",
    )
    try:
        yield server.ready()
    finally:
        server.stop()


def _chat(server: LiveServer, **fields: Any) -> Any:
    body = {"messages": ASK, "temperature": 0, "ignore_eos": True, "max_tokens": MOST, **fields}
    return server.http.post("/v1/chat/completions", json=body).raise_for_status().json()


def _thought(answer: Any) -> tuple[int, str, str]:
    """Tokens of thinking, thinking, answer."""
    message = answer["choices"][0]["message"]
    tokens = answer["usage"]["completion_tokens_details"]["reasoning_tokens"]
    return tokens, message.get("reasoning_content") or "", message["content"] or ""


def test_without_a_budget_it_thinks_to_the_end(thinker: LiveServer) -> None:
    tokens, thinking, text = _thought(_chat(thinker))
    assert tokens == MOST
    assert thinking
    assert text == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"thinking_budget": 20},
        {"max_thinking_tokens": 20},
        {"reasoning": {"max_tokens": 20}},
        {"thinking": {"type": "enabled", "budget_tokens": 20}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_budget_ends_the_thinking_and_an_answer_follows(
    thinker: LiveServer, fields: dict[str, Any]
) -> None:
    tokens, thinking, text = _thought(_chat(thinker, **fields))
    unbounded = _thought(_chat(thinker))[1]
    assert unbounded.startswith(thinking)
    assert 10 <= tokens <= 20 + 8  # the end of the thinking is several tokens of this vocabulary
    assert text


def test_a_budget_whose_end_may_not_come_yet_harms_nothing(thinker: LiveServer) -> None:
    """All tokens of the end stop the answer, and a least length would forbid them."""
    ids = thinker.http.post("/tokenize", json={"prompt": "</think>", "add_special_tokens": False})
    answer = _chat(
        thinker, thinking_budget=0, min_tokens=5, stop_token_ids=ids.json()["tokens"],
        top_p=0.9, temperature=1, ignore_eos=False,
    )  # fmt: skip
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert _thought(_chat(thinker, thinking_budget=5))[2]


def test_a_budget_of_zero_is_an_answer_at_once(thinker: LiveServer) -> None:
    _, thinking, text = _thought(_chat(thinker, thinking_budget=0))
    assert thinking.strip() == ""
    assert text


def test_a_schema_is_kept_after_a_budget_of_thinking(thinker: LiveServer) -> None:
    schema = {
        "type": "object",
        "properties": {"legs": {"enum": [6, 8]}},
        "required": ["legs"],
        "additionalProperties": False,
    }
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = _chat(thinker, thinking_budget=15, response_format=format, ignore_eos=False)
    tokens, thinking, text = _thought(answer)
    assert thinking
    assert tokens <= 15 + 8
    assert orjson.loads(text)["legs"] in (6, 8)


def test_a_call_ends_the_thinking_and_its_tokens_are_none(thinker: LiveServer) -> None:
    ids = thinker.http.post("/tokenize", json={"prompt": "<tool_call>"}).json()["tokens"]
    called = _chat(thinker, logit_bias={str(ids[-1]): 100}, max_tokens=12)
    assert _thought(called) == (0, "", "<tool_call>" * 12)


def test_responses_and_messages_keep_it_too(thinker: LiveServer) -> None:
    response = thinker.http.post(
        "/v1/responses",
        json={
            "model": "default", "input": "legs?", "reasoning": {"max_tokens": 20},
            "max_output_tokens": MOST, "ignore_eos": True, "temperature": 0,
        },
    ).raise_for_status().json()  # fmt: skip
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] <= 28
    message = thinker.http.post(
        "/v1/messages",
        json={
            "model": "default", "messages": ASK, "max_tokens": 1200,
            "thinking": {"type": "enabled", "budget_tokens": 1024}, "temperature": 0,
        },
    ).raise_for_status().json()  # fmt: skip
    assert message["content"][0]["type"] == "thinking"
    assert message["stop_reason"] == "max_tokens"  # greedy, the model never ends by itself
    assert [block["type"] for block in message["content"]] == ["thinking", "text"]
    assert message["usage"]["output_tokens_details"]["thinking_tokens"] <= 1024 + 8


def test_many_at_once_each_keep_their_own(thinker: LiveServer) -> None:
    from concurrent.futures import ThreadPoolExecutor

    budgets = [5, 10, 20, 30, None, 40]
    with ThreadPoolExecutor(len(budgets)) as pool:
        answers = list(pool.map(lambda budget: _chat(thinker, thinking_budget=budget), budgets))
    for budget, answer in zip(budgets, answers, strict=True):
        tokens, _, text = _thought(answer)
        assert tokens <= (MOST if budget is None else budget + 8)
        assert bool(text) is (budget is not None)
