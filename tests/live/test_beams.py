"""Beam search on the real engine, against that of Transformers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bench import models
from tests.live.conftest import LiveServer

pytestmark = pytest.mark.live
PROMPTS = ("The capital of France is", "Once upon a time there was a", "2 + 2 =")


def search(exact: LiveServer, prompt: str, **fields: Any) -> dict[str, Any]:
    body = {"prompt": prompt, "use_beam_search": True, "max_tokens": 12} | fields
    answer = exact.http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


@pytest.fixture(scope="module", params=["tiny", pytest.param("demo", marks=pytest.mark.rare)])
def exact(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """In bfloat16 beams are as good as each other that in float32 are not. With eight rows."""
    server = LiveServer(
        tmp_path_factory.mktemp("beams"), "--dtype", "float32", "--max-running-requests", "8",
        model=request.param, MAX_SEQUENCES_PER_REQUEST="8",
    )  # fmt: skip
    server.name = request.param
    try:
        yield server.ready()
    finally:
        server.stop()


def by_transformers(model: str, prompt: str, width: int, returned: int) -> list[str]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = models.find(model)
    tokenizer = AutoTokenizer.from_pretrained(path)
    generator = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    ids = tokenizer(prompt, return_tensors="pt")
    output = generator.generate(
        **ids,
        num_beams=width,
        num_return_sequences=returned,
        max_new_tokens=12,
        do_sample=False,
        length_penalty=1.0,
        early_stopping="never",
    )
    texts: list[str] = tokenizer.batch_decode(
        output[:, ids["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return texts


def test_it_finds_what_transformers_find(exact: LiveServer) -> None:
    for prompt in PROMPTS:
        for width, returned in ((4, 2), (2, 2)):
            answer = search(exact, prompt, n=returned, best_of=width)
            texts = [choice["text"] for choice in answer["choices"]]
            assert texts == by_transformers(exact.name, prompt, width, returned), prompt
            assert [choice["index"] for choice in answer["choices"]] == list(range(returned))
            assert answer["usage"]["completion_tokens"] <= 12 * returned


def test_it_differs_from_the_greedy_answer_and_is_the_same_each_time(exact: LiveServer) -> None:
    prompt = PROMPTS[1]
    greedy = exact.http.post(
        "/v1/completions", json={"prompt": prompt, "max_tokens": 12, "temperature": 0}
    ).json()
    best = search(exact, prompt, best_of=6)["choices"][0]["text"]
    assert best != greedy["choices"][0]["text"]
    with ThreadPoolExecutor(4) as pool:  # among others of the same batch
        again = list(pool.map(lambda _: search(exact, prompt, best_of=6), range(4)))
    assert {each["choices"][0]["text"] for each in again} == {best}


def test_several_prompts_and_a_chat_are_searched_too(exact: LiveServer) -> None:
    both = exact.http.post(
        "/v1/completions",
        json={"prompt": list(PROMPTS[:2]), "use_beam_search": True, "n": 2, "max_tokens": 8},
    ).json()
    alone = [search(exact, prompt, n=2, max_tokens=8)["choices"] for prompt in PROMPTS[:2]]
    assert [choice["text"] for choice in both["choices"]] == [
        choice["text"] for choices in alone for choice in choices
    ]
    chat = exact.http.post(
        "/v1/chat/completions",
        json={
            "messages": [{"role": "user", "content": "Say hello."}], "use_beam_search": True,
            "n": 3, "max_tokens": 8,
        },
    )  # fmt: skip
    assert chat.status_code == 200, chat.text
    assert len({choice["message"]["content"] for choice in chat.json()["choices"]}) == 3


def test_searches_that_find_no_rows_are_refused_and_the_engine_goes_on(exact: LiveServer) -> None:
    """The scheduler admits others before a search has taken its rows."""

    def ask(no: int) -> int:
        fields = {"use_beam_search": True, "n": 6} if no % 4 == 0 else {}
        body = {"prompt": f"{no} x", "max_tokens": 20, "ignore_eos": True} | fields
        return exact.http.post("/v1/completions", json=body).status_code

    with ThreadPoolExecutor(32) as pool:
        codes = list(pool.map(ask, range(160)))
    assert set(codes) <= {200, 503}, codes
    assert codes.count(200) > 120
    assert exact.metric("serve_in_flight") == 0
    assert ask(0) == ask(1) == 200


def test_a_client_that_leaves_ends_the_search(exact: LiveServer) -> None:
    body = {"prompt": "x", "use_beam_search": True, "best_of": 8, "max_tokens": 2000}
    with pytest.raises(Exception, match="timed out"):
        exact.http.post("/v1/completions", json=body | {"ignore_eos": True}, timeout=2)
    assert len(search(exact, PROMPTS[0], n=2, max_tokens=4)["choices"]) == 2
