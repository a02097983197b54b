"""Log-probabilities of a whole answer are rendered as they come: its end costs nearly nothing."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from app.dialects.json_array import encoded_parts
from app.dialects.openai.chat import ChatPresenter
from app.dialects.openai.completions import CompletionPresenter
from app.dialects.sglang.generate import GeneratePresenter
from app.events import Choice, Result, Scored, ScoredToken, Token, Usage
from app.types import GenerationRequest, Sampling, Scoring, TextPrompt
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve

CHOICES, TOKENS, TOP = 2, 4000, 20
REQUEST = GenerationRequest(
    id="x",
    prompts=(TextPrompt("hi", "text"),),
    sampling=Sampling(),
    n=CHOICES,
    scoring=Scoring(TOP),
)
PRESENTERS: dict[str, Any] = {
    "chat": lambda: ChatPresenter(id="x", model="m", n=CHOICES, include_usage=False, logprobs=True),
    "completions": lambda: CompletionPresenter(
        id="x", model="m", choices=CHOICES, include_usage=False, logprobs=TOP
    ),
    "generate": lambda: GeneratePresenter(REQUEST, top=TOP, with_text=True, listed=True),
}


def _scored(no: int) -> ScoredToken:
    tokens = [
        Token(no + rank, f" {no + rank}".encode(), -0.123456789 - rank) for rank in range(TOP)
    ]
    return ScoredToken(tokens[0], tuple(tokens), offset=no)


@pytest.mark.parametrize("form", PRESENTERS)
def test_the_end_of_an_answer_costs_a_fraction_of_its_scores(form: str) -> None:
    presenter = PRESENTERS[form]()
    events = [
        Scored(tuple(_scored(no) for no in range(first, first + 64)), index)
        for first in range(0, TOKENS, 64)
        for index in range(CHOICES)
    ]
    result = Result(
        tuple(
            Choice(index=index, text="x", finish_reason="stop", completion_tokens=TOKENS)
            for index in range(CHOICES)
        ),
        Usage(1, CHOICES * TOKENS, 0),
    )
    began = time.process_time()
    for event in events:
        presenter.keep_scores(event)
    kept = time.process_time()
    parts = encoded_parts(presenter.whole(result))
    ended = time.process_time()
    body = b"".join(parts)
    assert isinstance(orjson.loads(body), dict | list)
    assert body.count(b"-0.123456789") >= CHOICES * TOKENS
    assert ended - kept < 0.05 * (kept - began)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "logprobs": True,
                                  "top_logprobs": 4}),
        ("/v1/completions", {"prompt": "hi", "logprobs": 4}),
        ("/generate", {"text": "hi", "return_logprob": True, "top_logprobs_num": 4}),
    ],
)  # fmt: skip
async def test_the_scores_of_an_answer_are_bounded(path: str, fields: dict[str, Any]) -> None:
    named = "max_new_tokens" if path == "/generate" else "max_tokens"

    def body(tokens: int) -> dict[str, Any]:
        limit = {"n": 2, named: tokens}
        return {**fields, "sampling_params": limit} if path == "/generate" else {**fields, **limit}

    engine = ScriptedEngine(*["word "] * 50)
    async with serve(engine, MAX_ANSWER_SCORES="100") as running:
        refused = await running.client.post(path, json=body(11))
        taken = await running.client.post(path, json=body(10))
    assert (refused.status_code, taken.status_code) == (400, 200)
    assert "MAX_ANSWER_SCORES" in refused.json()["error"]["message"]


async def test_an_answer_of_any_length_ends_at_the_bound_of_its_scores() -> None:
    engine = ScriptedEngine(*["word "] * 50)
    async with serve(engine, MAX_ANSWER_SCORES="100") as running:
        await running.chat(logprobs=True, top_logprobs=4)
    assert engine.calls[-1][1].max_tokens == 20
