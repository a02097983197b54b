"""`serve_hathora.py bench`: how fast a running server answers, with more and more streams.

    main ─> ladder (SGLang's load client in Rust, once for each rung) ─> a table, and a picture

The client is the one of `sglang.bench_serving --rust-client`: it leaves the processors to a server
on the same machine. Prompts are random tokens, so no cache of prefixes helps; every answer is as
long as was asked for.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from app.check import target
from app.check.picture import Curve, svg
from app.check.relay import relayed
from app.settings.command_line import Parser

_CLIENT = """
import sys
from sglang.benchmark.rust_client import EXTENSION_MODULE
from sglang.srt.rust_extensions import load_rust_extension
load_rust_extension(EXTENSION_MODULE).run_config(sys.stdin.read())
"""
_STREAMS = (1, 4, 16, 64)
_ROUNDS = 3
"""Requests for each stream."""
_SECONDS = 900


class Rung(NamedTuple):
    streams: int
    requests_per_s: float
    tokens_per_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    itl_p50_ms: float
    itl_p99_ms: float


class LoadFailed(Exception):
    """`str()` is the one line that the user reads."""


def main(argv: Sequence[str]) -> int:
    """0; 1: no server answers, or a request failed. Raises ConfigError for wrong usage."""
    options = target.parsed(parser_of(), argv)
    if importlib.util.find_spec("sglang") is None:
        print("bench: SGLang is not installed here, whose load client is used", file=sys.stderr)
        return 1
    try:
        with target.client_of(options) as client:
            model, tokenizer = _found(client, options.model, options.tokenizer)
        with relayed(options) as address:
            rungs = list(_shown(_ladder(options, address, model, tokenizer), options))
        if not options.json and (picture := _picture(rungs, options)) is not None:
            options.svg.write_text(picture)
            print(f"the picture: {options.svg}")
    except (LoadFailed, httpx.HTTPError, OSError, subprocess.TimeoutExpired) as error:
        print(f"bench: {error}"[:500], file=sys.stderr)
        return 1
    return 0


def parser_of() -> Parser:
    assert __doc__ is not None
    parser = Parser(prog="serve-hathora bench", description=__doc__.splitlines()[0])
    target.add_arguments(parser)
    parser.add_argument(
        "--streams", type=_numbers, default=_STREAMS, metavar="N,N", help="default: 1,4,16,64"
    )
    parser.add_argument("--input-tokens", type=_number, default=256, help="default: 256")
    parser.add_argument("--output-tokens", type=_number, default=128, help="default: 128")
    parser.add_argument(
        "--tokenizer", help="folder or name on the hub. Default: what /model_info says"
    )
    parser.add_argument(
        "--svg", type=Path, default=Path("bench.svg"), help="the picture; default: bench.svg"
    )
    parser.add_argument("--seed", type=int, default=1)
    return parser


def _number(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 100000")
    return int(text)


def _numbers(text: str) -> list[int]:
    return sorted({_number(each) for each in text.split(",")})


def _found(client: httpx.Client, model: str | None, tokenizer: str | None) -> tuple[str, str]:
    """The model to ask for, and its tokenizer. Raises LoadFailed."""
    if model is None:
        answer = client.get("/v1/models")
        try:
            model = str(answer.json()["data"][0]["id"])
        except (ValueError, LookupError, TypeError):
            raise LoadFailed(
                f"/v1/models names no model ({answer.status_code}: {answer.text[:200]!r})"
            ) from None
    if tokenizer is None:
        answer = client.get("/model_info")
        known = answer.json() if answer.status_code == 200 else {}
        tokenizer = str(known.get("tokenizer_path") or known.get("model_path") or model)
    return model, tokenizer


def _ladder(
    options: argparse.Namespace, address: str, model: str, tokenizer: str
) -> Iterator[Rung]:
    """`address`: at which the load client asks."""
    asked = (options, address, model, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        for no, streams in enumerate(options.streams):
            results = Path(folder, f"{streams}.jsonl")
            # The first requests of a shape are slower: kernels, caches.
            _run(*asked, streams, streams, results, seed=options.seed + 2 * no)
            results.unlink()
            requests = streams * _ROUNDS
            _run(*asked, streams, requests, results, options.seed + 2 * no + 1)
            yield _rung(streams, requests, json.loads(results.read_text().splitlines()[-1]))


def _run(
    options: argparse.Namespace,
    address: str,
    model: str,
    tokenizer: str,
    streams: int,
    requests: int,
    results: Path,
    seed: int,
) -> None:
    config = {
        "backend": "sglang-oai-chat", "base_url": address,
        "model": model, "tokenizer": tokenizer, "dataset_name": "random-ids",
        "num_prompts": requests, "max_concurrency": streams, "warmup_requests": 0,
        "random_input_len": options.input_tokens, "random_output_len": options.output_tokens,
        "random_range_ratio": 1.0, "output_file": str(results), "seed": seed,
        "extra_request_body": json.dumps({"stream_options": {"include_usage": True}}),
        "request_rate": "inf", "disable_tqdm": True, "output_details": True,
        "headers": [f"authorization: Bearer {options.api_key}"] if options.api_key else [],
    }  # fmt: skip
    # The key is not on its command line, which every user of the machine can read.
    done = subprocess.run(
        [sys.executable, "-c", _CLIENT], input=json.dumps(config), capture_output=True, text=True,
        timeout=_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode or not results.exists():
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise LoadFailed(f"the load client failed: {last[:300]}")


def _rung(streams: int, requests: int, results: dict[str, Any]) -> Rung:
    def of(name: str) -> float:
        return float(results[name])

    if results["completed"] != requests:
        errors = [each for each in results.get("errors", ()) if each]
        raise LoadFailed(
            f"{results['completed']} of {requests} requests succeeded at {streams} streams: "
            f"{str(errors[:1])[:300]}"
        )
    return Rung(
        streams,
        requests / of("duration"),
        of("total_output_tokens") / of("duration"),
        of("median_ttft_ms"),
        of("p99_ttft_ms"),
        of("median_itl_ms"),
        of("p99_itl_ms"),
    )


def _shown(rungs: Iterator[Rung], options: argparse.Namespace) -> Iterator[Rung]:
    """Each as soon as it is known."""
    line = "{:>7}  {:>10}  {:>8}  {:>9}  {:>9}  {:>8}  {:>8}"
    if not options.json:
        print(line.format("streams", "requests/s", "tokens/s", "TTFT p50", "p99, ms", "ITL p50",
                          "p99, ms"))  # fmt: skip
    for rung in rungs:
        if options.json:
            print(json.dumps(rung._asdict()), flush=True)
        else:
            streams, *values = rung
            print(line.format(streams, *(f"{value:.4g}" for value in values)), flush=True)
        yield rung


def _picture(rungs: Sequence[Rung], options: argparse.Namespace) -> str | None:
    """None if there is nothing to show. An answer in one piece has nothing between its pieces."""
    curves = []
    for name, title in (
        ("ttft_p50_ms", "TTFT p50"), ("ttft_p99_ms", "TTFT p99"),
        ("itl_p50_ms", "ITL p50"), ("itl_p99_ms", "ITL p99"),
    ):  # fmt: skip
        points = [(float(rung.streams), float(getattr(rung, name))) for rung in rungs]
        if shown := [(x, y) for x, y in points if y > 0]:
            curves.append(Curve(title, [x for x, _ in shown], [y for _, y in shown]))
    if not curves:
        return None
    title = f"{options.base_url}: {options.input_tokens} tokens in, {options.output_tokens} out"
    return svg(title, "streams at a time", "ms", curves)
