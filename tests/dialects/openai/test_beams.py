"""Beam search by vLLM's fields: what is asked of the engine, and what is refused by its name."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve

HI = [{"role": "user", "content": "hi"}]
COMPLETION = ("/v1/completions", {"prompt": "hi"})
CHAT = ("/v1/chat/completions", {"messages": HI})


@pytest.mark.parametrize(
    ("fields", "width", "choices"),
    [
        ({"n": 2}, 2, 2),
        ({"best_of": 4}, 4, 1),
        ({"best_of": 4, "n": 3, "temperature": 0, "length_penalty": 1.0}, 4, 3),
        ({"n": 2, "early_stopping": "never", "top_k": -1, "stop": []}, 2, 2),
    ],
)
async def test_the_width_is_best_of_and_n_are_returned(
    fields: dict[str, Any], width: int, choices: int
) -> None:
    engine = ScriptedEngine("a", "b", searches_beams=True)
    path, body = COMPLETION
    async with serve(engine) as running:
        answer = await running.client.post(path, json=body | {"use_beam_search": True} | fields)
        assert answer.status_code == 200, answer.text
    assert [choice["text"] for choice in answer.json()["choices"]] == ["ab"] * choices
    ((_, sampling, _, asked),) = engine.calls
    assert (sampling.beam_width, asked) == (width, choices)


async def test_a_chat_has_as_many_beams_as_choices() -> None:
    engine = ScriptedEngine("a", searches_beams=True)
    path, body = CHAT
    async with serve(engine) as running:
        answer = await running.client.post(path, json=body | {"use_beam_search": True, "n": 3})
    assert len(answer.json()["choices"]) == 3
    assert engine.calls[0][1].beam_width == 3


async def test_all_beams_are_asked_for_at_once_whatever_a_requests_share() -> None:
    engine = ScriptedEngine("a", searches_beams=True)
    path, body = COMPLETION
    async with serve(engine, MAX_SEQUENCES_PER_REQUEST="2") as running:
        prompts = {"prompt": ["x", "y"], "use_beam_search": True, "n": 5}
        answer = await running.client.post(path, json=body | prompts)
        assert len(answer.json()["choices"]) == 10
        assert running.gate.sequences.free == running.gate.sequences.capacity
    assert [call[3] for call in engine.calls] == [5, 5]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "n"),
        ({"best_of": 1}, "best_of"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 9}, "best_of"),
        ({"n": 9}, "n"),
        ({"n": 2, "stream": True}, "stream"),
        ({"n": 2, "length_penalty": 0.5}, "length_penalty"),
        ({"n": 2, "length_penalty": "1"}, "length_penalty"),
        ({"n": 2, "early_stopping": True}, "early_stopping"),
        ({"n": 2, "early_stopping": "always"}, "early_stopping"),
        ({"n": 2, "temperature": 0.5}, "temperature"),
        ({"n": 2, "top_p": 0.5}, "top_p"),
        ({"n": 2, "top_k": 5}, "top_k"),
        ({"n": 2, "min_p": 0.5}, "min_p"),
        ({"n": 2, "frequency_penalty": 1}, "frequency_penalty"),
        ({"n": 2, "presence_penalty": 1}, "presence_penalty"),
        ({"n": 2, "repetition_penalty": 1.5}, "repetition_penalty"),
        ({"n": 2, "min_tokens": 1, "max_tokens": 2}, "min_tokens"),
        ({"n": 2, "stop": "x"}, "stop"),
        ({"n": 2, "logit_bias": {"1": 1}}, "logit_bias"),
        ({"n": 2, "logprobs": 1}, "logprobs"),
        ({"n": 2, "logprobs": 0}, "logprobs"),
        ({"n": 2, "max_tokens": 0, "echo": True}, "max_tokens"),
        ({"n": 2, "response_format": {"type": "json_object"}}, "response_format"),
        ({"n": 2, "use_beam_search": "yes"}, "use_beam_search"),
        ({"use_beam_search": None, "length_penalty": 2.0}, "length_penalty"),
        ({"use_beam_search": False, "early_stopping": True}, "early_stopping"),
    ],
    ids=str,
)
async def test_what_beam_search_does_not_know_is_refused(
    fields: dict[str, Any], param: str
) -> None:
    engine = ScriptedEngine("a", searches_beams=True)
    path, body = COMPLETION
    async with serve(engine) as running:
        answer = await running.client.post(path, json=body | {"use_beam_search": True} | fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert not engine.calls


@pytest.mark.parametrize(("path", "body"), [COMPLETION, CHAT])
async def test_an_engine_without_it_refuses(path: str, body: dict[str, Any]) -> None:
    async with serve(ScriptedEngine("a")) as running:
        fields = {"use_beam_search": True, "n": 2}
        answer = await running.client.post(path, json=body | fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "use_beam_search")
