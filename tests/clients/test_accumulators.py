"""What the SDKs make of streams: their own accumulators over generated answers, good and bad.

`ANSWERS=40 make test-clients` is a short run. Each answer follows from its number (`answers.py`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.clients.answers import CUSTOM, Answer, answer
from tests.clients.environments import printed

pytestmark = pytest.mark.clients
ANSWERS = int(os.environ.get("ANSWERS", "500"))
_STATUS = {
    400: "BadRequestError",
    404: "NotFoundError",
    500: "InternalServerError",
    503: "InternalServerError",
}
Got = dict[str, Any]


@dataclass(frozen=True)
class Accumulator:
    program: str
    api: str
    stop: str
    calls: str
    """How an answer ends that has calls."""
    length: str
    failed: tuple[str, ...]
    """What the SDK raises or shows when a stream fails that has begun, by class or event."""
    refused: Mapping[int, str] = field(default_factory=lambda: _STATUS)
    """What it raises for a status."""


_ALWAYS_ENDS = {
    "stop": "response.completed",
    "calls": "response.completed",
    "length": "response.incomplete",
    "failed": ("response.failed",),
}
_CHAT = {"stop": "stop", "calls": "tool_calls", "length": "length", "failed": ("APIError",)}
# The script ends before `max_tokens`: to the server it is the context that is full.
_MESSAGE = {"stop": "end_turn", "calls": "tool_use", "length": "model_context_window_exceeded"}
_UNAVAILABLE = {**_STATUS, 503: "ServiceUnavailableError"}
_AI = {
    "stop": "stop",
    "calls": "tool-calls",
    "length": "length",
    # The second if nothing came before the failure.
    "failed": ("StreamProviderError", "APICallError"),
    "refused": dict.fromkeys(_STATUS, "APICallError"),
}

ACCUMULATORS = [
    Accumulator("sdks/accumulate_openai.py", "chat", **_CHAT),
    Accumulator("sdks/accumulate_openai.py", "responses", **_ALWAYS_ENDS),
    Accumulator("node/accumulate_openai.mjs", "chat", **_CHAT),
    Accumulator("node/accumulate_openai.mjs", "responses", **_ALWAYS_ENDS),
    Accumulator(
        "sdks/accumulate_anthropic.py",
        "messages",
        **_MESSAGE,
        failed=("APIStatusError",),
        refused=_UNAVAILABLE,
    ),
    Accumulator(
        "node/accumulate_anthropic.mjs",
        "messages",
        **_MESSAGE,
        failed=("APIError",),
        refused=_UNAVAILABLE,
    ),
    Accumulator("node/accumulate_ai_sdk.mjs", "responses", **_AI),
    Accumulator("node/accumulate_ai_sdk.mjs", "messages", **_AI),
]


@pytest.fixture(scope="session")
def accumulated(model: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of a program: for each API that it tried, what it got, in the answers' order."""
    folder = tmp_path_factory.mktemp("accumulated")
    cases = folder / "cases.json"
    cases.write_text(json.dumps([answer(seed).case for seed in range(ANSWERS)]))

    @cache
    def of(program: str) -> dict[str, list[Got]]:
        within = 60 + ANSWERS
        return printed(program, folder, within_s=within, BASE_URL=model, CASES=str(cases))

    return of


@pytest.mark.parametrize("sdk", ACCUMULATORS, ids=lambda sdk: f"{Path(sdk.program).name}-{sdk.api}")
def test_every_answer_arrives_whole_or_ends_with_an_error_of_the_sdk(
    accumulated: Any, sdk: Accumulator
) -> None:
    got: list[Got] = accumulated(sdk.program)[sdk.api]
    assert [each["seed"] for each in got] == list(range(ANSWERS))
    wrong = [(each, made) for each in got if (made := _fault(sdk, answer(each["seed"]), each))]
    assert not wrong, f"{len(wrong)} of {ANSWERS}, such as {wrong[:2]}"


def test_the_short_run_has_answers_of_every_kind() -> None:
    kinds = {answer(seed).kind for seed in range(500)}
    assert {answer(seed).kind for seed in range(40)} == kinds


def _fault(sdk: Accumulator, made: Answer, got: Got) -> str | None:
    """What is not as it should be."""
    name, status = got.get("error", (None, None))
    if _sdk_fails(sdk, made):
        return None if name == "AttributeError" else "the SDK can do it now: drop this"
    if made.end == "refused" or made.kind == "failed at once":
        expected = (sdk.refused[made.status], made.status)
        return None if (name, status) == expected else f"should be refused with {expected}"
    if made.end == "failed":
        return None if name in sdk.failed else f"should fail with {sdk.failed}"
    if name is not None:
        return "should not fail"
    return _differs(sdk, made, got)


def _differs(sdk: Accumulator, made: Answer, got: Got) -> str | None:
    end = {"length": sdk.length}.get(made.end, sdk.calls if made.calls else sdk.stop)
    if got["end"] != end:
        return f"should end with {end}"
    # Blanks at its ends belong to the format that the model writes.
    if (got["text"].strip(), got["thinking"].strip()) != (made.text, _shown(sdk, made)):
        return f"should say {made.text!r} and think {made.thinking!r}"
    whole = [[name, _arguments(name, sent)] for name, sent in got["calls"][: len(made.calls)]]
    if whole != [_wanted(name, arguments) for name, arguments in made.calls]:
        return f"should call {made.calls}"
    if len(got["calls"]) > len(made.calls) + (made.end == "length"):
        return "has calls that the model has not written"
    return None


def _sdk_fails(sdk: Accumulator, made: Answer) -> bool:
    """The chat accumulator of OpenAI's Python SDK (3.57.0) raises AttributeError for every call of
    a custom tool: it takes `custom`, which it keeps as a dict, for an object."""
    return (sdk.program, sdk.api, made.kind) == ("sdks/accumulate_openai.py", "chat", "custom call")


def _shown(sdk: Accumulator, made: Answer) -> str:
    """The AI SDK shows a response's thinking only as a summary: every other case asks for one."""
    hidden = "ai_sdk" in sdk.program and sdk.api == "responses" and made.seed % 2 == 0
    return "" if hidden else made.thinking


def _arguments(name: str, sent: Any) -> Any:
    """As an object; of a custom tool as its text."""
    if name == CUSTOM:
        return sent["input"] if isinstance(sent, dict) else sent
    return json.loads(sent) if isinstance(sent, str) else sent


def _wanted(name: str, arguments: dict[str, Any]) -> list[Any]:
    return [name, arguments["input"] if name == CUSTOM else arguments]
