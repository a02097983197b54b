"""The way of a request between a dialect and the engine, without HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from app.engine.scripted import ScriptedEngine
from app.errors import InternalError, ModelNotFound
from app.events import Finished, TextDelta, fold
from app.gate import Gate
from app.generation.model import ServedModel
from app.lifecycle import Lifecycle
from app.types import GenerationRequest, Sampling, TextPrompt
from tests.support.serving import eventually


@asynccontextmanager
async def served(
    engine: ScriptedEngine, *, max_running: int = 2, max_total_tokens: int | None = None
) -> AsyncIterator[ServedModel]:
    gate = Gate(Lifecycle(), max_running=max_running, max_waiting=0)
    model = ServedModel(
        engine,
        gate,
        names=["m", "other"],
        max_total_tokens=max_total_tokens,
        max_prompt_chars=None,
        max_prompt_scores=1000,
        max_answer_scores=1000,
        grammar_timeout_s=10,
    )
    try:
        yield model
    finally:
        await model.close()


def request(*texts: str, **fields: Any) -> GenerationRequest:
    prompts = tuple(TextPrompt(text, param="prompt") for text in texts or ("hi",))
    return GenerationRequest(**{"id": "x", "prompts": prompts, "sampling": Sampling(), **fields})


async def test_a_stream_folds_into_the_whole_answer() -> None:
    async with served(ScriptedEngine("a", "b")) as model:
        result = await fold(model.generate(request("one", "three", n=2)))
    assert [choice.text for choice in result.choices] == ["ab"] * 4
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (8, 8)


async def test_closing_the_stream_aborts_the_request_and_frees_its_turn() -> None:
    engine = ScriptedEngine("a", asyncio.Event())
    async with served(engine, max_running=1) as model:
        for aborted in (1, 2):
            events = model.generate(request())
            await anext(events)
            assert engine.running == 1
            await events.aclose()
            assert (engine.running, engine.aborted) == (0, aborted)


async def test_requests_beyond_the_engines_wait_for_their_turn() -> None:
    release = asyncio.Event()
    engine = ScriptedEngine("a", release)
    async with served(engine, max_running=1) as model, aclosing(model.generate(request())) as one:
        await anext(one)
        waiting = asyncio.create_task(fold(model.generate(request())))
        await asyncio.sleep(0.01)
        assert engine.running == 1
        await one.aclose()
        release.set()
        assert (await waiting).choices[0].text == "a"


async def test_a_request_of_many_prompts_leaves_room_for_others() -> None:
    release = asyncio.Event()
    engine = ScriptedEngine("a", release, "b")
    async with served(engine, max_running=8) as model:
        many = asyncio.create_task(fold(model.generate(request(*["p"] * 20))))
        await eventually(lambda: engine.running == 2)
        async with aclosing(model.generate(request())) as one:
            await anext(one)
            assert engine.running == 3
        release.set()
        choices = (await many).choices
    assert [choice.text for choice in choices] == ["ab"] * 20


class Unfinished(ScriptedEngine):
    """Ends its stream without a finish."""

    async def generate(self, *args: Any, **options: Any) -> Any:
        async for chunk in super().generate(*args, **options):
            if chunk.finish is None:
                yield chunk


async def test_a_stream_that_ends_unfinished_is_an_error() -> None:
    async with served(Unfinished("a")) as model:
        with pytest.raises(InternalError, match="without finishing"):
            await fold(model.generate(request()))


async def test_max_tokens_follows_from_the_prompt_and_the_servers_limit() -> None:
    asked: list[Sampling] = []

    class Recording(ScriptedEngine):
        def generate(self, question: Any, **options: Any) -> Any:
            asked.append(question.sampling)
            return super().generate(question, **options)

    async with served(Recording("a"), max_total_tokens=10) as model:
        assert model.limit == 10
        await fold(model.generate(request("12345", "12")))
    assert sorted(sampling.max_tokens or 0 for sampling in asked) == [5, 8]


async def test_an_echo_begins_the_answer_with_the_prompt() -> None:
    async with served(ScriptedEngine("a")) as model:
        beats = [beat async for beat in model.generate(request("hi ", echo=True))]
    texts = [event.text for beat in beats for event in beat if isinstance(event, TextDelta)]
    assert texts == ["hi ", "a"]
    assert any(isinstance(event, Finished) for event in beats[-1])


async def test_only_its_own_names_and_the_generic_ones_are_accepted() -> None:
    async with served(ScriptedEngine()) as model:
        for name in ("m", "other", "sglang", "default"):
            model.check_name(name)
        with pytest.raises(ModelNotFound, match="this server has `m`"):
            model.check_name("x")
