"""The checks: each asks the server one thing, and returns what it saw or raises a `Finding`.

A check knows the server by its answers only. `ask_all` runs them in order: later checks use what
earlier ones have learned (`Server`).
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote

import httpx

from app.check.shapes import (
    CHAT,
    COMPLETION,
    SEEN_CHARS,
    USAGE,
    Endpoint,
    Finding,
    events,
    expect,
    fitting,
    quoted,
    refusal,
    shown,
    text_of,
    tokens_of,
)


@dataclass(frozen=True, slots=True)
class Row:
    check: str
    verdict: str
    """ok, warning, skipped or fail."""
    ms: float
    seen: str


@dataclass(slots=True)
class Server:
    """The server under test, and what earlier checks have learned of it."""

    client: httpx.Client
    timeout_s: float
    key: str | None
    model: str | None
    """The name to ask for; None leaves it to the server."""
    listed: str | None = None
    """A name that /v1/models has shown."""
    generates: bool = True
    """False for an embedding model, as /model_info says."""
    texts: dict[str, str] = field(default_factory=dict)
    """Path -> the text of the whole answer."""

    def ask(self, method: str, path: str, *, status: int = 200, **sent: Any) -> httpx.Response:
        return self.with_status(status, self.client.request(method, path, **sent))

    def body(self, endpoint: Endpoint, **fields: Any) -> dict[str, Any]:
        """A request for this endpoint."""
        named = {} if self.model is None else {"model": self.model}
        return {**named, **endpoint.body, "temperature": 0, **fields}

    def with_status(self, status: int, response: httpx.Response) -> httpx.Response:
        if response.status_code != status:
            hint = " (give --api-key)" if response.status_code == 401 and not self.key else ""
            seen = f"{response.status_code}{hint} {refusal(response.read())}"
            raise Finding("fail", f"expected status {status}, saw {seen}")
        return response


def answers_200(path: str, server: Server) -> str:
    return str(server.ask("GET", path).status_code)


def is_healthy(server: Server) -> str:
    shape = {"status": "ok", "phase": str, "engine_status": str, "hathora_region": str}
    health = fitting(shape, server.ask("GET", "/health").content)
    return "phase {phase}, engine {engine_status}, region {hathora_region}".format(**health)


def lists_its_models(server: Server) -> str:
    shape = {"object": "list", "data": [{"id": str, "object": "model"}]}
    cards = fitting(shape, server.ask("GET", "/v1/models").content)["data"]
    expect(cards, "at least one model", "none")
    names = [card["id"] for card in cards]
    seen = ", ".join(f"{card['id']} (max_model_len {card.get('max_model_len')})" for card in cards)
    wanted, server.model = server.model, server.model or names[0]
    server.listed = wanted if wanted in names else names[0]
    if wanted not in (None, *names):
        raise Finding("warning", f"{wanted!r} is not listed: {seen}")
    return seen


def shows_one_model(server: Server) -> str:
    if server.listed is None:
        raise Finding("skipped", "no name is known")
    # Quoted whole, slashes included, as OpenAI's SDK does.
    answer = server.ask("GET", f"/v1/models/{quote(server.listed, safe='')}")
    return str(fitting({"id": server.listed, "object": "model"}, answer.content)["id"])


def says_what_it_does(server: Server) -> str:
    shape = {"model_path": str, "is_generation": (True, False)}
    info = fitting(shape, server.ask("GET", "/model_info").content)
    server.generates = info["is_generation"]
    return "it generates" if server.generates else "it embeds"


def embeds(server: Server) -> str:
    if server.generates:
        raise Finding("skipped", "the model generates")
    body = {} if server.model is None else {"model": server.model}
    shape = {"object": "list", "data": [{"embedding": [float], "index": int}]}
    response = server.ask("POST", "/v1/embeddings", json={**body, "input": ["ping", "pong"]})
    vectors = [entry["embedding"] for entry in fitting(shape, response.content)["data"]]
    expect(len(vectors) == 2, "two vectors", len(vectors))
    return f"2 vectors of {len(vectors[0])} numbers"


def answers_whole(endpoint: Endpoint, server: Server) -> str:
    _needs_generation(server)
    response = server.ask("POST", endpoint.path, json=server.body(endpoint))
    answer = fitting(endpoint.whole, response.content)
    expect(len(answer["choices"]) == 1, "one choice", len(answer["choices"]))
    server.texts[endpoint.path] = text = text_of(answer)
    return f"{quoted(text)}, {tokens_of(answer)} tokens, {answer['choices'][0]['finish_reason']}"


def streams(endpoint: Endpoint, server: Server) -> str:
    _needs_generation(server)
    began = time.perf_counter()
    chunks: list[tuple[float, dict[str, Any]]] = []  # and after how many seconds each came
    done = False
    body = server.body(endpoint, stream=True, stream_options={"include_usage": True})
    with server.client.stream("POST", endpoint.path, json=body) as response:
        kind = server.with_status(200, response).headers.get("content-type", "")
        expect(kind.startswith("text/event-stream"), "text/event-stream", repr(kind))
        for event in events(response, deadline=began + server.timeout_s):
            expect(not done, "nothing after [DONE]", shown(event))
            done = event == b"[DONE]"
            if not done:
                chunks.append((time.perf_counter() - began, fitting(endpoint.chunk, event)))
    expect(done, "`data: [DONE]` at the end", f"{len(chunks)} chunks without it")
    expect(chunks, "chunks", "[DONE] alone")
    (_, first), (ended_s, last) = chunks[0], chunks[-1]
    if endpoint is CHAT:
        roles = [choice["delta"].get("role") for choice in first["choices"]]
        expect(roles == ["assistant"], "the role in the first chunk", roles)
    ends = [choice.get("finish_reason") for _, chunk in chunks for choice in chunk["choices"]]
    ends = [reason for reason in ends if reason is not None]
    expect(len(ends) == 1, "one finish_reason", ends)
    fitting({"choices": [], "usage": USAGE}, json.dumps(last).encode())
    tokens, text = tokens_of(last), "".join(text_of(chunk) for _, chunk in chunks)
    first_s = next((at_s for at_s, chunk in chunks if text_of(chunk)), ended_s)
    pace = f"{(tokens - 1) / (ended_s - first_s):.1f}" if ended_s > first_s else "-"
    seen = f"first token after {first_s * 1e3:.0f} ms, {pace} tokens/s, {tokens} tokens, {ends[0]}"
    if text != server.texts.get(endpoint.path, text):  # batching can turn a near tie
        raise Finding("warning", f"not the text of the whole answer: {quoted(text)}, {seen}")
    return seen


def _needs_generation(server: Server) -> None:
    if not server.generates:
        raise Finding("skipped", "the model embeds")


def refuses_what_is_not_json(server: Server) -> str:
    return _refused(server, 400, "POST", CHAT.path, content=b"{not JSON")


def refuses_an_unknown_model(server: Server) -> str:
    body = server.body(CHAT, model=f"no-such-model-{secrets.token_hex(4)}")
    return _refused(server, 404, "POST", CHAT.path, code="model_not_found", json=body)


def refuses_an_unknown_path(server: Server) -> str:
    return _refused(server, 404, "GET", "/v1/no-such-path")


def refuses_a_million_choices(server: Server) -> str:
    return _refused(server, 400, "POST", CHAT.path, json=server.body(CHAT, n=1_000_000))


def refuses_a_wrong_key(server: Server) -> str:
    if server.key is None:
        raise Finding("skipped", "no API key is in use")
    wrong = {"authorization": f"Bearer wrong-{secrets.token_hex(8)}"}
    return _refused(server, 401, "GET", "/v1/models", headers=wrong)


def _refused(
    server: Server, status: int, method: str, path: str, *, code: str | None = None, **sent: Any
) -> str:
    """An error in OpenAI's form: under `error` these four keys and no others."""
    raw = server.ask(method, path, status=status, **sent).content
    error = fitting({"error": {"message": str, "type": str}}, raw)["error"]
    four = {"message", "type", "param", "code"}
    expect(set(error) == four, f"`error` with {sorted(four)}", sorted(error))
    expect(code in (None, error["code"]), f"code {code}", error["code"])
    return f"{status} {refusal(raw)}"


def sends_its_headers(server: Server) -> str:
    id = f"check-{secrets.token_hex(8)}"
    headers = server.ask("GET", "/livez", headers={"x-request-id": id}).headers
    echo, took = headers.get("x-request-id"), headers.get("x-process-time", "")
    expect(echo == id, f"X-Request-ID {id!r}", repr(echo))
    expect(took.replace(".", "", 1).isdecimal(), "a number as X-Process-Time", repr(took))
    expect("x-hathora-region" in headers, "X-Hathora-Region", "none")
    return f"id echoed, process time {took} ms, region {headers['x-hathora-region']}"


def has_metrics(server: Server) -> str:
    response = server.client.get("/metrics")
    if response.status_code == 404:
        raise Finding("skipped", "off")
    lines = server.with_status(200, response).text.splitlines()
    has_phase = any(line.startswith("serve_phase{") for line in lines)
    expect(has_phase, "a series `serve_phase`", f"{len(lines)} lines without it")
    return f"{sum(not line.startswith('#') for line in lines)} samples"


CHECKS = (
    ("/livez", partial(answers_200, "/livez")),
    ("/health", is_healthy),
    ("/readyz", partial(answers_200, "/readyz")),
    ("/ping", partial(answers_200, "/ping")),
    ("/v1/models", lists_its_models),
    ("/v1/models/{id}", shows_one_model),
    ("/model_info", says_what_it_does),
    ("chat", partial(answers_whole, CHAT)),
    ("chat, streamed", partial(streams, CHAT)),
    ("completion", partial(answers_whole, COMPLETION)),
    ("completion, streamed", partial(streams, COMPLETION)),
    ("embeddings", embeds),
    ("error: not JSON", refuses_what_is_not_json),
    ("error: unknown model", refuses_an_unknown_model),
    ("error: unknown path", refuses_an_unknown_path),
    ("error: n=1000000", refuses_a_million_choices),
    ("error: wrong API key", refuses_a_wrong_key),
    ("headers", sends_its_headers),
    ("/metrics", has_metrics),
)


def ask_all(server: Server) -> Iterator[Row]:
    """The rows, each as soon as its check has ended."""
    for name, check in CHECKS:
        began = time.perf_counter()
        verdict = "fail"
        try:
            verdict, seen = "ok", check(server)
        except Finding as finding:
            verdict, seen = finding.verdict, str(finding)
        except httpx.TimeoutException:
            seen = f"expected an answer within {server.timeout_s:g} s, saw none"
        except httpx.HTTPError as error:
            seen = f"expected an answer, saw {type(error).__name__}: {error}"
        ms = round((time.perf_counter() - began) * 1e3, 1)
        yield Row(name, verdict, ms, _presentable(seen, server.key))


def _presentable(seen: str, key: str | None) -> str:
    """One printable line without terminal escapes, bounded, and without the key if the server
    repeats it."""
    seen = seen.replace(key, "***") if key else seen
    seen = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in seen)
    return seen if len(seen) <= SEEN_CHARS else seen[: SEEN_CHARS - 1] + "…"
