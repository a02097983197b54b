"""Prompts become token ids; the scripted engine's are the characters."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from app.engine import scripted
from app.errors import ContextLengthExceeded, InvalidRequest
from app.generation.prompt import Preparer
from app.types import (
    ChatPrompt,
    GenerationRequest,
    Grammar,
    InfillPrompt,
    Message,
    Prompt,
    Sampling,
    Text,
    TextPrompt,
    TokenPrompt,
    ToolCall,
    ToolUse,
)


class WhereEngine(scripted.ScriptedEngine):
    """Notes in which thread it is asked to encode."""

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        self.thread = threading.current_thread()
        return super().encode(text, special=special)


@pytest.fixture
async def preparer() -> AsyncIterator[Preparer]:
    preparer = Preparer(WhereEngine(vocab_size=1000), max_chars=10_000, limit=1000, pictures=None)
    yield preparer
    preparer.close()


def request(*prompts: Prompt, grammar: Grammar | None = None) -> GenerationRequest:
    return GenerationRequest(id="x", prompts=prompts, sampling=Sampling(grammar=grammar))


async def test_each_kind_of_prompt_becomes_ids_in_its_place(preparer: Preparer) -> None:
    chat = ChatPrompt([Message(role="user", parts=(Text("c"), Text("d")))])
    prompts = await preparer.prepare(
        request(
            TextPrompt("ab", param="prompt"),
            TokenPrompt([7, 8], param="prompt"),
            InfillPrompt("p", "s", param="prompt"),
            chat,
        )
    )
    assert [prompt.ids for prompt in prompts] == [[97, 98], [7, 8], [112, 0, 115], [99, 100]]


async def test_ids_outside_the_vocabulary_are_refused(preparer: Preparer) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await preparer.prepare(request(TokenPrompt([7, 1000], param="prompt")))
    assert refused.value.param == "prompt"


@pytest.mark.parametrize(("chars", "thread"), [(4000, "MainThread"), (4001, "prompt_0")])
async def test_only_long_prompts_are_prepared_beside_the_event_loop(
    preparer: Preparer, chars: int, thread: str
) -> None:
    texts = "x" * 2000, "y" * (chars - 2000)
    await preparer.prepare(request(*[TextPrompt(text, param="prompt") for text in texts]))
    assert preparer._engine.thread.name == thread  # type: ignore[attr-defined]


async def test_every_text_of_a_conversation_counts_as_its_characters() -> None:
    call = ToolCall("id", "name", "{}")
    message = Message(
        role="assistant", parts=(Text("ab"), Text("c")), reasoning="de", calls=(call,)
    )
    chat = ChatPrompt([message], tool_use=ToolUse(tools=(), allowed=(), chars=100))
    chars = 3 + 2 + len("id" + "name" + "{}") + 100
    preparer = Preparer(scripted.ScriptedEngine(), max_chars=chars, limit=1000, pictures=None)
    await preparer.prepare(request(chat))
    preparer.close()
    preparer = Preparer(scripted.ScriptedEngine(), max_chars=chars - 1, limit=1000, pictures=None)
    with pytest.raises(ContextLengthExceeded, match=f"{chars} characters"):
        await preparer.prepare(request(chat))
    preparer.close()


class GatedEngine(scripted.ScriptedEngine):
    """Notes what it encodes, in order; the first text waits until `opened` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.opened = threading.Event(), threading.Event()
        self.lengths: list[int] = []

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        self.lengths.append(len(text))
        self.begun.set()
        assert self.opened.wait(60)
        return [0]


async def test_a_short_request_overtakes_the_rest_of_a_long_one() -> None:
    engine = GatedEngine()
    preparer = Preparer(engine, max_chars=10_000_000, limit=1000, pictures=None)
    long = [TextPrompt("x" * 30_000, param="prompt")] * 20
    tasks = [asyncio.create_task(preparer.prepare(request(*long)))]
    await asyncio.to_thread(engine.begun.wait)
    for chars in (50_000, 5_000):
        short = request(TextPrompt("y" * chars, param="prompt"))
        tasks.append(asyncio.create_task(preparer.prepare(short)))
        await asyncio.sleep(0)
    engine.opened.set()
    rendered = await asyncio.gather(*tasks)
    preparer.close()
    assert engine.lengths[:4] == [30_000, 5_000, 50_000, 30_000]
    assert [len(each) for each in rendered] == [20, 1, 1]


async def test_prompts_in_slices_keep_their_order(preparer: Preparer) -> None:
    texts = [chr(97 + no % 26) * 7_000 for no in range(40)]
    prompts = await preparer.prepare(request(*[TextPrompt(text, param="p") for text in texts]))
    assert [chr(prompt.ids[0]) for prompt in prompts] == [text[0] for text in texts]
