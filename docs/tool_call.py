"""One request with a tool, shown at each station on its way through the code.

    .venv-light/bin/python -m docs.tool_call

docs/tutorial-tool-call.md walks through what it prints. The engine is the scripted one, so there is
no model and the output is the same each time, but for the id of the call.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec

from app.dialects.body import read
from app.dialects.contract import Call
from app.dialects.openai.chat import ChatBody, ChatPresenter, lower
from app.dialects.sealing import Seal
from app.engine.base import Question
from app.engine.stand_in import Options, StandIn
from app.events import fold
from app.gate import Gate
from app.generation.interpreter import Interpreter
from app.generation.model import ServedModel
from app.lifecycle import Lifecycle, Phase
from app.settings.bounds import Bounds
from app.settings.catalogue import Settings
from app.stats import RequestStats
from app.types import ChatPrompt

RAW = b"""{
  "messages": [{"role": "user", "content": "Weather in Oslo?"}],
  "max_tokens": 100, "temperature": 0, "stream": true, "stream_options": {"include_usage": true},
  "tool_choice": "required", "parallel_tool_calls": false,
  "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"], "additionalProperties": false}}}]}"""
ID = "5f0c1d2e3b4a69788796a5b4c3d2e1f0"


def show(station: str, *things: Any) -> None:
    print(f"-- {station}")
    for thing in things:
        print(thing if isinstance(thing, str) else brief(thing))
    print()


def brief(thing: Any, indent: str = "") -> str:
    """As `repr`, but without fields that have their default, and on several lines if it is long."""
    inner = indent + "  "
    match thing:
        case msgspec.Struct():
            parts = [
                f"{field.name}={brief(getattr(thing, field.name), inner)}"
                for field in msgspec.structs.fields(thing)
                if getattr(thing, field.name) not in (field.default, {})
            ]
            opening, closing = f"{type(thing).__name__}(", ")"
        case dict():
            parts = [f"{key!r}: {brief(value, inner)}" for key, value in thing.items()]
            opening, closing = "{", "}"
        case list() | tuple():
            parts = [brief(each, inner) for each in thing]
            opening, closing = ("[", "]") if isinstance(thing, list) else ("(", ")")
        case _:
            return repr(thing)
    comma = "," if isinstance(thing, tuple) and len(parts) == 1 else ""
    line = f"{opening}{', '.join(parts)}{comma}{closing}"
    if "\n" not in line and len(indent + line) <= 96:
        return line
    return opening + "".join(f"\n{inner}{part}," for part in parts) + f"\n{indent}{closing}"


def news(frames: bytes) -> list[str]:
    """Of each frame what differs from frame to frame: its choices, and the usage."""
    lines = []
    for frame in frames.decode().split("\n\n"):
        data = frame.removeprefix("data: ")
        if data.startswith("{"):
            content = json.loads(data)
            lines.append(json.dumps({key: content[key] for key in ("choices", "usage")}))
        elif data:
            lines.append(data)
    return lines


async def main() -> None:
    bounds = Bounds.of(Settings())
    engine = StandIn(Options(token_s=0.0))
    lifecycle = Lifecycle()
    lifecycle.enter(Phase.READY)
    gate = Gate(lifecycle, max_running=1, max_waiting=0)
    model = served(engine, gate)

    body = read(ChatBody, RAW, bounds, "/v1/chat/completions")
    show("1 the body", body.model_dump(exclude_none=True))

    call = Call(
        id=ID,
        model=model,
        bounds=bounds,
        seal=Seal(()),
        ticket=gate.admit(),
        stats=RequestStats(),
        log_fields={},
    )
    request = lower(body, call)
    (prompt,) = request.prompts
    assert isinstance(prompt, ChatPrompt)
    show("2 the lowered request", prompt, request.sampling)

    rendered = engine.render(prompt, request.sampling.grammar)
    assert rendered.grammar is not None
    show("3 the rendered prompt", engine.decode(rendered.ids))
    show("4 the grammar", json.dumps(json.loads(rendered.grammar.text), indent=2))

    sampling = msgspec.structs.replace(request.sampling, grammar=rendered.grammar)
    question = Question(prompt=rendered.ids, sampling=sampling)
    chunks = [chunk async for chunk in engine.generate(question, id=ID, choices=1)]
    show("5 the chunks", *[(chunk.text, chunk.finish) for chunk in chunks])

    assert rendered.reader is not None
    reader = rendered.reader()
    assert reader is not None
    show("6 the pieces", *[(chunk.text, reader.feed(chunk.text)) for chunk in chunks])

    interpreter = Interpreter(0, rendered.reader(), prompt.tool_use)
    events = [event for chunk in chunks for event in interpreter.text(chunk.text)]
    show("7 the events", *events, *interpreter.end("stop", None))

    presenter = ChatPresenter(id=ID, model="scripted", n=1, include_usage=True)
    writes = [
        news(b"".join([presenter.feed(event) for event in beat]))
        async for beat in model.generate(request)
    ]
    show("8 the frames", *["\n".join(lines) for lines in writes if lines])

    result = await fold(model.generate(request))
    show("9 the same, not streamed", json.dumps(presenter.whole(result)["choices"], indent=2))
    await model.close()


def served(engine: StandIn, gate: Gate) -> ServedModel:
    return ServedModel(
        engine,
        gate,
        names=["scripted"],
        max_total_tokens=None,
        max_prompt_chars=None,
        max_prompt_scores=1_000_000,
        max_answer_scores=1_000_000,
        grammar_timeout_s=10.0,
    )


if __name__ == "__main__":
    asyncio.run(main())
