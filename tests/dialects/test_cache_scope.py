"""Which part of the prefix cache a request is in, and what is told of what was found there."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.scripted import ScriptedEngine
from tests.support.serving import Running, serve

CHAT = "/v1/chat/completions"
LONG = "Answer in one short sentence, and never guess. " * 10


async def ask(running: Running, key: str, text: str = "hi", **fields: Any) -> Any:
    body = {"model": "default", "messages": [{"role": "user", "content": text}], **fields}
    headers = {"authorization": f"Bearer {key}", "x-explain-cache": "1"}
    return (await running.client.post(CHAT, json=body, headers=headers)).raise_for_status()


@pytest.mark.parametrize(
    ("scope", "apart"),
    [("all", {"salt"}), ("key", {"salt", "key"}), ("session", {"salt", "key", "session"})],
)
async def test_the_operator_says_what_keeps_tenants_caches_apart(
    scope: str, apart: set[str]
) -> None:
    async with serve(ScriptedEngine("x"), API_KEY="one,two", CACHE_SCOPE=scope) as running:
        seen: dict[str, str] = {}
        for name, key, fields in (
            ("same", "one", {}),
            ("plain", "one", {}),
            ("salt", "one", {"cache_salt": "s"}),
            ("key", "two", {}),
            ("session", "one", {"prompt_cache_key": "thread"}),
        ):
            await ask(running, key, **fields)
            seen[name] = running.engine.scopes[-1]
    assert seen["same"] == seen["plain"]
    assert {name for name in ("salt", "key", "session") if seen[name] != seen["plain"]} == apart
    if scope == "all":
        assert seen["plain"] == ""


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}),
    ],
)
async def test_a_salt_and_a_session_are_taken_by_every_dialect_of_clients(
    path: str, body: dict[str, Any]
) -> None:
    async with serve(ScriptedEngine("x"), CACHE_SCOPE="session") as running:
        for fields in ({}, {"cache_salt": "s"}, {"prompt_cache_key": "t"}):
            answer = await running.client.post(path, json={"model": "default", **body, **fields})
            assert answer.status_code == 200, answer.text
        assert len(set(running.engine.scopes)) == 3


async def test_every_dialect_has_a_scope() -> None:
    async with serve(ScriptedEngine("x"), API_KEY="one", CACHE_SCOPE="key") as running:
        headers = {"authorization": "Bearer one"}
        hi = [{"role": "user", "content": "hi"}]
        for path, body in (
            (CHAT, {"messages": hi}),
            ("/v1/completions", {"prompt": "hi"}),
            ("/v1/responses", {"model": "default", "input": "hi"}),
            ("/v1/messages", {"model": "default", "messages": hi, "max_tokens": 9}),
            ("/generate", {"text": "hi"}),
        ):
            answer = await running.client.post(path, json=body, headers=headers)
            assert answer.status_code == 200, answer.text
        assert len(set(running.engine.scopes)) == 1
        assert running.engine.scopes[0]


async def test_on_request_the_answer_says_what_was_found_and_where_it_differs() -> None:
    async with serve(ScriptedEngine("x"), API_KEY="one,two") as running:
        first = await ask(running, "one", LONG + "It is Monday. Where is Paris, do you know?")
        assert first.headers["x-prompt-cache"].startswith("cached=0; prompt=")
        assert "shared" not in first.headers["x-prompt-cache"]
        changed = await ask(
            running, "one", LONG + "It is Tuesday. Where is Paris, do you know?", stream=True
        )
        said = changed.headers["x-prompt-cache"]
        assert f"shared={len(LONG) + 6}; " in said
        assert 'differs_in="message 1 of 1 (user)"' in said
        other = await ask(running, "two", LONG + "It is Monday. Where is Paris, do you know?")
        assert "shared" not in other.headers["x-prompt-cache"]
        plain = await running.client.post(
            CHAT,
            json={"messages": [{"role": "user", "content": "hi"}]},
            headers={"authorization": "Bearer one"},
        )
        assert "x-prompt-cache" not in plain.headers


async def test_a_difference_is_told_and_a_prompt_that_an_earlier_one_contains_has_none() -> None:
    rules = "Answer in one short sentence, and never guess. " * 10
    async with serve(ScriptedEngine("x")) as running:

        async def told(*texts: str, **fields: Any) -> str:
            said = [{"role": "user", "content": text} for text in texts]
            body = {"model": "default", "messages": said, **fields}
            answer = await running.client.post(CHAT, json=body, headers={"x-explain-cache": "1"})
            return answer.headers.get("x-prompt-cache") or f"{answer.status_code}"

        assert await told(rules, "It is Monday.", max_tokens=10**6) == "400"
        first = await told(rules, "It is Monday. What is the capital of France?")
        assert "shared" not in first  # of one that was refused nothing is kept
        told_ = await told(rules, "It is Tuesday. What is the capital of France?")
        assert f"shared={len(rules) + 6}" in told_
        assert 'differs_in="message 2 of 2 (user)"' in told_
        assert "differs_in" not in await told(rules)


async def test_nothing_is_told_unless_it_is_asked_for() -> None:
    async with serve(ScriptedEngine("x")) as running:
        body = {"model": "default", "messages": [{"role": "user", "content": LONG}]}
        for header in ({}, {"x-explain-cache": "0"}):
            answer = await running.client.post(CHAT, json=body, headers=header)
            assert "x-prompt-cache" not in answer.headers
