"""Drives one load at a server with SGLang's own load clients, and measures the server meanwhile.

Plain streams come from the client in Rust (`bench_serving --rust-client`), which leaves the
processors to the servers. It sends no tools and no log-probabilities: these loads come from
`sglang.benchmark.serving`, imported once, whose `benchmark()` is called for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench import models, sessions
from bench.load import Load
from bench.servers import BenchError, Server
from bench.setup import MODEL_NAME

_BACKEND = "sglang-oai-chat"
_PATH = "/v1/chat/completions"
_ANSWER_WITHIN_S = 300


def run(load: Load, server: Server, model: Path, *, seed: int) -> dict[str, float] | None:
    """Return the figures of one load; None: the server does not have its API. Raises BenchError
    unless every answer was complete."""
    if load.is_sessions:
        return _run_sessions(load, server, model, seed=seed)
    _check_answer(load, server, model, seed=seed + 1)
    if load.has_floor:
        meter, results = _drive_in_rust(load, server, model, seed=seed)
    else:
        meter = _Meter(server)
        results = _drive(load, server, model, meter, seed=seed)
    failed = [error for error in results["errors"] if error]
    if failed or results["completed"] != load.requests:
        raise BenchError(
            f"{server.name}, load {load.name}: {results['completed']} of {load.requests} requests "
            f"succeeded: {failed[:1]}\n{server.last_lines()}"
        )
    tokens = results["total_output_tokens"]
    if load.answers != "call" and tokens != load.requests * load.output_tokens:
        raise BenchError(
            f"{server.name}, load {load.name}: {tokens} tokens are not all that were asked for"
        )
    figures = _costs(load, server, meter, tokens)
    if load.answers == "call":  # the client reads text only, so it saw no first token
        return figures
    if not load.stream:
        return figures | {
            "latency_p50_ms": results["median_e2e_latency_ms"],
            "latency_p99_ms": results["p99_e2e_latency_ms"],
        }
    return figures | {
        "ttft_p50_ms": results["median_ttft_ms"],
        "ttft_p99_ms": results["p99_ttft_ms"],
        "itl_p50_ms": results["median_itl_ms"],
        "itl_p99_ms": results["p99_itl_ms"],
    }


def _costs(load: Load, server: Server, meter: _Meter, tokens: int) -> dict[str, float]:
    resident, unshared = server.tree_memory_bytes()
    return {
        "tokens": tokens,
        "cpu_us_per_token": meter.serving_s / tokens * 1e6,
        "text_cpu_us_per_token": meter.text_s / tokens * 1e6,
        "tree_cpu_us_per_token": meter.tree_s / tokens * 1e6,
        "cpu_ms_per_request": meter.serving_s / load.requests * 1e3,
        "tokens_per_s": tokens / meter.wall_s,
        "rss_mb": server.serving_rss_bytes() / 1e6,
        "tree_rss_mb": resident / 1e6,
        "tree_unshared_mb": unshared / 1e6,
    }


def _run_sessions(load: Load, server: Server, model: Path, *, seed: int) -> dict[str, float] | None:
    if not sessions.is_served(load, server):
        return None
    sessions.drive(load, server, model, seed=seed + 1_000_000, sessions=1)  # the warm-up
    meter = _Meter(server)
    meter.begin()
    driven = sessions.drive(load, server, model, seed=seed, sessions=load.streams)
    meter.end()
    if len(driven.answers) != load.requests:
        raise BenchError(f"{server.name}, load {load.name}: {len(driven.answers)} answers")
    tokens = sum(answer.tokens for answer in driven.answers)
    return _costs(load, server, meter, tokens) | driven.figures()


class _Meter:
    """The processor time that the server uses, and the time that passes."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.serving_s = self.text_s = self.tree_s = self.wall_s = 0.0

    def begin(self) -> None:
        self._add(-1)
        self.wall_s -= time.monotonic()

    def end(self) -> None:
        self.wall_s += time.monotonic()
        self._add(1)

    def _add(self, sign: int) -> None:
        self.serving_s += sign * self._server.serving_cpu_s()
        self.text_s += sign * self._server.text_cpu_s()
        self.tree_s += sign * self._server.tree_cpu_s()


def _drive_in_rust(
    load: Load, server: Server, model: Path, *, seed: int
) -> tuple[_Meter, dict[str, Any]]:
    _rust_client(load, server, model, requests=load.streams, seed=seed + 2)  # the warm-up
    meter = _Meter(server)
    meter.begin()
    results = _rust_client(load, server, model, requests=load.requests, seed=seed + 3)
    meter.end()
    # The client reads its tokenizer and makes its prompts before it sends the first.
    meter.wall_s = results["duration"]
    return meter, results


def _rust_client(
    load: Load, server: Server, model: Path, *, requests: int, seed: int
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "results.jsonl")
        options = {
            "backend": _BACKEND, "base-url": server.url, "model": MODEL_NAME,
            "tokenizer": str(model), "dataset-name": "random-ids", "num-prompts": requests,
            "random-input-len": load.input_tokens, "random-output-len": load.output_tokens,
            "random-range-ratio": 1.0, "max-concurrency": load.streams, "warmup-requests": 0,
            "seed": seed, "output-file": str(file), "worker-threads": 1,
            "extra-request-body": json.dumps(_body(load)),
        }  # fmt: skip
        command = [
            sys.executable, "-m", "sglang.benchmark.rust_client", "--disable-tqdm",
            "--disable-retokenize", "--output-details",
            *(f"--{name}={value}" for name, value in options.items()),
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_ANSWER_WITHIN_S, check=False
        )
        if done.returncode or not file.exists():
            raise BenchError(f"the load client failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        results: dict[str, Any] = json.loads(file.read_text().splitlines()[-1])
        return results


class _Counted:
    """Meters from the first request after the warm-up to the end of the last.

    Wraps the client's function for one request, because its `benchmark()` also warms up, sleeps
    and fetches the server's options.
    """

    def __init__(self, meter: _Meter, *, requests: int, warm_up: int) -> None:
        self._meter, self._warm_up, self._all = meter, warm_up, warm_up + requests
        self._begun = self._ended = 0

    async def request(self, **arguments: Any) -> Any:
        from sglang.benchmark import serving

        if self._begun == self._warm_up:
            self._meter.begin()
        self._begun += 1
        answer = await serving.async_request_openai_chat_completions(**arguments)
        self._ended += 1
        if self._ended == self._all:
            self._meter.end()
        return answer


def _drive(load: Load, server: Server, model: Path, meter: _Meter, *, seed: int) -> dict[str, Any]:
    from sglang.benchmark import serving
    from sglang.benchmark.datasets import DatasetRow

    texts = models.prompts(model, load.requests, load.input_tokens, seed=seed)
    rows = [
        DatasetRow(prompt=text, prompt_len=load.input_tokens, output_len=load.output_tokens)
        for text in texts
    ]
    # The client's command line arguments; it reads some of them from a global.
    serving.set_global_args(
        SimpleNamespace(
            backend=_BACKEND, dataset_name="random-ids", disable_stream=not load.stream,
            disable_ignore_eos=False, header=None, plot_throughput=False, goodput=None,
            cache_report=False, output_file=os.devnull, output_details=False,
            warmup_requests=load.streams, sharegpt_output_len=None,
            random_input_len=load.input_tokens, random_output_len=load.output_tokens,
            random_range_ratio=1.0,
        )
    )  # fmt: skip
    counted = _Counted(meter, requests=load.requests, warm_up=load.streams)
    serving.ASYNC_REQUEST_FUNCS[_BACKEND] = counted.request
    with contextlib.redirect_stdout(io.StringIO()):
        results: dict[str, Any] = asyncio.run(
            serving.benchmark(
                backend=_BACKEND, api_url=server.url + _PATH, base_url=server.url,
                model_id=MODEL_NAME, tokenizer=_tokenizer(model), input_requests=rows,
                request_rate=float("inf"), max_concurrency=load.streams, disable_tqdm=True,
                lora_names=[], lora_request_distribution=None, lora_zipf_alpha=None,
                extra_request_body=_body(load), profile=False, warmup_requests=load.streams,
            )
        )  # fmt: skip
    return results


def _body(load: Load) -> dict[str, Any]:
    """The request's extra fields. The server counts the tokens, so streams must carry the usage."""
    usage = {"stream_options": {"include_usage": True}} if load.stream else {}
    return usage | dict(load.body)


@functools.cache
def _tokenizer(model: Path) -> Any:
    from sglang.benchmark.utils import get_tokenizer

    return get_tokenizer(str(model))


def _check_answer(load: Load, server: Server, model: Path, *, seed: int) -> None:
    """Send one request of the load and check that its answer is of the right kind."""
    (text,) = models.prompts(model, 1, load.input_tokens, seed=seed)
    body = {
        "model": MODEL_NAME, "messages": [{"role": "user", "content": text}], "temperature": 0.0,
        "max_completion_tokens": load.output_tokens, "ignore_eos": True, **load.body,
    }  # fmt: skip
    answer = server.http.post(_PATH, json=body, timeout=_ANSWER_WITHIN_S)
    if answer.status_code != 200:
        raise BenchError(f"{server.name}, load {load.name}: {answer.text}\n{server.last_lines()}")
    choice = answer.json()["choices"][0]
    message = choice["message"]
    match load.answers:
        case "text":
            right = len(message["content"]) >= load.output_tokens
        case "call":
            (called,) = message["tool_calls"] or [None]
            right = called is not None and bool(json.loads(called["function"]["arguments"]))
        case "logprobs":
            scored = choice["logprobs"]["content"]
            right = len(scored) == load.output_tokens and len(scored[-1]["top_logprobs"]) == 5
    if not right:
        raise BenchError(f"{server.name}, load {load.name}: unexpected answer {answer.text[:500]}")
