"""`serve_hathora.py check`: ask a running server what its clients and platforms ask of it.

    main ─> ask_all ─> CHECKS, one after the other ─> Row ─> on a terminal | as text | as JSON

A check returns what it saw or raises a `Finding`; it knows the server by its answers only.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote

import httpx
from rich.console import Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Column, Table
from rich.text import Text

from app.errors import ConfigError
from app.settings.load import load

_SEEN_CHARS, _TEXT_CHARS = 240, 60
_CONNECT_TIMEOUT_S = 5.0
_STYLES = {"ok": "green", "warning": "yellow", "skipped": "dim", "fail": "bold red"}


@dataclass(frozen=True, slots=True)
class Row:
    check: str
    verdict: str
    """One of _STYLES."""
    ms: float
    seen: str


class Finding(Exception):
    """What a row says when its check did not simply succeed."""

    def __init__(self, verdict: str, seen: str) -> None:
        super().__init__(seen)
        self.verdict = verdict


def expect(holds: object, expected: str, seen: object) -> None:
    if not holds:
        raise Finding("fail", f"expected {expected}, saw {seen}")


@dataclass(slots=True)
class Server:
    """The server that is asked, and what earlier checks have learned of it."""

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

    def with_status(self, status: int, response: httpx.Response) -> httpx.Response:
        if response.status_code != status:
            hint = " (give --api-key)" if response.status_code == 401 and not self.key else ""
            seen = f"{response.status_code}{hint} {_refusal(response.read())}"
            raise Finding("fail", f"expected status {status}, saw {seen}")
        return response


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One that generates: what it is asked, and what its answers look like (see `_misfit`)."""

    path: str
    body: dict[str, Any]
    whole: dict[str, Any]
    chunk: dict[str, Any]

    def ask_of(self, server: Server, **fields: Any) -> dict[str, Any]:
        named = {} if server.model is None else {"model": server.model}
        return {**named, **self.body, "temperature": 0, **fields}


_END = ("stop", "length")
_USAGE = {"prompt_tokens": int, "completion_tokens": int, "total_tokens": int}
_QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
_ANSWER = {"role": "assistant", "content": str}
CHAT = Endpoint(
    "/v1/chat/completions",
    {"messages": _QUESTION, "max_tokens": 16},
    whole={
        "id": str, "object": "chat.completion", "usage": _USAGE,
        "choices": [{"message": _ANSWER, "finish_reason": _END}],
    },
    chunk={
        "id": str, "object": "chat.completion.chunk",
        "choices": [{"delta": {}, "finish_reason": (None, *_END)}],
    },
)  # fmt: skip
COMPLETION = Endpoint(
    "/v1/completions",
    {"prompt": "The capital of France is", "max_tokens": 8},
    whole={
        "id": str, "object": "text_completion", "usage": _USAGE,
        "choices": [{"text": str, "finish_reason": _END}],
    },
    chunk={
        "id": str, "object": "text_completion",
        "choices": [{"text": str, "finish_reason": (None, *_END)}],
    },
)  # fmt: skip


# -- the checks --------------------------------------------------------------------------------


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
    response = server.ask("POST", endpoint.path, json=endpoint.ask_of(server))
    answer = fitting(endpoint.whole, response.content)
    expect(len(answer["choices"]) == 1, "one choice", len(answer["choices"]))
    server.texts[endpoint.path] = text = _text(answer)
    return f"{_quoted(text)}, {_tokens(answer)} tokens, {answer['choices'][0]['finish_reason']}"


def streams(endpoint: Endpoint, server: Server) -> str:
    _needs_generation(server)
    began = time.perf_counter()
    chunks: list[tuple[float, dict[str, Any]]] = []  # and after how many seconds each came
    done = False
    body = endpoint.ask_of(server, stream=True, stream_options={"include_usage": True})
    with server.client.stream("POST", endpoint.path, json=body) as response:
        kind = server.with_status(200, response).headers.get("content-type", "")
        expect(kind.startswith("text/event-stream"), "text/event-stream", repr(kind))
        for event in _events(response, deadline=began + server.timeout_s):
            expect(not done, "nothing after [DONE]", _shown(event))
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
    fitting({"choices": [], "usage": _USAGE}, json.dumps(last).encode())
    tokens, text = _tokens(last), "".join(_text(chunk) for _, chunk in chunks)
    first_s = next((at_s for at_s, chunk in chunks if _text(chunk)), ended_s)
    pace = f"{(tokens - 1) / (ended_s - first_s):.1f}" if ended_s > first_s else "-"
    seen = f"first token after {first_s * 1e3:.0f} ms, {pace} tokens/s, {tokens} tokens, {ends[0]}"
    if text != server.texts.get(endpoint.path, text):  # batching can turn a near tie
        raise Finding("warning", f"not the text of the whole answer: {_quoted(text)}, {seen}")
    return seen


def _needs_generation(server: Server) -> None:
    if not server.generates:
        raise Finding("skipped", "the model embeds")


def refuses_what_is_not_json(server: Server) -> str:
    return _refused(server, 400, "POST", CHAT.path, content=b"{not JSON")


def refuses_an_unknown_model(server: Server) -> str:
    body = CHAT.ask_of(server, model=f"no-such-model-{secrets.token_hex(4)}")
    return _refused(server, 404, "POST", CHAT.path, code="model_not_found", json=body)


def refuses_an_unknown_path(server: Server) -> str:
    return _refused(server, 404, "GET", "/v1/no-such-path")


def refuses_a_million_choices(server: Server) -> str:
    return _refused(server, 400, "POST", CHAT.path, json=CHAT.ask_of(server, n=1_000_000))


def refuses_a_wrong_key(server: Server) -> str:
    if server.key is None:
        raise Finding("skipped", "no API key is in use")
    wrong = {"authorization": f"Bearer wrong-{secrets.token_hex(8)}"}
    return _refused(server, 401, "GET", "/v1/models", headers=wrong)


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
    found = any(line.startswith("serve_phase{") for line in lines)
    expect(found, "a series `serve_phase`", f"{len(lines)} lines without it")
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


# -- reading answers ---------------------------------------------------------------------------


def fitting(shape: dict[str, Any], raw: bytes) -> Any:
    """The JSON, if it has this shape."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise Finding("fail", f"expected JSON, saw {_shown(raw)}") from None
    misfit = _misfit(shape, value, "")
    expect(misfit is None, misfit or "", _shown(raw))
    return value


def _misfit(shape: Any, value: Any, where: str) -> str | None:
    """What should be otherwise. A shape is a type, a tuple of values or a value; an object's shape
    has the keys that matter, a list's is that of each item."""
    deeper: list[str | None] = []
    match shape:
        case type():
            fits, wanted = type(value) is shape, f"a {shape.__name__}"
        case tuple():
            fits, wanted = value in shape, f"one of {shape}"
        case dict():
            fits, wanted = isinstance(value, dict), "an object"
            if fits:
                deeper = [_misfit(s, value.get(key), f"{where}.{key}") for key, s in shape.items()]
        case [each]:
            fits, wanted = isinstance(value, list), "an array"
            if fits:
                deeper = [_misfit(each, item, f"{where}[{no}]") for no, item in enumerate(value)]
        case _:
            fits, wanted = value == shape, repr(shape)
    if not fits:
        return f"`{where.lstrip('.') or 'all'}` to be {wanted}"
    return next(filter(None, deeper), None)


def _events(response: httpx.Response, *, deadline: float) -> Iterator[bytes]:
    """The data of each event. Cut at LF only: httpx's iter_lines cuts at U+2028 too, which JSON may
    hold. The deadline ends a stream that has nothing but heartbeats."""
    rest = b""
    for piece in response.iter_bytes():
        expect(time.perf_counter() < deadline, "the stream to end in time", "it go on")
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line[5:].strip() for line in lines if line.startswith(b"data:"))


def _text(answer: dict[str, Any]) -> str:
    """Of a whole answer or of a chunk, chat or not."""
    if not answer["choices"]:
        return ""
    choice = answer["choices"][0]
    text = choice.get("message", choice.get("delta", {})).get("content", choice.get("text"))
    expect(text is None or isinstance(text, str), "content to be a string", repr(text))
    return text or ""


def _tokens(answer: dict[str, Any]) -> int:
    """The answer's, if `usage` adds up."""
    prompt, completion, total = (answer["usage"][name] for name in _USAGE)
    expect(total == prompt + completion, f"total_tokens {prompt + completion}", total)
    return int(completion)


def _refused(
    server: Server, status: int, method: str, path: str, *, code: str | None = None, **sent: Any
) -> str:
    """An error in OpenAI's form: under `error` these four keys and no others."""
    raw = server.ask(method, path, status=status, **sent).content
    error = fitting({"error": {"message": str, "type": str}}, raw)["error"]
    four = {"message", "type", "param", "code"}
    expect(set(error) == four, f"`error` with {sorted(four)}", sorted(error))
    expect(code in (None, error["code"]), f"code {code}", error["code"])
    return f"{status} {_refusal(raw)}"


def _refusal(raw: bytes) -> str:
    """An error's code and message, if that is what it is."""
    try:
        error = json.loads(raw)["error"]
        return f"{error['code']}: {_quoted(error['message'])}"
    except (ValueError, RecursionError, LookupError, TypeError):
        return _shown(raw)


def _shown(raw: bytes) -> str:
    return repr(raw[:_SEEN_CHARS].decode(errors="replace"))


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _TEXT_CHARS else text[: _TEXT_CHARS - 1] + "…")


# -- asking and showing ------------------------------------------------------------------------


def main(argv: Sequence[str]) -> int:
    """0: all as it should be; 1: something is off, or nobody answers. Wrong usage exits with 2."""
    given = _arguments(argv)
    url: httpx.URL = given.base_url
    shown_url = str(url).rstrip("/")
    with httpx.Client(
        base_url=url,
        headers={"authorization": b"Bearer " + given.api_key.encode()} if given.api_key else {},
        timeout=httpx.Timeout(given.timeout, connect=min(given.timeout, _CONNECT_TIMEOUT_S)),
        # A proxy from the environment leads to other machines only.
        trust_env=url.host not in ("localhost", "127.0.0.1", "::1"),
    ) as client:
        try:
            client.get("/livez")
        except httpx.HTTPError as error:
            print(f"nobody answers at {shown_url}: {error}", file=sys.stderr)
            return 1
        server = Server(client, given.timeout, given.api_key or None, given.model)
        show = _as_json if given.json else _on_terminal if sys.stdout.isatty() else _as_text
        rows = show(ask_all(server), f"seen at {shown_url}")
    return int(any(row.verdict == "fail" for row in rows))


def ask_all(server: Server) -> Iterator[Row]:
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
    """Without the key, should the server repeat it; in one line that no terminal obeys; bounded."""
    seen = seen.replace(key, "***") if key else seen
    seen = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in seen)
    return seen if len(seen) <= _SEEN_CHARS else seen[: _SEEN_CHARS - 1] + "…"


def _on_terminal(rows: Iterator[Row], title: str) -> list[Row]:
    table = Table("check", "verdict", Column("ms", justify="right"), Column(Text(title)))
    shown = []
    with Live(Group(table, Spinner("dots", "asking"))) as live:
        for row in rows:
            verdict = Text(row.verdict, _STYLES[row.verdict])
            table.add_row(row.check, verdict, f"{row.ms:.0f}", Text(row.seen, overflow="fold"))
            shown.append(row)
        live.update(table)
    print(_summary(shown))
    return shown


def _as_text(rows: Iterator[Row], title: str) -> list[Row]:
    line = f"{{:<{max(len(name) for name, _ in CHECKS)}}}  {{:<7}}  {{:>6}}  {{}}"
    print(line.format("check", "verdict", "ms", title))
    shown = []
    for row in rows:
        print(line.format(row.check, row.verdict, f"{row.ms:.0f}", row.seen), flush=True)
        shown.append(row)
    print(_summary(shown))
    return shown


def _as_json(rows: Iterator[Row], _: str) -> list[Row]:
    shown = list(rows)
    print(json.dumps([asdict(row) for row in shown], indent=2))
    return shown


def _summary(rows: Sequence[Row]) -> str:
    """Those that were skipped are not counted."""
    count = Counter(row.verdict for row in rows)
    verdict = f"{count['fail']} off" if count["fail"] else "all as they should be"
    also = ", ".join(f"{count[each]} {each}" for each in ("warning", "skipped") if count[each])
    return f"{len(rows) - count['skipped']} checks, {verdict}" + (f" ({also})" if also else "")


# -- the command line --------------------------------------------------------------------------


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="serve_hathora.py check",
        description="Ask a running server what its clients ask of it. Exit code 0: all is as it "
        "should be; 1: something is off.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--base-url", type=_base_url, metavar="URL", help="default: http://localhost:PORT")
    add("--api-key", metavar="KEY", help="default: the first of API_KEY")
    add("--model", metavar="NAME", help="default: the first that is listed")
    add("--timeout", type=_seconds, default=60.0, metavar="S", help="per answer; default: 60")
    add("--json", action="store_true", help="print the rows as a JSON list")
    given = parser.parse_args(argv)
    try:
        own = load({}).settings
    except ConfigError as error:  # it says nothing about the server
        print(f"the settings here are not used: {error}", file=sys.stderr)
        own = load({}, {}).settings
    if given.base_url is None:
        given.base_url = _base_url(f"localhost:{own.port or 8000}")
    if given.api_key is None and own.api_key:
        given.api_key = own.api_key[0].get_secret_value()
    if given.api_key and not given.api_key.isprintable():  # httpx would refuse it, and quote it
        parser.error("the API key has characters that no header can carry")
    return given


def _base_url(text: str) -> httpx.URL:
    """With or without a scheme, /v1 and a slash at its end."""
    try:
        url = httpx.URL(text if "://" in text else f"http://{text}")
    except httpx.InvalidURL:
        url = httpx.URL("")
    known = url.scheme in ("http", "https") and url.host and (url.port or 0) < 65536
    if not known or url.userinfo or url.query:
        raise argparse.ArgumentTypeError("must be http(s)://host[:port][/path]")
    return url.copy_with(path=url.path.rstrip("/").removesuffix("/v1") or "/", fragment=None)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError("must be more than 0 and at most 86400")
    return seconds
