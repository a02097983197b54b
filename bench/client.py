"""Drives one load at a server with SGLang's own load client, and measures the server meanwhile.

The client is `sglang.benchmark.serving` (what `python -m sglang.bench_serving` runs). It is
imported once, and its `benchmark()` called for each load.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench import models
from bench.load import Load
from bench.servers import BenchError, Server
from bench.setup import MODEL_NAME

_BACKEND = "sglang-oai-chat"
_PATH = "/v1/chat/completions"
_ANSWER_WITHIN_S = 300


def run(load: Load, server: Server, model: Path, *, seed: int) -> dict[str, float]:
    """Return the figures of one load. Raises BenchError unless every answer was complete."""
    _check_answer(load, server, model, seed=seed + 1)
    meter = _Meter(server, requests=load.requests, warm_up=load.streams)
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
    figures = {
        "tokens": tokens,
        "cpu_us_per_token": meter.cpu_s / tokens * 1e6,
        "cpu_ms_per_request": meter.cpu_s / load.requests * 1e3,
        "tokens_per_s": tokens / meter.wall_s,
        "rss_mb": server.serving_rss_bytes() / 1e6,
    }
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


class _Meter:
    """The server's processor time from the first request after the warm-up to the end of the last.

    Wraps the client's function for one request, because its `benchmark()` also warms up, sleeps
    and fetches the server's options.
    """

    def __init__(self, server: Server, *, requests: int, warm_up: int) -> None:
        self._server, self.warm_up, self._all = server, warm_up, warm_up + requests
        self._begun = self._ended = 0
        self.cpu_s = self.wall_s = 0.0

    async def request(self, **arguments: Any) -> Any:
        from sglang.benchmark import serving

        if self._begun == self.warm_up:
            self.cpu_s = -self._server.serving_cpu_s()
            self.wall_s = -time.monotonic()
        self._begun += 1
        answer = await serving.async_request_openai_chat_completions(**arguments)
        self._ended += 1
        if self._ended == self._all:
            self.wall_s += time.monotonic()
            self.cpu_s += self._server.serving_cpu_s()
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
            warmup_requests=meter.warm_up, sharegpt_output_len=None,
            random_input_len=load.input_tokens, random_output_len=load.output_tokens,
            random_range_ratio=1.0,
        )
    )  # fmt: skip
    serving.ASYNC_REQUEST_FUNCS[_BACKEND] = meter.request
    with contextlib.redirect_stdout(io.StringIO()):
        results: dict[str, Any] = asyncio.run(
            serving.benchmark(
                backend=_BACKEND, api_url=server.url + _PATH, base_url=server.url,
                model_id=MODEL_NAME, tokenizer=_tokenizer(model), input_requests=rows,
                request_rate=float("inf"), max_concurrency=load.streams, disable_tqdm=True,
                lora_names=[], lora_request_distribution=None, lora_zipf_alpha=None,
                extra_request_body=_body(load), profile=False, warmup_requests=meter.warm_up,
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
