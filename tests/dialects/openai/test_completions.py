"""Plain completions on the wire: several prompts, gaps, scores, `best_of`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.errors import InvalidRequest
from tests.support import sse
from tests.support.scripted import ScriptedEngine
from tests.support.serving import eventually, serve


async def test_several_prompts_have_their_choices_in_order() -> None:
    engine = ScriptedEngine(script=lambda choice: [f"choice {choice}"])
    async with serve(engine) as running:
        body = {"prompt": ["a", "bb"], "n": 2}
        whole = (await running.client.post("/v1/completions", json=body)).json()
        streamed = await running.client.post("/v1/completions", json=body | {"stream": True})
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    assert [choice["text"] for choice in whole["choices"]] == ["choice 0", "choice 1"] * 2
    assert whole["usage"]["prompt_tokens"] == 3
    frames = sse.frames(streamed.text)
    assert [sse.text_of(frames, index) for index in range(4)] == ["choice 0", "choice 1"] * 2
    assert {id for _, _, id, _ in engine.calls} == {id for _, _, id, _ in engine.calls[-4:]}
    assert len({len(id) for _, _, id, _ in engine.calls}) == 1


async def test_one_failing_prompt_fails_the_request_and_aborts_the_others() -> None:
    class Failing(ScriptedEngine):
        async def generate(self, question: Any, **more: Any) -> Any:
            if len(question.prompt) == 1:
                await asyncio.sleep(0.05)
                raise InvalidRequest("not this one")
            async for chunk in super().generate(question, **more):
                yield chunk

    engine = Failing("x", asyncio.Event())
    async with serve(engine) as running:
        answer = await running.client.post("/v1/completions", json={"prompt": ["aa", "b"]})
        assert answer.status_code == 400
        await eventually(lambda: engine.running == 0)
        assert engine.aborted == 1


async def test_models_trained_to_fill_gaps_take_a_suffix() -> None:
    engine = ScriptedEngine("mid", fills_middle=True)
    async with serve(engine) as running:
        body = {"prompt": "def f(", "suffix": "): pass"}
        assert (await running.client.post("/v1/completions", json=body)).status_code == 200
        for wrong in ({"echo": True}, {"prompt": [1, 2]}):
            answer = await running.client.post("/v1/completions", json=body | wrong)
            assert answer.status_code == 400
    assert engine.calls[0][0] == engine.infill("def f(", "): pass")


async def test_more_prompt_scores_than_allowed_are_refused() -> None:
    async with serve(ScriptedEngine("x"), MAX_PROMPT_SCORES="20") as running:
        body = {"prompt": "a" * 11, "echo": True, "logprobs": 1}
        answer = await running.client.post("/v1/completions", json=body)
        fine = await running.client.post("/v1/completions", json=body | {"prompt": "a" * 10})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "logprobs")
    assert fine.status_code == 200


@pytest.mark.parametrize("best_of", [1, 3])
async def test_best_of_counts_all_choices_and_returns_the_likeliest(best_of: int) -> None:
    engine = ScriptedEngine(script=lambda no: ["abc"[no]])
    async with serve(engine) as running:
        body = {"prompt": "x", "best_of": best_of}
        answer = (await running.client.post("/v1/completions", json=body)).json()
        streamed = await running.client.post("/v1/completions", json=body | {"stream": True})
    assert len(answer["choices"]) == 1
    assert answer["choices"][0]["logprobs"] is None
    assert answer["usage"]["completion_tokens"] == best_of
    assert streamed.status_code == (200 if best_of == 1 else 400)
