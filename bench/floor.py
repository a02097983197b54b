"""The floor: the same load at the engine alone, `Engine.async_generate` in-process, no HTTP.

What this process costs is SGLang's own part of serving (its TokenizerManager): no server on top of
it can cost less. A process of its own, run by bench/compare.py:

    python -m bench.floor tiny|demo ENGINE_OPTIONS_JSON LOAD...

prints one JSON line for each load.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench import models
from bench.load import Load, chosen

_SEED = 7


def figures(
    model: Path, options: Mapping[str, Any], loads: Sequence[Load]
) -> Iterator[tuple[str, dict[str, float]]]:
    from sglang.srt.entrypoints.engine import Engine
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    engine = Engine(
        model_path=str(model), incremental_streaming_output=True, log_level="info", **options
    )

    def prompts(count: int, load: Load, seed: int) -> list[list[int]]:
        texts = models.prompts(model, count, load.input_tokens, seed=seed)
        return [tokenizer.encode(text).ids for text in texts]

    try:
        for number, load in enumerate(loads):
            warm_up = prompts(min(load.streams, 16), load, _SEED + 2 * number)
            engine.loop.run_until_complete(_drive(engine, load, warm_up))
            measured = prompts(load.requests, load, _SEED + 2 * number + 1)
            yield load.name, engine.loop.run_until_complete(_drive(engine, load, measured))
    finally:
        engine.shutdown()


async def _drive(engine: Any, load: Load, prompts: list[list[int]]) -> dict[str, float]:
    sampling = {"temperature": 0.0, "max_new_tokens": load.output_tokens, "ignore_eos": True}
    turn, ttfts_s = asyncio.Semaphore(load.streams), []

    async def one(prompt: list[int]) -> int:
        async with turn:
            began, tokens = time.monotonic(), 0
            stream = await engine.async_generate(
                input_ids=prompt, sampling_params=sampling, stream=True
            )
            async for piece in stream:
                if not tokens:
                    ttfts_s.append(time.monotonic() - began)
                tokens = piece["meta_info"]["completion_tokens"]
            return int(tokens)

    cpu_s, wall_s = time.process_time(), time.monotonic()
    counts = await asyncio.gather(*(one(prompt) for prompt in prompts))
    cpu_s, wall_s = time.process_time() - cpu_s, time.monotonic() - wall_s
    if set(counts) != {load.output_tokens}:
        raise ValueError(f"load {load.name}: {sum(counts)} tokens are not all that were asked for")
    p50_s, p99_s = np.percentile(ttfts_s, (50, 99))
    return {
        "tokens": sum(counts),
        "cpu_us_per_token": cpu_s / sum(counts) * 1e6,
        "cpu_ms_per_request": cpu_s / len(counts) * 1e3,
        "tokens_per_s": sum(counts) / wall_s,
        "ttft_p50_ms": p50_s * 1e3,
        "ttft_p99_ms": p99_s * 1e3,
        "rss_mb": psutil.Process().memory_info().rss / 1e6,
    }


def main(argv: Sequence[str]) -> None:
    kind, options, *names = argv
    model, loads = models.find(kind), chosen(kind, names)
    # SGLang and its processes write to stdout, so the figures go to a copy of it.
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        for name, measured in figures(model, json.loads(options), loads):
            print(json.dumps([name, measured]), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
