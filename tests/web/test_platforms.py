"""Settings that hosting platforms offer, on the scripted engine: bounds, warm-up, phases, logs."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import InvalidRequest
from app.lifecycle import Phase
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve

_HI = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": _HI, "logprobs": True, "top_logprobs": 4},
         "top_logprobs"),
        ("/v1/completions", {"prompt": "hi", "logprobs": 4}, "logprobs"),
        ("/generate", {"text": "hi", "return_logprob": True, "top_logprobs_num": 4},
         "top_logprobs_num"),
    ],
)  # fmt: skip
async def test_max_logprobs_bounds_the_alternatives_of_every_dialect(
    path: str, body: dict[str, Any], param: str
) -> None:
    async with serve(ScriptedEngine("x"), MAX_LOGPROBS="3") as running:
        refused = await running.client.post(path, json={"model": "default", **body})
        accepted = await running.client.post(path, json={"model": "default", **body, param: 3})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param
    assert "at most 3" in refused.json()["error"]["message"]
    assert accepted.status_code == 200


async def test_the_warm_up_prompt_is_answered_before_ready() -> None:
    engine = ScriptedEngine("pong")
    environment = {"WARMUP_ON_START": "1", "WARMUP_PROMPT": "wake up", "WARMUP_MAX_TOKENS": "7"}
    async with serve(engine, **environment):
        pass
    ids, sampling, *_ = engine.calls[0]
    assert engine.decode(ids) == "wake up"
    assert sampling.max_tokens == 7


@pytest.mark.parametrize(
    ("environment", "runs", "share"),
    [({}, 0, 128), ({}, 1000, 128), ({}, 40, 10), ({}, 3, 1), ({"MAX_CONCURRENCY": "16"}, 40, 4),
     ({"MAX_SEQUENCES_PER_REQUEST": "30"}, 40, 30)],
)  # fmt: skip
async def test_one_request_has_at_most_a_quarter_of_what_the_engine_runs_at_a_time(
    environment: dict[str, str], runs: int, share: int
) -> None:
    engine = ScriptedEngine("x")
    engine.max_running = runs
    async with serve(engine, **environment) as running:
        assert running.gate.sequences.share == share


async def test_a_request_of_more_choices_than_its_share_has_them_all_and_no_more_at_a_time() -> (
    None
):
    engine = ScriptedEngine(script=lambda choice: [f"{choice}"])
    running_now, most = 0, 0
    generate = engine.generate

    async def watched(question: Any, *, id: str, choices: int) -> Any:
        nonlocal running_now, most
        running_now += choices
        most = max(most, running_now)
        async for chunk in generate(question, id=id, choices=choices):
            yield chunk
        running_now -= choices

    engine.generate = watched  # type: ignore[method-assign]
    body = {"prompt": ["a", "bc"], "n": 8, "max_tokens": 4}
    async with serve(engine, MAX_SEQUENCES_PER_REQUEST="3") as running:
        answer = (await running.client.post("/v1/completions", json=body)).json()
    assert [choice["index"] for choice in answer["choices"]] == list(range(16))
    assert answer["usage"] == answer["usage"] | {"prompt_tokens": 3, "completion_tokens": 16}
    assert most == 3


async def test_a_refused_warm_up_does_not_prevent_serving() -> None:
    engine = ScriptedEngine(InvalidRequest("no"))
    async with serve(engine, WARMUP_ON_START="1") as running:
        assert running.lifecycle.phase is Phase.READY


async def test_a_server_without_a_network_endpoint_reports_it_as_disabled() -> None:
    async with serve(ScriptedEngine("x")) as running:
        health = (await running.client.get("/health")).json()
        metrics = (await running.client.get("/metrics")).text
    assert health["network"] == {"state": "disabled"}
    assert 'serve_network_state{state="disabled"} 1.0' in metrics


async def test_in_the_leaving_phase_readiness_fails_and_requests_are_served() -> None:
    async with serve(ScriptedEngine("x")) as running:
        running.lifecycle.enter(Phase.LEAVING)
        assert (await running.client.get("/readyz")).status_code == 503
        assert (await running.client.get("/health")).status_code == 503
        assert (await running.client.get("/livez")).status_code == 200
        assert (await running.client.get("/v1/models")).status_code == 200
        assert (await running.chat()).status_code == 200


async def test_the_debug_log_shows_a_body_up_to_max_log_len(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with serve(ScriptedEngine("x"), LOG_LEVEL="debug", MAX_LOG_LEN="12") as running:
        await running.chat("a secret at the end of a long body")
    output = capsys.readouterr().out
    assert "request body" in output
    assert "a secret" not in output
